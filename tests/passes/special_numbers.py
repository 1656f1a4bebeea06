"""Arrays of the numbers that break careless rewrites, and equality that sees the sign of a zero."""

import numpy as np


def special_arrays(shapes, dtype, seed, finite=True):
    """One array a shape. Not `finite`: of inf, -inf, nan, 0 and ordinary numbers that add up without rounding."""
    largest, tiny = np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal
    careless = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, -2.5, tiny, largest]
    numbers = careless if finite else [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 2.0]
    return [np.random.default_rng([seed, k]).choice(numbers, size=s).astype(dtype) for k, s in enumerate(shapes)]


def assert_same_bits(found, expected, message=""):
    """Equal in value and, where it is not nan, in sign."""
    np.testing.assert_array_equal(found, expected, err_msg=message)
    known = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(found) & known, np.signbit(expected) & known, err_msg=message)
