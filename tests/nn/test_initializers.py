"""First values of parameters: their variances, orthogonality, and values that are given."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backlit import nn, ops
from backlit.errors import SettingError, ShapeError
from backlit.ir import Type
from backlit.nn import initializers
from backlit.nn.initializers import Given, Normal, Orthogonal, Uniform, VarianceScaling, fans

KEY = ops.random.key(0)

# The variance of each: fan_in is 200, fan_out 300; an orthogonal matrix of 40 rows is tried beside.
VARIANCES = {
    "he_normal": 2 / 200,
    "he_uniform": 2 / 200,
    "glorot_normal": 2 / 500,
    "glorot_uniform": 2 / 500,
    "lecun_normal": 1 / 200,
    "lecun_uniform": 1 / 200,
    "normal": 0.05**2,
    "uniform": 0.05**2 / 3,
    "orthogonal": 1 / 60,
    "zeros": 0,
    "ones": 0,
}


def test_all_initialisers_are_listed_here():
    assert set(VARIANCES) == set(initializers.INITIALIZERS)


@pytest.mark.parametrize("name", VARIANCES)
def test_variances_are_those_of_the_papers(name):
    shape = (40, 60) if name == "orthogonal" else (200, 300)
    drawn = initializers.get(name)(KEY, shape)
    assert drawn.shape == shape
    assert drawn.var() == pytest.approx(VARIANCES[name], rel=0.03)
    assert drawn.mean() == pytest.approx(1.0 if name == "ones" else 0.0, abs=0.003)
    if name.endswith("uniform"):
        assert np.abs(drawn).max() <= np.sqrt(3 * VARIANCES[name]) * (1 + 1e-6)


def test_the_fans_of_a_convolution_count_its_window():
    assert fans((3, 5, 7, 11)) == (3 * 5 * 7, 3 * 5 * 11)
    assert fans((4, 6)) == (4, 6)
    weights = nn.Conv2d(64, (3, 5), weight_init="he_normal").init(KEY, Type(np.dtype(float), (8, 8, 32)))["weight"]
    assert weights.var() == pytest.approx(2 / (3 * 5 * 32), rel=0.03)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_orthogonal_matrices_keep_lengths(rows, columns, seed):
    matrix = Orthogonal(gain=2.0)(ops.random.key(seed), (rows, columns))
    product = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
    np.testing.assert_allclose(product, 4 * np.eye(min(rows, columns)), atol=1e-12)


def test_an_orthogonal_kernel_is_a_matrix_of_its_last_axis():
    kernel = Orthogonal()(KEY, (3, 2, 4))
    np.testing.assert_allclose(kernel.reshape(6, 4).T @ kernel.reshape(6, 4), np.eye(4), atol=1e-12)
    with pytest.raises(ShapeError, match="at least two axes"):
        Orthogonal()(KEY, (3,))


def test_the_gates_of_a_recurrent_layer_are_drawn_one_by_one():
    params = nn.LSTM(6).init(KEY, Type(np.dtype(float), (4, 5)))
    blocks = np.split(params["recurrent_weight"], 4, axis=1)
    for block in blocks:
        np.testing.assert_allclose(block @ block.T, np.eye(6), atol=1e-12)
    assert not np.allclose(blocks[0], blocks[1])
    wide = nn.GRU(300, recurrent_init="zeros").init(KEY, Type(np.dtype(float), (4, 200)))["weight"]
    assert wide.var() == pytest.approx(2 / 500, rel=0.03)  # fan_out is that of one gate


def test_numbers_and_arrays_are_taken_as_they_are():
    params = nn.Dense(2, weight_init=[[0.1, 0.2], [0.3, 0.4]], bias_init=0.7).init(KEY, Type(np.dtype(float), (2,)))
    np.testing.assert_array_equal(params["weight"], [[0.1, 0.2], [0.3, 0.4]])
    np.testing.assert_array_equal(params["bias"], [0.7, 0.7])
    given = np.arange(12.0).reshape(2, 6)
    layer = nn.SimpleRNN(6, weight_init=given)
    np.testing.assert_array_equal(layer.init(KEY, Type(np.dtype(float), (3, 2)))["weight"], given)
    assert layer == nn.SimpleRNN(6, weight_init=given.tolist())
    net = nn.Network([nn.Dense(1, weight_init=[[0.1]])], (1,), dtype="float64")
    assert net.params["dense_1.weight"][0, 0] == 0.1  # not through float32


def test_what_is_given_must_have_the_shape():
    with pytest.raises(ShapeError, match=r"\(2, 3\), and the values given for it \(3,\)"):
        Given([1.0, 2.0, 3.0])(KEY, (2, 3))


def test_settings_are_checked():
    for make, message in [
        (lambda: VarianceScaling(0.0), "scale is 0.0: it must be above 0"),
        (lambda: VarianceScaling(fan="sum"), "fan is 'sum'"),
        (lambda: Normal(-1.0), "deviation is -1.0"),
        (lambda: initializers.get("kaiming"), "there is no initialiser 'kaiming'"),
        (lambda: Given("a"), "no array of numbers"),
        (lambda: Given([[1, 2], [3]]), "no array of numbers"),
    ]:
        with pytest.raises(SettingError, match=message):
            make()


def test_others_may_be_made():
    assert Uniform(2.0, 3.0)(KEY, (100,)).min() >= 2
    net = nn.Network([nn.Dense(3, weight_init=Normal(0.5), bias_init=Uniform(1.0, 2.0))], (4,))
    assert (net.params["dense_1.bias"] >= 1).all()
