"""Winograd's convolution: its transforms, and where the pattern is found."""

from __future__ import annotations

import numpy as np
import pytest

from backlit.executors.native.winograd import IMAGE, RESULTS, WEIGHTS, Matrix, transformed, transposed, window_axes


def _grid(x: np.ndarray) -> list[list[float]]:
    return [[float(v) for v in row] for row in x]


@pytest.mark.parametrize(
    "matrix", [IMAGE, WEIGHTS, RESULTS, transposed(IMAGE), transposed(WEIGHTS), transposed(RESULTS)]
)
def test_transforms_are_products_with_the_matrix_on_both_sides(matrix: Matrix) -> None:
    m = np.array(matrix)
    x = np.random.default_rng(0).integers(-8, 8, (m.shape[1], m.shape[1]))
    np.testing.assert_array_equal(transformed(matrix, _grid(x)), m @ x @ m.T)


def test_four_results_and_their_gradient_by_the_weights_are_those_of_the_sums() -> None:
    rng = np.random.default_rng(1)
    image, weights, given = (rng.integers(-8, 8, (n, n)) for n in (4, 3, 2))
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3))
    seen = np.array(transformed(IMAGE, _grid(image)))
    product = seen * transformed(WEIGHTS, _grid(weights))
    np.testing.assert_array_equal(transformed(RESULTS, _grid(product)), np.einsum("yxij,ij->yx", windows, weights))
    back = seen * transformed(transposed(RESULTS), _grid(given))
    np.testing.assert_array_equal(
        transformed(transposed(WEIGHTS), _grid(back)), np.einsum("yxij,yx->ij", windows, given)
    )


def test_windows_are_found_by_equal_steps() -> None:
    extents = (8, 6, 5, 32, 3, 3, 16)  # n y x k, ky kx c
    strides = (8 * 7 * 16, 7 * 16, 16, 0, 7 * 16, 16, 1)
    assert window_axes(strides, extents, range(4), range(4, 7)) == ((1, 4), (2, 5))
    assert window_axes(strides, extents, (1, 2), (4, 5)) == ((1, 4), (2, 5))
    assert window_axes(strides, (8, 6, 5, 32, 5, 5, 16), range(4), range(4, 7)) is None  # larger windows
    strided = (8 * 7 * 16, 2 * 7 * 16, 2 * 16, 0, 7 * 16, 16, 1)
    assert window_axes(strided, extents, range(4), range(4, 7)) is None
