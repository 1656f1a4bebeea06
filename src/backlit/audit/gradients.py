"""`bl.check_gradient`: gradients that someone's own code produced, against the true ones; and which bug gives them.

A bug in a backward pass shows in several gradients at once. So an edit of the shared gradient graph counts as its
explanation only if it reproduces all of them together, the right ones included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from backlit.audit.bench import Bench
from backlit.audit.descent import Reading, descend, passed_through
from backlit.audit.diagnosis import proposals
from backlit.audit.malrules import MalRule
from backlit.audit.program import Program, program
from backlit.audit.scene import Edit, Scene
from backlit.autodiff import zeros_if_none
from backlit.errors import GradientError, StructureError
from backlit.ir import Node, Type
from backlit.pytree import flatten
from backlit.tracing import Traced, input_node

Array = np.ndarray[Any, Any]
_PAIRED = 25
_FACTORS = {-1.0: "the sign is the wrong way round", 2.0: "a 2 is added, or a half is lost"}
_FACTORS[0.5] = "a half is added, or a 2 is lost"


@dataclass(frozen=True, slots=True)
class LeafFinding:
    """One gradient: its param's path, whether it is right, its relative error |theirs - true| / |true| (2-norms), and
    what is wrong with its form, if something is.
    """

    path: str
    right: bool
    error: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Bug:
    """A bug that reproduces the gradients: the mal-rule, a sentence, the paths of the wrong gradients it explains, and
    the learning rate, where weights were updated too early.
    """

    rule: str
    text: str
    explains: tuple[str, ...]
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class GradientReport:
    """What was found: every gradient, and the bugs that give the wrong ones, most ordinary first."""

    leaves: tuple[LeafFinding, ...]
    bugs: tuple[Bug, ...]

    @property
    def ok(self) -> bool:
        """Whether every gradient is right."""
        return all(leaf.right for leaf in self.leaves)

    def __str__(self) -> str:
        wrong = [leaf for leaf in self.leaves if not leaf.right]
        if not wrong:
            return f"✓ All {len(self.leaves)} gradients are right."
        lines = [f"✓ {len(self.leaves) - len(wrong)} of {len(self.leaves)} gradients are right."]
        for leaf in wrong:
            lines.append(f"✗ {leaf.path}: " + (leaf.note or f"off by {leaf.error:.3g} of its size"))
        for i, bug in enumerate(self.bugs):
            scope = "" if len(bug.explains) == len(wrong) else f" ({', '.join(bug.explains)})"
            lines.append(f"  {'or: ' if i else ''}this is what you get when {bug.text}{scope}")
        if not self.bugs:
            lines.append("  no bug that is known gives these numbers")
        return "\n".join(lines)


def check_gradient(
    loss: Callable[..., Any], params: Any, x: Any, y: Any, theirs: Any, tolerance: float | None = None
) -> GradientReport:
    """Check gradients that other code computed for `loss(params, x, y)`, and name the bug that gives the wrong ones.

    params     arrays: one, or a nested dict, list or tuple of them
    theirs     the gradients in the same structure: arrays, or anything that speaks dlpack (PyTorch tensors); None where
               the code gave none
    tolerance  the relative error, in the 2-norm of each array, that counts as right: 1e-6 by default, and 1e-3 where
               a gradient is in less than float64

    Raises GradientError where the loss is not one floating-point number, StructureError where `theirs` has other leaves
    than `params`.
    """
    found = program(loss, (params, x, y))
    _, paths, _ = flatten(params)
    given = _given(theirs, paths)
    leaves = found.graph.inputs[: len(paths)]
    if any(leaf.type.dtype.kind != "f" for leaf in leaves):
        raise GradientError("a param is not floating-point: it has no gradient")
    names = [path or "params" for path in paths]
    back = found.way_back(found.loss)
    targets = [zeros_if_none(back.arriving.get(leaf), leaf).node for leaf in leaves]
    scene = found.scene(targets)
    scene = replace(scene, gradients=dict(zip(found.paths, scene.targets, strict=False)))
    true = [np.asarray(scene.value(t)) for t in scene.targets]
    if tolerance is None:
        exact = all(g is None or g.dtype == np.float64 for g in given)
        tolerance = 1e-6 if exact else 1e-3
    scale = max(float(np.linalg.norm(t)) for t in true)
    judge = _Judge(tuple(names), tuple(given), tuple(true), tolerance, scale)
    findings = tuple(judge.finding(i) for i in range(len(names)))
    if all(f.right for f in findings):
        return GradientReport(findings, ())
    wrong = tuple(f.path for f in findings if not f.right)
    bugs = [*_forms(judge, findings), *_factors(judge, found, wrong)]
    if not bugs:
        bugs = list(_edits(judge, scene, wrong))
    if not bugs:
        bugs = list(_updated(judge, found, wrong))
    if not bugs:
        bugs = list(_apart(judge, scene, findings))
    return GradientReport(findings, tuple({b.text: b for b in bugs}.values())[:5])


def _given(theirs: Any, paths: Sequence[str]) -> list[Array | None]:
    """The gradients as arrays, in the order of the params."""
    if hasattr(theirs, "__dlpack__") or isinstance(theirs, (float, int)):
        leaves: dict[str, Any] = {"": theirs}
    else:
        leaves = dict(_leaves(theirs, ""))
    if set(leaves) != set(paths):
        missing, extra = sorted(set(paths) - set(leaves)), sorted(set(leaves) - set(paths))
        what = [f"none for {', '.join(missing)}"] if missing else []
        what += [f"some for {', '.join(extra)}, which is no param"] if extra else []
        raise StructureError(f"the gradients do not fit the params: there is {' and '.join(what)}")
    return [None if leaves[p] is None else _array(leaves[p], p) for p in paths]


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The leaves with the paths that params have; None is a leaf here."""
    if isinstance(tree, Mapping):
        for key, child in tree.items():
            plain = isinstance(key, str) and key.isidentifier()
            yield from _leaves(child, (f"{path}.{key}" if path else key) if plain else f"{path}[{key!r}]")
    elif isinstance(tree, (list, tuple)):
        names = getattr(tree, "_fields", None)
        for i, child in enumerate(tree):
            yield from _leaves(child, f"{path}.{names[i]}".lstrip(".") if names else f"{path}[{i}]")
    else:
        yield path, tree


def _array(value: Any, path: str) -> Array:
    if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack__"):
        array = np.asarray(value)
    else:
        value = value.detach() if hasattr(value, "detach") else value
        try:
            array = np.from_dlpack(value.cpu() if hasattr(value, "cpu") else value)
        except (BufferError, RuntimeError, TypeError) as e:
            raise StructureError(f"the gradient of {path} cannot be read: {e}", fix="pass it as an array") from None
    if array.dtype.kind not in "fiu":
        raise StructureError(f"the gradient of {path} holds {array.dtype}, not numbers")
    return array if array.dtype.kind == "f" else array.astype(np.float64)


@dataclass(frozen=True, slots=True)
class _Judge:
    """Compares gradients with theirs, leaf by leaf."""

    names: tuple[str, ...]
    theirs: tuple[Array | None, ...]
    true: tuple[Array, ...]
    tolerance: float
    scale: float

    def close(self, theirs: Array, value: Array) -> bool:
        if theirs.shape != value.shape or not np.all(np.isfinite(value)):
            return False
        size = max(float(np.linalg.norm(value)), 1e-9 * self.scale, 1e-300)
        return float(np.linalg.norm(theirs - value)) <= self.tolerance * size

    def same(self, i: int, value: Array) -> bool:
        theirs = self.theirs[i]
        return not np.any(value) if theirs is None else self.close(theirs, value)

    def finding(self, i: int) -> LeafFinding:
        theirs, true = self.theirs[i], self.true[i]
        right = self.same(i, true)
        if theirs is None:
            return LeafFinding(self.names[i], right, 0.0 if right else 1.0, "" if right else "no gradient is given")
        if theirs.shape != true.shape:
            note = f"it has the shape {theirs.shape}, and its param {true.shape}"
            return LeafFinding(self.names[i], False, float("nan"), note)
        note = "" if np.all(np.isfinite(theirs)) else "it is not finite"
        error = float(np.linalg.norm(theirs - true) / max(float(np.linalg.norm(true)), 1e-300))
        return LeafFinding(self.names[i], right, error, note)

    def all(self, values: Sequence[Array]) -> bool:
        return all(self.same(i, v) for i, v in enumerate(values))


def _forms(judge: _Judge, findings: Sequence[LeafFinding]) -> Iterator[Bug]:
    """Gradients whose shape tells: transposed, not summed over the batch."""
    for i, (theirs, true) in enumerate(zip(judge.theirs, judge.true, strict=True)):
        if theirs is None or findings[i].right:
            continue
        name = findings[i].path
        if theirs.ndim == true.ndim == 2 and judge.close(theirs.T, true):
            yield Bug("transposed", f"the gradient of {name} is transposed", (name,))
        elif theirs.shape[1:] == true.shape and theirs.ndim > true.ndim and judge.close(theirs.sum(0), true):
            yield Bug("batch-sum", f"the gradient of {name} is not summed over the batch", (name,))


def _factors(judge: _Judge, found: Program, wrong: tuple[str, ...]) -> Iterator[Bug]:
    """All gradients off by one factor."""
    pairs = [(t, g) for t, g in zip(judge.true, judge.theirs, strict=True) if g is not None and g.shape == t.shape]
    if len(pairs) < len(judge.true):
        return
    top = sum(float(np.vdot(t, g)) for t, g in pairs)
    bottom = sum(float(np.vdot(t, t)) for t, _ in pairs)
    c = top / bottom if bottom else 0.0
    if not c or not np.isfinite(c) or not judge.all([c * t for t in judge.true]):
        return
    near = 10 * judge.tolerance
    for factor, text in _FACTORS.items():
        if abs(c / factor - 1) < near:
            rule = "sign-flipped" if factor < 0 else "half-or-two"
            yield Bug(rule, text + " (every gradient is multiplied by " + f"{factor:g})", wrong)
    counts = {n.inputs[0].type.size // n.type.size for n in found.graph.nodes if n.op == "sum" and n.type.size}
    counts |= {a.shape[0] for a in found.arrays if a.ndim}
    for count in sorted(counts - {1}):
        if abs(c / count - 1) < near:
            yield Bug("sum-or-mean", f"the sum over {count} is taken for their mean", wrong)
        if abs(c * count - 1) < near:
            yield Bug("sum-or-mean", f"the mean of {count} is taken for their sum", wrong)
    if abs(c) not in (2.0, 0.5) and all(abs(c / f - 1) >= near for f in (*_FACTORS, *counts, *(1 / n for n in counts))):
        yield Bug("scaled", f"every gradient is multiplied by {c:.6g}", wrong)


def _edits(judge: _Judge, scene: Scene, wrong: tuple[str, ...]) -> Iterator[Bug]:
    """Bugs of the backward pass that reproduce all the gradients together; two of them at once, if no single one."""
    tried = _backward(scene)
    hits = [(rule, e) for rule, e in tried if judge.all(scene.results([e]))]
    for rule, e in sorted(hits, key=lambda h: -h[0].prior):
        yield Bug(rule.name, e.text, wrong)
    if not hits:
        some = [(r, e) for r, e in sorted(tried, key=lambda h: -h[0].prior) if _helps(judge, scene, e)]
        for (r, a), (s, b) in combinations(some[:_PAIRED], 2):
            if not a.nodes & b.nodes and judge.all(scene.results([a, b])):
                yield Bug(f"{r.name}+{s.name}", f"{a.text} and {b.text}", wrong)


def _backward(scene: Scene) -> list[tuple[MalRule, Edit]]:
    """The edits that concern the backward pass alone: a wrong forward pass would show in the loss."""
    return [
        (rule, e)
        for rule, e in proposals(scene)
        if all(node.origin is not None for node in e.nodes) and rule.name not in ("misread", "rounded-early")
    ]


def _helps(judge: _Judge, scene: Scene, e: Edit) -> bool:
    """Whether an edit leaves a wrong gradient right, or brings the whole nearer."""
    values = scene.results([e])
    ways = [
        (g is not None and g.shape == v.shape) and np.linalg.norm(g - v) < 0.7 * np.linalg.norm(g - t)
        for g, v, t in zip(judge.theirs, values, judge.true, strict=True)
    ]
    return any(ways)


def _apart(judge: _Judge, scene: Scene, findings: Sequence[LeafFinding]) -> Iterator[Bug]:
    """Bugs that explain one wrong gradient each."""
    for rule, e in sorted(_backward(scene), key=lambda h: -h[0].prior):
        values = scene.results([e])
        names = tuple(f.path for i, f in enumerate(findings) if not f.right and judge.same(i, values[i]))
        if names:
            yield Bug(rule.name, e.text, names)
    for i, f in enumerate(findings):
        theirs, true = judge.theirs[i], judge.true[i]
        if theirs is not None and not f.right and theirs.shape == true.shape and np.any(true):
            c = float(np.vdot(true, theirs) / np.vdot(true, true))
            if judge.same(i, c * true):
                yield Bug("scaled", f"the gradient of {f.path} is multiplied by {c:.6g}", (f.path,))


def _updated(judge: _Judge, found: Program, wrong: tuple[str, ...]) -> Iterator[Bug]:
    """The gradient passed back through weights that have been updated already; the learning rate is fitted.

    The gradients are polynomials of the rate: Gauss and Newton's method from the rate that fits to first order.
    """
    if any(g is None or g.shape != t.shape for g, t in zip(judge.theirs, judge.true, strict=True)):
        return
    params = dict(zip(judge.names, found.graph.inputs, strict=False))
    rate = input_node(Type(np.dtype(np.float64), ()), "lr")
    whole = descend(found.loss, params, Traced(rate), Reading())
    ways = [
        ("weights that have", list(descend(found.loss, params, Traced(rate), Reading(sequential=True))[0].values()))
    ]
    for name, weight in params.items():
        changed = {weight: whole[1][name]}
        ways.append((f"{name}, which has", [passed_through(g, changed) for g in whole[0].values()]))
    for what, gradients in ways:
        lr = _fitted_rate(judge, Bench({**found.inputs, rate: np.float64(0.0)}, gradients), rate, gradients)
        if lr is not None:
            text = f"the gradient is passed back through {what} been updated already, with a learning rate of {lr:.6g}"
            yield Bug("sequential-update", text, wrong, lr)


def _fitted_rate(judge: _Judge, bench: Bench, rate: Node, gradients: Sequence[Node]) -> float | None:
    """The learning rate for which these gradients are theirs, if there is one."""
    flat = np.concatenate([np.ravel(g) for g in judge.theirs])  # type: ignore[arg-type]

    def at(lr: float) -> list[Array]:
        return [bench.value(bench.same[g], {rate: np.float64(lr)}) for g in gradients]

    def vector(lr: float) -> Array:
        return np.concatenate([np.ravel(v) for v in at(lr)])

    lr, step = 0.0, 1e-4
    for _ in range(12):
        here = vector(lr)
        slope = (vector(lr + step) - vector(lr - step)) / (2 * step)
        if not np.any(slope) or not np.all(np.isfinite(slope)):
            return None
        change = float(slope @ (flat - here) / (slope @ slope))
        lr += change
        if abs(change) < 1e-12 * max(1.0, abs(lr)):
            break
    return lr if np.isfinite(lr) and abs(lr) > 1e-9 and judge.all(at(lr)) else None
