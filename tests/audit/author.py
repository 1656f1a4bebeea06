"""A student who works a network by hand: plain arithmetic on printed numbers, no graph, and slips where told to.

Independent of what it tests: forward pass, backward pass and update are written out here once more, in floats. Each
line is computed from the numbers as they were printed above it, so that a slip is carried forward as on paper.
"""

import math
import random
from dataclasses import dataclass

from backlit.audit.networks import layout

FORWARD = {
    "sigmoid": lambda z: 1 / (1 + math.exp(-z)),
    "tanh": math.tanh,
    "relu": lambda z: max(z, 0.0),
    "softplus": lambda z: math.log1p(math.exp(z)),
}
SLOPE = {
    "sigmoid": lambda z, a: a * (1 - a),
    "tanh": lambda z, a: 1 - a * a,
    "relu": lambda z, a: float(z > 0),
    "softplus": lambda z, a: FORWARD["sigmoid"](z),
}
WRONG_POINT = {"sigmoid": lambda z, a: z * (1 - z), "tanh": lambda z, a: 1 - z * z}


@dataclass
class Line:
    """A line of the sheet: the quantity, how to compute it from the numbers above, and the slips that may be made."""

    quantity: str
    right: object
    slips: dict


@dataclass
class Work:
    """A sheet as handed in: its text, and (line number, quantity, rule) of the slips that were made."""

    text: str
    slips: list


def network(rng, shape, activation, loss):
    """The lines of a sheet, in order, and its givens."""
    plan = layout(shape, activation, loss)
    number = lambda low, high: round(rng.choice([-1, 1]) * rng.uniform(low, high), 2)  # noqa: E731
    weights = {w: number(0.1, 0.95) for layer in plan.weights for unit in layer for w in unit}
    biases = {b: number(0.05, 0.6) for layer in plan.biases for b in layer}
    inputs = {x: number(0.2, 1.0) for x in plan.inputs[0]}
    if loss == "crossentropy" and len(plan.targets) > 1:
        hot = rng.randrange(len(plan.targets))
        targets = {t: float(i == hot) for i, t in enumerate(plan.targets)}
    else:
        targets = {t: round(rng.uniform(0.05, 0.95), 2) for t in plan.targets}
    f, slope = FORWARD[activation], SLOPE[activation]
    lines = []

    def unit(z, names, into, bias):
        def total(v, skip=None, other_bias=None, without_bias=False, flip=None, swap=None):
            s = 0.0
            for k, (w, x) in enumerate(zip(names, into, strict=True)):
                if k == skip:
                    continue
                w = swap if swap and k == 0 else w
                s += (-1 if k == flip else 1) * v[w] * v[x]
            return s + (0.0 if without_bias else v[other_bias or bias])

        slips = {"bias-left-out": lambda v: total(v, without_bias=True)}
        others = [b for b in biases if b != bias]
        if others:
            b = rng.choice(others)
            slips["another-bias"] = lambda v: total(v, other_bias=b)
        k = rng.randrange(len(names))
        if len(names) > 1:
            slips["term-left-out"] = lambda v: total(v, skip=k)
        slips["sign-flipped"] = lambda v: total(v, flip=k)
        swap = rng.choice([w for w in weights if w != names[0]])
        slips["another-weight"] = lambda v: total(v, swap=swap)
        lines.append(Line(z, total, slips))

    hidden = 0
    activations = []
    for depth, (layer, bias, sums) in enumerate(zip(plan.weights, plan.biases, plan.sums, strict=True)):
        last = depth == len(plan.weights) - 1
        outs = []
        for j, z in enumerate(sums):
            unit(z, layer[j], plan.inputs[depth], bias[j])
            if last and loss == "crossentropy" and len(sums) > 1:
                outs.append(plan.outputs[j])
                continue
            name = plan.outputs[j] if last else f"a{(hidden := hidden + 1)}"
            g = FORWARD["sigmoid"] if last and loss == "crossentropy" else f
            own = "sigmoid" if last and loss == "crossentropy" else activation
            slips = {"pre-activation": lambda v, z=z: v[z]}
            for other in FORWARD:
                if other != own:
                    slips["another-activation"] = lambda v, z=z, other=other: FORWARD[other](v[z])
            lines.append(Line(name, lambda v, z=z, g=g: g(v[z]), slips))
            outs.append(name)
        activations.append(outs)
    if loss == "crossentropy" and len(plan.outputs) > 1:
        for y, z in zip(plan.outputs, plan.sums[-1], strict=True):
            lines.append(Line(y, lambda v, z=z: math.exp(v[z]) / sum(math.exp(v[k]) for k in plan.sums[-1]), {}))

    def error(v):
        pairs = [(v[y], v[t]) for y, t in zip(plan.outputs, plan.targets, strict=True)]
        if loss == "crossentropy":
            if len(pairs) == 1:
                y, t = pairs[0]
                return -(t * math.log(y) + (1 - t) * math.log(1 - y))
            return -sum(t * math.log(y) for y, t in pairs)
        s = sum((y - t) ** 2 for y, t in pairs)
        return s / 2 if loss == "half-mse" else s / len(pairs) if loss == "mse" else s

    lines.append(Line("E", error, {} if loss == "crossentropy" else {"half-or-two": lambda v: 2 * error(v)}))

    # the way back: dE/dz of each unit, from the last layer to the first
    factor = {"half-mse": 1.0, "mse": 2.0 / len(plan.outputs), "sse": 2.0}.get(loss)
    for depth in reversed(range(len(plan.weights))):
        for j, z in enumerate(plan.sums[depth]):
            if depth == len(plan.weights) - 1:
                y, t = plan.outputs[j], plan.targets[j]
                if loss == "crossentropy":
                    right = lambda v, y=y, t=t: v[y] - v[t]  # noqa: E731
                    slips = {"sign-flipped": lambda v, y=y, t=t: v[t] - v[y]}
                else:
                    right = lambda v, y=y, t=t, z=z: factor * (v[y] - v[t]) * slope(v[z], v[y])  # noqa: E731
                    slips = {
                        "derivative-left-out": lambda v, y=y, t=t: factor * (v[y] - v[t]),
                        "sign-flipped": lambda v, y=y, t=t, z=z: factor * (v[t] - v[y]) * slope(v[z], v[y]),
                        "half-or-two": lambda v, y=y, t=t, z=z: 2 * factor * (v[y] - v[t]) * slope(v[z], v[y]),
                        "another-derivative": lambda v, y=y, t=t, z=z: (
                            factor * (v[y] - v[t]) * SLOPE["tanh" if activation != "tanh" else "sigmoid"](v[z], v[y])
                        ),
                    }
            else:
                a = activations[depth][j]
                ways = [(plan.weights[depth + 1][k][j], after) for k, after in enumerate(plan.sums[depth + 1])]

                def back(v, a=a, z=z, ways=ways, skip=None, bare=None, derivative=slope):
                    s = 0.0
                    for k, (w, after) in enumerate(ways):
                        if k != skip:
                            s += v[f"dE/d{after}"] * (1.0 if k == bare else v[w])
                    return s * derivative(v[z], v[a])

                right = back
                k = rng.randrange(len(ways))
                slips = {
                    "derivative-left-out": lambda v, back=back: back(v, derivative=lambda z, a: 1.0),
                    "weight-left-out": lambda v, back=back, k=k: back(v, bare=k),
                }
                if len(ways) > 1:
                    slips["path-left-out"] = lambda v, back=back, k=k: back(v, skip=k)
                if activation in WRONG_POINT:
                    at_z = WRONG_POINT[activation]
                    slips["derivative-wrong-point"] = lambda v, back=back, at_z=at_z: back(v, derivative=at_z)
            lines.append(Line(f"dE/d{z}", right, slips))
    rate = rng.choice([0.1, 0.2, 0.5])
    for depth in reversed(range(len(plan.weights))):
        for j, z in enumerate(plan.sums[depth]):
            for w, x in zip(plan.weights[depth][j], plan.inputs[depth], strict=True):
                others = [o for o in plan.inputs[depth] if o != x]
                slips = {"input-left-out": lambda v, z=z: v[f"dE/d{z}"]}
                if others:
                    o = rng.choice(others)
                    slips["another-quantity"] = lambda v, z=z, o=o: v[f"dE/d{z}"] * v[o]
                lines.append(Line(f"dE/d{w}", lambda v, z=z, x=x: v[f"dE/d{z}"] * v[x], slips))
                slips = {
                    "gradient-added": lambda v, w=w: v[w] + rate * v[f"dE/d{w}"],
                    "rate-left-out": lambda v, w=w: v[w] - v[f"dE/d{w}"],
                    "rate-twice": lambda v, w=w: v[w] - rate**2 * v[f"dE/d{w}"],
                    "step-alone": lambda v, w=w: -rate * v[f"dE/d{w}"],
                }
                lines.append(Line(f"{w}'", lambda v, w=w: v[w] - rate * v[f"dE/d{w}"], slips))

    def said(word, values):
        return f"{word} " + ", ".join(f"{k} = {v:g}" for k, v in values.items())

    head = [said("given", inputs), said("given", targets), said("param", weights), said("param", biases)]
    head += plan.definitions
    return head, lines, {**inputs, **targets, **weights, **biases}, rate


def visible(wrong, right, digits):
    """Whether a slip shows: it is off by more than five units of the last digit, and not by less than a thousandth."""
    return math.isfinite(wrong) and abs(wrong - right) > 5 * 10.0**-digits and abs(wrong - right) > 2e-3 * abs(right)


def work(seed, shape, activation, loss, digits, slips):
    """One sheet worked by hand to so many decimals, with so many slips; None where none of them would show."""
    try:
        rng = random.Random(f"{seed} {shape} {activation} {loss} {digits} {slips}")
        return _work(rng, shape, activation, loss, digits, slips)
    except ValueError:  # the logarithm of a probability that was rounded to 0
        return None


def _work(rng, shape, activation, loss, digits, slips):
    head, lines, values, rate = network(rng, shape, activation, loss)
    kinds = sorted({rule for line in lines for rule in line.slips})
    chosen = {}
    for rule in rng.sample(kinds, min(slips, len(kinds))):  # every kind of slip is as likely as any other
        places = [i for i, line in enumerate(lines) if rule in line.slips and i not in chosen]
        chosen[rng.choice(places)] = rule
    text, made = [*head], []
    for i, line in enumerate(lines):
        number = line.right(values)
        if i in chosen:
            wrong = line.slips[chosen[i]](values)
            if not visible(wrong, number, digits):
                return None
            made.append((line.quantity, chosen[i]))
            number = wrong
        shown = f"{number:.{digits}f}"
        values[line.quantity] = float(shown)
        text.append(f"{line.quantity} = {shown}")
    body = "\n".join([*text, f"step E, lr = {rate:g}"])
    return Work(f"```worksheet\n{body}\n```\n", made)
