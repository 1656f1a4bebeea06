"""Backward passes written by hand in NumPy, each with one bug that real code has had: the bug has to be named."""

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.errors import GradientError, StructureError

RANDOM = np.random.default_rng(3)
N, X, H, K, Y = 5, 3, 4, 4, 2


def normal(*shape):
    return RANDOM.normal(size=shape)


DENSE = {"w1": normal(X, H), "b1": normal(H), "w2": normal(H, K), "b2": normal(K), "w3": normal(K, Y), "b3": normal(Y)}
INPUT, TARGET, MASK = normal(N, X), normal(N, Y), (RANDOM.random((N, H)) < 0.6) / 0.6


def dense_loss(p, x, y):
    z1 = x @ p["w1"] + p["b1"]
    a1 = ops.relu(z1) * x_mask(z1)
    z2 = a1 @ p["w2"] + p["b2"]
    a2 = ops.tanh(z2)
    yhat = a2 @ p["w3"] + p["b3"]
    return ops.mean(ops.sum((yhat - y) ** 2, axis=1))


def x_mask(like):
    return MASK


def dense_backward(
    *,
    slope1=lambda z, a: (z > 0) * 1.0,
    slope2=lambda z, a: 1 - a**2,
    relu=None,
    mask=MASK,
    factor=1.0,
    w2_back=lambda w: w.T,
    w3_back=None,
    bias=lambda d: d.sum(0),
):
    """The gradients of dense_loss by hand; the arguments put bugs in."""
    p, x, y = DENSE, INPUT, TARGET
    z1 = x @ p["w1"] + p["b1"]
    a1 = np.maximum(z1, 0) * MASK
    z2 = a1 @ p["w2"] + p["b2"]
    a2 = np.tanh(z2)
    d3 = factor * 2 * (a2 @ p["w3"] + p["b3"] - y) / N
    gw3 = a2.T @ d3
    back3 = p["w3"] if w3_back is None else w3_back(p["w3"], gw3)
    d2 = (d3 @ back3.T) * slope2(z2, a2)
    gw2 = a1.T @ d2
    da1 = (d2 @ w2_back(p["w2"])) * mask
    d1 = slope1(z1, a1) if relu == "overwrites" else da1 * slope1(z1, a1)
    return {"w1": x.T @ d1, "b1": bias(d1), "w2": gw2, "b2": bias(d2), "w3": gw3, "b3": bias(d3)}


def rules(report):
    return [bug.rule for bug in report.bugs]


def test_right_gradients_raise_no_alarm():
    report = bl.check_gradient(dense_loss, DENSE, INPUT, TARGET, dense_backward())
    assert report.ok
    assert not report.bugs
    assert "All 6 gradients are right" in str(report)


@pytest.mark.parametrize(
    ("bug", "rule", "words"),
    [
        ({"slope2": lambda z, a: 1.0}, "derivative-left-out", "derivative of tanh"),
        ({"slope1": lambda z, a: 1.0}, "derivative-left-out", "derivative of relu"),
        ({"slope2": lambda z, a: a * (1 - a)}, "another-derivative", "derivative of sigmoid"),
        ({"slope2": lambda z, a: 1 - z**2}, "derivative-wrong-point", "1 - z^2"),
        ({"slope2": lambda z, a: 1 - a}, "derivative-in-part", "1 - a is used"),
        ({"slope1": lambda z, a: np.maximum(z, 0)}, "relu-derivative", "relu itself"),
        ({"relu": "overwrites"}, "derivative-overwrites", "mask of relu overwrites"),
        ({"mask": 1.0}, "mask-left-out", "mask is left out"),
        ({"factor": 2.0}, "half-or-two", "2 is added"),
        ({"factor": 0.5}, "half-or-two", "half is added"),
        ({"factor": -1.0}, "sign-flipped", "sign"),
        ({"factor": N}, "sum-or-mean", f"sum over {N}"),
        ({"w2_back": lambda w: w}, "transposed", "transposed"),
        ({"bias": lambda d: d.mean(0)}, "batch-sum", "mean"),
    ],
)  # fmt: skip
def test_a_bug_in_a_dense_net_is_named(bug, rule, words):
    report = bl.check_gradient(dense_loss, DENSE, INPUT, TARGET, dense_backward(**bug))
    assert not report.ok
    assert rules(report)[0] == rule, report
    assert words in report.bugs[0].text
    assert set(report.bugs[0].explains) == {leaf.path for leaf in report.leaves if not leaf.right}


def test_weights_updated_too_early_are_found_with_their_learning_rate():
    theirs = dense_backward(w3_back=lambda w, g: w - 0.37 * g)
    report = bl.check_gradient(dense_loss, DENSE, INPUT, TARGET, theirs)
    assert rules(report)[:1] != []
    # w2 is used before it is changed here, so only code that updates each layer in turn is the bug
    chain = sequential_backward(0.37)
    report = bl.check_gradient(dense_loss, DENSE, INPUT, TARGET, chain)
    assert rules(report) == ["sequential-update"]
    assert report.bugs[0].rate == pytest.approx(0.37, rel=1e-6)


def sequential_backward(rate):
    """Each layer is updated before the gradient is passed back through it."""
    p = dict(DENSE)
    z1 = INPUT @ p["w1"] + p["b1"]
    a1 = np.maximum(z1, 0) * MASK
    a2 = np.tanh(a1 @ p["w2"] + p["b2"])
    d3 = 2 * (a2 @ p["w3"] + p["b3"] - TARGET) / N
    gw3 = a2.T @ d3
    d2 = (d3 @ (p["w3"] - rate * gw3).T) * (1 - a2**2)
    gw2 = a1.T @ d2
    d1 = (d2 @ (p["w2"] - rate * gw2).T) * MASK * (z1 > 0)
    return {"w1": INPUT.T @ d1, "b1": d1.sum(0), "w2": gw2, "b2": d2.sum(0), "w3": gw3, "b3": d3.sum(0)}


def test_a_path_dropped():
    p, x, y = {"w": normal(3, 3), "v": normal(3, 3)}, normal(4, 3), normal(4, 3)

    def loss(p, x, y):
        h = ops.tanh(x @ p["w"])
        out = h + ops.tanh(h @ p["v"])
        return ops.sum((out - y) ** 2)

    h = np.tanh(x @ p["w"])
    s = np.tanh(h @ p["v"])
    d = 2 * (h + s - y)
    ds = d * (1 - s**2)
    theirs = {"w": x.T @ ((ds @ p["v"].T) * (1 - h**2)), "v": h.T @ ds}  # the skip connection's own path is missing
    report = bl.check_gradient(loss, p, x, y, theirs)
    assert rules(report)[0] == "path-left-out"
    assert report.bugs[0].explains == ("w",)


def test_only_the_diagonal_of_softmax():
    p, x, y = {"w": normal(3, 4)}, normal(5, 3), normal(5, 4)
    z = x @ p["w"]
    s = np.exp(z) / np.exp(z).sum(1, keepdims=True)

    def loss(p, x, y):
        return ops.sum((ops.softmax(x @ p["w"]) - y) ** 2)

    theirs = {"w": x.T @ (2 * (s - y) * s * (1 - s))}
    assert rules(bl.check_gradient(loss, p, x, y, theirs))[0] == "softmax-diagonal"


def test_the_statistics_of_a_normalisation_held_fixed():
    p, x, y = {"w": normal(3, 4), "scale": normal(4)}, normal(6, 3), normal(6, 4)

    def loss(p, x, y):
        z = x @ p["w"]
        mean = ops.mean(z, axis=0)
        centred = z - mean
        variance = ops.mean(centred * centred, axis=0)
        n = centred / ops.sqrt(variance + 1e-5)
        return ops.mean((n * p["scale"] - y) ** 2)

    z = x @ p["w"]
    deviation = np.sqrt(z.var(0) + 1e-5)
    n = (z - z.mean(0)) / deviation
    d = 2 * (n * p["scale"] - y) / y.size
    theirs = {"w": x.T @ (d * p["scale"] / deviation), "scale": (d * n).sum(0)}
    assert rules(bl.check_gradient(loss, p, x, y, theirs))[0] == "statistics-held"


RNN = {"wx": normal(2, 3), "wh": normal(3, 3), "wy": normal(3, 1)}
SEQUENCE = normal(4, 2)


def rnn_loss(p, x, y):
    def step(h, row):
        h = ops.tanh(ops.reshape(row, (1, 2)) @ p["wx"] + h @ p["wh"])
        return h, None

    h, _ = ops.scan(step, np.zeros((1, 3)), x)
    return ops.sum((h @ p["wy"] - y) ** 2)


def rnn_backward(steps=range(4), cut=False, slope=lambda h: 1 - h**2):
    p, x, y = RNN, SEQUENCE, 0.5
    hs = [np.zeros((1, 3))]
    for row in x:
        hs.append(np.tanh(row[None] @ p["wx"] + hs[-1] @ p["wh"]))
    dy = 2 * (hs[-1] @ p["wy"] - y)
    g = {"wx": np.zeros((2, 3)), "wh": np.zeros((3, 3)), "wy": hs[-1].T @ dy}
    dh = dy @ p["wy"].T
    for t in reversed(range(4)):
        dz = dh * slope(hs[t + 1])
        if t in steps:
            g["wh"] += hs[t].T @ dz
        g["wx"] += x[t][None].T @ dz
        dh = np.zeros((1, 3)) if cut else dz @ p["wh"].T
    return g


@pytest.mark.parametrize(
    ("bug", "rule"),
    [
        ({"cut": True}, "recurrence-cut"),
        ({"steps": [0, 1, 3]}, "use-left-out"),
        ({"slope": lambda h: np.ones_like(h)}, "derivative-left-out"),
    ],
)
def test_a_bug_in_a_recurrent_net_is_named(bug, rule):
    assert bl.check_gradient(rnn_loss, RNN, SEQUENCE, np.array([[0.5]]), rnn_backward()).ok
    report = bl.check_gradient(rnn_loss, RNN, SEQUENCE, np.array([[0.5]]), rnn_backward(**bug))
    assert rules(report)[0] == rule, report


CONV = {"k1": normal(3, 1, 2), "k2": normal(3, 2, 1)}
SIGNAL, WANTED = normal(1, 12, 1), normal(1, 4, 1)


def conv_loss(p, x, y):
    h = ops.relu(ops.conv(x, p["k1"]))
    return ops.sum((ops.max_pool(ops.conv(h, p["k2"]), 2) - y) ** 2)


def conv_backward(flip=True, pool="largest"):
    x, k1, k2 = SIGNAL[0], CONV["k1"], CONV["k2"]
    seen1 = np.stack([x[i : i + 3] for i in range(10)])
    z = np.einsum("pic,ico->po", seen1, k1)
    h = np.maximum(z, 0)
    seen2 = np.stack([h[i : i + 3] for i in range(8)])
    c = np.einsum("pic,ico->po", seen2, k2)
    pairs = c.reshape(4, 2, 1)
    d = 2 * (pairs.max(1) - WANTED[0])
    dc = (np.ones_like(pairs) if pool == "all" else pairs == pairs.max(1, keepdims=True)) * d[:, None]
    dc = dc.reshape(8, 1)
    g2 = np.einsum("pic,po->ico", seen2, dc)
    dh = np.zeros_like(h)
    for p in range(8):
        for i in range(3):
            dh[p + i] += k2[i if flip else 2 - i] @ dc[p]
    dz = dh * (z > 0)
    return {"k1": np.einsum("pic,po->ico", seen1, dz), "k2": g2}


@pytest.mark.parametrize(("bug", "rule"), [({"flip": False}, "kernel-not-flipped"), ({"pool": "all"}, "max-pool-all")])
def test_a_bug_in_a_convolutional_net_is_named(bug, rule):
    assert bl.check_gradient(conv_loss, CONV, SIGNAL, WANTED, conv_backward()).ok
    report = bl.check_gradient(conv_loss, CONV, SIGNAL, WANTED, conv_backward(**bug))
    assert rules(report)[0] == rule, report


def test_forms_that_tell():
    p, x, y = {"w": normal(3, 2), "b": normal(2)}, normal(4, 3), normal(4, 2)

    def loss(p, x, y):
        return ops.sum((x @ p["w"] + p["b"] - y) ** 2)

    d = 2 * (x @ p["w"] + p["b"] - y)
    report = bl.check_gradient(loss, p, x, y, {"w": (x.T @ d).T, "b": d})
    assert [(b.rule, b.explains) for b in report.bugs] == [("transposed", ("w",)), ("batch-sum", ("b",))]


def test_nonsense_is_not_explained():
    theirs = {k: normal(*v.shape) for k, v in DENSE.items()}
    report = bl.check_gradient(dense_loss, DENSE, INPUT, TARGET, theirs)
    assert not report.ok
    assert report.bugs == ()
    assert "no bug that is known" in str(report)


def test_what_speaks_dlpack_is_read():
    class Tensor:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    theirs = {k: Tensor(v.astype(np.float32)) for k, v in dense_backward().items()}
    assert bl.check_gradient(dense_loss, DENSE, INPUT, TARGET, theirs).ok


def test_gradients_that_do_not_fit_are_refused():
    with pytest.raises(StructureError, match="none for b3"):
        bl.check_gradient(dense_loss, DENSE, INPUT, TARGET, {k: v for k, v in DENSE.items() if k != "b3"})
    with pytest.raises(GradientError, match="not one floating-point number"):
        bl.check_gradient(lambda p, x, y: p["w1"], DENSE, INPUT, TARGET, DENSE)
    with pytest.raises(StructureError, match="not numbers"):
        bl.check_gradient(dense_loss, DENSE, INPUT, TARGET, DENSE | {"b3": np.array(["a", "b"])})
