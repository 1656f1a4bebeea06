"""Derivations of networks of every kind: lines true, the gradient that of `bl.grad`, the form that of the kind."""

import time
import tracemalloc

import numpy as np
import pytest

import backlit as bl
from backlit import nn, ops

from .reading import agrees, check_lines, check_locals
from .test_worked import equation

RNG = np.random.default_rng(0)
SHAPES = {"4x2": (4, 2), "3x2": (3, 2), "3x4": (3, 4), "6x6": (6, 6, 1), "7": (7, 1), "2": (2,)}
X = {name: RNG.normal(size=shape) for name, shape in SHAPES.items()}

CASES = {
    "dense": ([nn.Dense(3, activation="tanh"), nn.Dense(3)], 2, X["2"], 1, "crossentropy", "dense_1.weight[0, 1]", {}),
    "relu": ([nn.Dense(3, activation="relu"), nn.Dense(1)], 2, X["4x2"], X["4x2"][:, :1], "mse", "dense_1.bias[1]", {}),
    "gelu": ([nn.Dense(3, activation="gelu"), nn.Dense(1)], 2, X["2"], [1.0], "huber", "dense_1.weight[1, 1]", {}),
    "hinge": ([nn.Dense(3, activation="silu"), nn.Dense(3)], 2, X["2"], 2, "hinge", "dense_1.weight[1, 1]", {}),
    "bce": (
        [nn.Dense(2, activation="elu"), nn.Dense(1)],
        2,
        X["2"],
        [1.0],
        "binary_crossentropy",
        "dense_1.weight[0, 1]",
        {},
    ),
    "kl": ([nn.Dense(3)], 2, X["2"], [0.2, 0.3, 0.5], "kl", "dense_1.weight[0, 1]", {}),
    "soft labels": ([nn.Dense(3)], 2, X["2"], [0.2, 0.3, 0.5], "crossentropy", "dense_1.weight[0, 1]", {}),
    "conv": (
        [nn.Conv2d(2, 3, activation="relu"), nn.MaxPool(2), nn.Flatten(), nn.Dense(2)],
        (6, 6, 1),
        X["6x6"],
        1,
        "crossentropy",
        "conv2d_1.weight[0, 1, 0, 1]",
        {},
    ),
    "conv1d": (
        [nn.Conv1d(2, 3, padding="same"), nn.GlobalAvgPool(), nn.Dense(1)],
        (7, 1),
        X["7"],
        [1.0],
        "mse",
        "conv1d_1.weight[0, 0, 1]",
        {},
    ),
    "strided": (
        [nn.Conv2d(2, 2, stride=2), nn.AvgPool(3), nn.Flatten(), nn.Dense(1)],
        (6, 6, 1),
        X["6x6"],
        [1.0],
        "mse",
        "conv2d_1.weight[0, 1, 0, 1]",
        {},
    ),
    "rnn": (
        [nn.SimpleRNN(2), nn.Dense(1)],
        (3, 2),
        X["3x2"],
        [1.0],
        "half_mse",
        "simplernn_1.recurrent_weight[0, 1]",
        {},
    ),
    "lstm": ([nn.LSTM(2), nn.Dense(1)], (3, 2), X["3x2"], [1.0], "half_mse", "lstm_1.recurrent_weight[0, 1]", {}),
    "gru": ([nn.GRU(2), nn.Dense(1)], (3, 2), X["3x2"], [1.0], "mse", "gru_1.weight[0, 1]", {}),
    "attention": (
        [nn.MultiHeadAttention(2), nn.Flatten(), nn.Dense(1)],
        (3, 4),
        X["3x4"],
        [1.0],
        "mse",
        "multiheadattention_1.query_weight[0, 1]",
        {},
    ),
    "transformer": (
        [nn.TransformerBlock(1, hidden=3), nn.Flatten(), nn.Dense(1)],
        (3, 4),
        X["3x4"],
        [1.0],
        "mse",
        "key_weight[0, 1]",
        {"verify": False},
    ),
    "batch norm": (
        [nn.Dense(3), nn.BatchNorm(), nn.Dense(1)],
        2,
        X["4x2"],
        X["4x2"][:, :1],
        "mse",
        "dense_1.weight[0, 1]",
        {"training": True},
    ),
    "batch norm, inference": (
        [nn.Dense(3), nn.BatchNorm(), nn.Dense(1)],
        2,
        X["2"],
        [1.0],
        "mse",
        "dense_1.weight[0, 1]",
        {},
    ),
    "layer norm": ([nn.Dense(3), nn.LayerNorm(), nn.Dense(1)], 2, X["2"], [1.0], "mse", "dense_1.weight[0, 1]", {}),
    "dropout": (
        [nn.Dense(4), nn.Dropout(0.5), nn.Dense(1)],
        2,
        X["4x2"],
        X["4x2"][:, :1],
        "mse",
        "dense_1.weight[0, 1]",
        {"training": True, "key": ops.random.key(1)},
    ),
    "embedding": (
        [nn.Embedding(5, 2), nn.Flatten(), nn.Dense(1)],
        3,
        [1, 2, 1],
        [1.0],
        "mse",
        "embedding_1.weight[1, 0]",
        {},
    ),
    "residual": (
        [nn.Residual([nn.Dense(2, activation="tanh")]), nn.Dense(1)],
        2,
        X["2"],
        [1.0],
        "mse",
        "residual_1.dense_1.weight[0, 1]",
        {},
    ),
}


def network(case, dtype="float64"):
    layers, shape, x, y, loss, wrt, options = CASES[case]
    return nn.Network(layers, shape, dtype=dtype), np.asarray(x), np.asarray(y), loss, wrt, dict(options)


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_network(case):
    net, x, y, loss, wrt, options = network(case)
    d = bl.explain(net, x, y, loss=loss, wrt=wrt, **options)
    assert check_lines(d) > 3
    check_locals(d)
    final = next(s for s in d if s.kind == "gradient")
    assert agrees(d.value, final.text)
    if options.get("verify", True):
        assert d.steps[-1].value < 1e-6
    # the same number from the library's own gradient
    single = x.ndim == len(net.input_type.shape)
    x, y = (x[None], y[None]) if single else (x, y)

    def value(params):
        keywords = {k: v for k, v in options.items() if k in ("training", "key")}
        predicted, _ = net.forward(params, dict(net.state), net._converted(x), **keywords)
        return nn.losses.get(loss)(predicted, y)

    gradients = bl.grad(value)(dict(net.params))
    name = next(n for n in gradients if n.endswith(wrt.split("[")[0]))
    element = tuple(int(i) for i in wrt[wrt.index("[") + 1 : -1].split(","))
    assert d.value == pytest.approx(gradients[name][element], rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("case", ["relu", "conv", "lstm", "attention", "layer norm"])
def test_in_single_precision(case):
    net, x, y, loss, wrt, options = network(case, "float32")
    check_lines(bl.explain(net, x, y, loss=loss, wrt=wrt, **options))


def test_layers_have_the_notation_of_the_field():
    net, x, y, loss, wrt, _ = network("dense")
    d = bl.explain(net, x, y, loss=loss, wrt=wrt)
    assert equation(d, "z1[1]").symbolic == "x[0, 0]·W1[0, 1] + x[0, 1]·W1[1, 1] + b1[1]"
    assert equation(d, "a1[1]").symbolic == "tanh(z1[1])"
    assert equation(d, "δ1[1]").symbolic == "∂L/∂a1[1]·(1 - a1[1]^2)"
    assert equation(d, "∂L/∂W1[0, 1]").symbolic == "x[0, 0]·δ1[1]"
    assert dict(d.layers) == {"1": "dense_1", "2": "dense_2"}


def test_softmax_with_crossentropy_is_folded_to_p_less_y():
    net, x, y, loss, wrt, _ = network("dense")
    d = bl.explain(net, x, y, loss=loss, wrt=wrt)
    assert equation(d, "δ2[1]").symbolic == "p[1] - 1"
    assert equation(d, "δ2[0]").symbolic == "p[0]"
    long = bl.explain(net, x, y, loss=loss, wrt=wrt, unfolded=True)
    assert len(long) > len(d)
    assert "exp" in "".join(s.symbolic for s in long)
    check_lines(long)
    assert long.value == d.value


def test_soft_targets_fold_to_p_less_y():
    net, x, y, loss, wrt, _ = network("soft labels")
    d = bl.explain(net, x, y, loss=loss, wrt=wrt)
    assert equation(d, "δ1[1]").symbolic == "p[1] - y[0, 1]"


def test_the_jacobian_of_softmax():
    def f(z, c):
        p = ops.softmax(z)
        E = ops.sum(c * p * p)
        return E

    d = bl.explain(f, np.array([0.1, 0.5, -0.3]), np.array([1.0, 2.0, 3.0]), wrt="z[0]")
    assert equation(d, "p[0]").symbolic == "exp(z[0])/(exp(z[0]) + exp(z[1]) + exp(z[2]))"
    assert "p[0]·(1 - p[0])" in equation(d, "∂E/∂z[0]").symbolic
    assert "- ∂E/∂p[1]·p[1]·p[0]" in equation(d, "∂E/∂z[0]").symbolic
    check_lines(d)


def test_cross_entropy_written_by_hand_folds_too():
    def f(z, y):
        p = ops.softmax(z)
        E = -ops.sum(y * ops.log(p))
        return E

    d = bl.explain(f, np.array([0.1, 0.5, -0.3]), np.array([0.0, 1.0, 0.0]), wrt="z[0]")
    assert equation(d, "∂E/∂z[0]").symbolic == "p[0] - y[0]"
    check_lines(d)


def test_a_shared_weight_is_a_sum_over_the_positions_where_it_acts():
    w, x = np.array([0.5, -0.2]), np.array([1.0, 2.0, 3.0, 4.0])

    def f(w, x):
        z = ops.reshape(ops.conv(ops.reshape(x, (1, 4, 1)), ops.reshape(w, (2, 1, 1))), 3)
        E = ops.sum(z * z)
        return E

    d = bl.explain(f, w, x, wrt="w[1]")
    assert equation(d, "∂E/∂w[1]").symbolic == "x[1]·∂E/∂z[0] + x[2]·∂E/∂z[1] + x[3]·∂E/∂z[2]"
    check_lines(d)


def test_pooling_tells_which_element_won():
    net, x, y, loss, wrt, _ = network("conv")
    d = bl.explain(net, x, y, loss=loss, wrt=wrt)
    pooled = next(s for s in d if s.symbolic.startswith("max("))
    winner = max(pooled.operands, key=lambda o: o.value)
    assert pooled.value == winner.value
    from backlit.explanation.notation import plain

    assert pooled.sentence.startswith(f"{plain(winner.symbol)} is the largest of 4")


def test_the_gradient_through_time_has_one_term_a_step():
    def f(u, x):
        def step(h, x):
            z = u * h + x
            h = ops.tanh(z)
            return h, None

        h, _ = ops.scan(step, np.float64(0.1), x)
        E = h * h
        return E

    d = bl.explain(f, np.float64(0.7), np.array([0.3, -0.2, 0.5]), wrt="u")
    last = equation(d, "∂E/∂u")
    assert last.symbolic.count("∂E/∂z[t=") == 3
    assert equation(d, "h[t=1]").symbolic == "tanh(z[t=1])"
    assert equation(d, "z[t=1]").symbolic == "u·h[t=0] + x[1]"
    check_lines(d)


def test_weights_shared_losses_added_and_penalties():
    def f(w, x, y):
        a = ops.tanh(w * x)
        b = ops.tanh(w * a)  # the same weight again
        error = (b - y) ** 2
        penalty = 0.01 * w * w
        auxiliary = 0.1 * ops.abs(a)
        E = error + penalty + auxiliary
        return E

    d = bl.explain(f, *(np.float64(v) for v in (0.8, 0.5, 0.2)), wrt="w")
    ways = equation(d, "∂E/∂w").symbolic
    assert "∂E/∂a" in ways
    assert "∂E/∂b" in ways
    assert "0.01" in ways
    check_lines(d)


def test_an_embedding_row_that_was_not_looked_up_has_no_gradient():
    net, x, y, loss, _, _ = network("embedding")
    d = bl.explain(net, x, y, loss=loss, wrt="embedding_1.weight[4, 0]")
    assert d.value == 0


@pytest.mark.parametrize(
    "optimizer",
    ["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop", "adagrad", "lion", "adamax", "nadam"],
)
def test_every_optimiser_shows_its_update(optimizer):
    net, x, y, loss, wrt, _ = network("dense")
    d = bl.explain(net, x, y, loss=loss, wrt=wrt, optimizer=optimizer, lr=0.1)
    check_lines(d)
    new = equation(d, "W1'[0, 1]")
    rule = bl.optim.get(optimizer, learning_rate=0.1)

    def value(params):
        return nn.losses.get(loss)(net.forward(params, dict(net.state), x[None])[0], y[None])

    params = dict(net.params)
    expected, _ = rule.update(bl.grad(value)(params), rule.init(params), params)
    assert new.value == pytest.approx(float(expected["dense_1.weight"][0, 1]), rel=1e-9)


def test_adam_shows_m_v_and_the_bias_correction():
    d = bl.explain(lambda w: (w - 1.0) ** 2, np.float64(3.0), wrt="w", optimizer="adam", lr=0.1)
    assert equation(d, "m'").symbolic == "0.9·m + 0.1·∂f/∂w"
    assert equation(d, "v'").symbolic == "0.999·v + 0.001·(∂f/∂w)^2"
    assert equation(d, "m_hat").symbolic == "m'/(1 - 0.9^t)"
    assert equation(d, "w'").symbolic == "w - alpha·m_hat/(sqrt(v_hat) + 1e-8)"
    assert equation(d, "w'").value == pytest.approx(2.9, abs=1e-6)
    check_lines(d)


def test_the_second_step_starts_from_the_state_of_the_first():
    f, w = (lambda w: (w - 1.0) ** 2), np.float64(3.0)
    rule = bl.optim.get("momentum", learning_rate=0.1)
    params, state = rule.update({"w": bl.grad(f)(w)}, rule.init({"w": w}), {"w": w})
    d = bl.explain(f, params["w"], wrt="w", optimizer=rule, state=state)
    assert equation(d, "v'").symbolic == "0.9·v + ∂f/∂w"
    assert equation(d, "v").value == 4.0
    check_lines(d)


def test_clipping_is_part_of_the_update():
    net, x, y, loss, wrt, _ = network("dense")
    rule = bl.optim.get("sgd", learning_rate=0.1, clip_global_norm=0.01)
    d = bl.explain(net, x, y, loss=loss, wrt=wrt, optimizer=rule)
    check_lines(d)
    assert equation(d, "norm").value > 0.01
    assert equation(d, "shrinkage").symbolic == "min(1, 0.01/norm)"


def big():
    net = nn.Network([nn.Dense(1000, activation="relu"), nn.Dense(250, activation="relu"), nn.Dense(10)], 784)
    assert sum(p.size for p in net.params.values()) > 1_000_000
    return net, np.random.default_rng(1).normal(size=784), np.array(3)


def test_one_weight_of_a_million_is_explained_quickly_and_briefly():
    net, x, y = big()
    bl.explain(net, x, y, loss="crossentropy", wrt="dense_1.weight[0, 1]")  # imports and caches
    started = time.process_time()
    d = bl.explain(net, x, y, loss="crossentropy", wrt="dense_1.weight[0, 1]", lr=0.1)
    text = d.json()
    assert time.process_time() - started < 2
    assert len(text.encode()) < 1_000_000
    check_lines(d)
    tracemalloc.start()
    bl.explain(net, x, y, loss="crossentropy", wrt="dense_2.weight[0, 1]")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500e6


def test_a_long_loop_stays_readable_and_one_way_is_whole():
    net = nn.Network([nn.LSTM(64), nn.Dense(5)], (15, 8))
    x = np.random.default_rng(0).normal(size=(15, 8))
    d = bl.explain(net, x, np.array(3), loss="crossentropy", wrt="lstm_1.recurrent_weight[0, 1]")
    check_lines(d)
    assert len(d.json().encode()) < 1_000_000
    reached, waiting = set(), [next(s for s in d if s.kind == "gradient")]
    while waiting:
        step = waiting.pop()
        reached.add(step.symbol)
        waiting += [d[n] for n in step.uses if d[n].kind == "backward" and d[n].symbol not in reached]
    assert any(s.name == "delta" and s.layer == "2" for s in reached)  # next to the loss


def test_what_is_folded_adds_up_and_can_be_unfolded():
    net, x, y = big()
    d = bl.explain(net, x, y, loss="crossentropy", wrt="dense_1.weight[0, 1]", verify=False)
    step = next(s for s in d if s.kind == "forward" and s.folded > 700)
    whole = d.unfold(step.number)
    assert whole.folded < step.folded
    assert len(whole.operands) > len(step.operands)
    wide = d.expand(step.number)
    same = next(s for s in wide if s.symbol == step.symbol)
    assert same.folded == 0
    assert same.value == step.value
    assert len(same.operands) > 1500
    with pytest.raises(bl.errors.Error, match="no equation"):
        d.expand(10_000)


def test_terms_and_depth_say_how_much_is_shown():
    net, x, y = big()
    options = {"loss": "crossentropy", "wrt": "dense_1.weight[0, 1]", "verify": False}
    sizes = [len(bl.explain(net, x, y, **options, terms=t, depth=k)) for t, k in [(2, 0), (2, 1), (5, 1)]]
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("case", ["dense", "relu", "rnn", "conv", "attention", "batch norm", "soft labels"])
def test_the_matrix_view_has_shapes_and_the_element(case):
    net, x, y, loss, wrt, options = network(case)
    d = bl.explain(net, x, y, loss=loss, wrt=wrt, view="matrix", **options)
    plain = bl.explain(net, x, y, loss=loss, wrt=wrt, **options)
    assert d.value == plain.value
    gradient = next(s for s in d if s.kind == "gradient")
    assert gradient.shape == net.params[next(n for n in net.params if n.endswith(wrt.split("[")[0]))].shape
    check_lines(d)


def test_the_matrix_view_of_a_dense_layer():
    net, x, y, loss, wrt, _ = network("dense")
    d = bl.explain(net, x, y, loss=loss, wrt=wrt, view="matrix")
    assert equation(d, "z1").symbolic == "x @ W1 + b1"
    assert equation(d, "∂L/∂a1").symbolic == "δ2 @ W2ᵀ"
    assert equation(d, "δ1").symbolic == "∂L/∂a1 ⊙ (1 - a1 ⊙ a1)"
    assert equation(d, "∂L/∂W1").symbolic == "xᵀ @ δ1"
    assert equation(d, "∂L/∂W1[0, 1]").symbolic == "x[0, 0]·δ1[1]"


def test_what_a_network_needs_is_asked_for():
    net, x, y, _, wrt, _ = network("dense")
    with pytest.raises(bl.errors.GradientError, match="the loss is not given"):
        bl.explain(net, x, y, wrt=wrt)
    with pytest.raises(bl.errors.GradientError, match="inputs x and targets y"):
        bl.explain(net, x, loss="mse", wrt=wrt)
    with pytest.raises(bl.errors.GradientError, match="loss= is for networks"):
        bl.explain(lambda w: w * w, np.float64(1.0), loss="mse", wrt="w")
