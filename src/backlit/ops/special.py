"""The error function and its inverse. No machine computes them, so their scalar forms are approximations, made here.

erf is odd. Below `split` it is x P(x^2), above it 1 - e^Q(x): there erfc(x) = 1 - erf(x) is small, so that the error of
its logarithm Q hardly counts. P and Q are polynomials through the Chebyshev points of their intervals, which are
brought to [-1, 1] first; the errors are below 3 units in the last place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from backlit.ops.elementwise import exp
from backlit.ops.record import elementwise, function

_SLOPE = 2 / math.sqrt(math.pi)  # of erf at 0
_erf_of_doubles = np.vectorize(math.erf, otypes=[np.float64])
_erfc_of_doubles = np.vectorize(math.erfc, otypes=[np.float64])


@dataclass(frozen=True, slots=True)
class _Erf:
    """The two polynomials, highest power first; erf is 1 from `end` on."""

    split: float
    end: float
    near: tuple[float, ...]  # erf(x) / x, of x^2 from 0 to split^2
    far: tuple[float, ...]  # log(erfc(x)), of x from split to end


_SINGLE = _Erf(
    1.0,
    4.0,
    (-1.7650187e-5, 2.193592e-4, -2.2854432e-3, 1.9851806e-2, -1.4053608e-1, 9.6546876e-1),
    (
        4.19584e-5,
        -2.274995e-4,
        8.803971e-4,
        -3.1903053e-3,
        1.0961849e-2,
        -3.6647577e-2,
        -2.123761,
        -8.029021,
        -7.806815,
    ),
)
_DOUBLE = _Erf(
    2.0,
    6.0,
    (
        -1.8874163743967482e-12, 1.7218858155484183e-11, -1.401554063331593e-10, 1.1331611787961273e-09,
        -8.617665144205791e-09, 6.11973590542225e-08, -4.045094947367635e-07, 2.475801058763217e-06,
        -1.3946273727597251e-05, 7.180100878143417e-05, -0.0003351435335293146, 0.0014050914235853634,
        -0.005234875836158027, 0.017128344571823145, -0.04866277744915509, 0.11947913860985163,
        -0.2611118609312454, 0.674933236039655,
    ),
    (
        -3.274187814942436e-12, -3.353815713681726e-11, 2.372565060259342e-10, -7.543764521379534e-10,
        2.090333651349972e-09, -5.707910232425525e-09, 1.3430760269400555e-08, -2.296347346247772e-08,
        4.91391356130154e-09, 1.9790143410585954e-07, -1.2517615717387782e-06, 5.667097730531802e-06,
        -2.2243856022065037e-05, 8.034966492035909e-05, -0.0002747313158316893, 0.0009048848081715152,
        -0.0029128175515776697, 0.009314377178034244, -0.030345145087009886, -3.893778354007999,
        -16.472753785400354, -17.987778312103007,
    ),
)  # fmt: skip


def _polynomial(s: Any, coefficients: tuple[float, ...], x: Any) -> Any:
    """Horner's rule."""
    value = s.fma(x, coefficients[0], coefficients[1])
    for c in coefficients[2:]:
        value = s.fma(value, x, c)
    return value


def _erf_scalar(s: Any, x: Any) -> Any:
    form = _DOUBLE if x.dtype == np.float64 else _SINGLE
    size = s.minimum(s.abs(x), form.end)
    square = s.minimum(size * size, form.split**2)
    near = x * _polynomial(s, form.near, s.fma(square, 2 / form.split**2, -1.0))
    far = 1 - s.exp(_log_erfc(s, form, size))
    return s.where(size < form.split, near, s.where(x < 0, -far, far))


def _log_erfc(s: Any, form: _Erf, x: Any) -> Any:
    """Q(x), for x from split to end."""
    middle, half = (form.end + form.split) / 2, (form.end - form.split) / 2
    return _polynomial(s, form.far, s.fma(x, 1 / half, -middle / half))


erf = elementwise(
    "erf",
    numpy=lambda x: _erf_of_doubles(x).astype(x.dtype),
    scalar=_erf_scalar,
    vjp=lambda ctx, g: (g * (_SLOPE * exp(-(ctx.x * ctx.x))),),
    notation=function("erf"),
    doc="The error function, 2 / sqrt(pi) times the integral of e^(-t^2) from 0 to x.",
)

# M. Giles, Approximating the erfinv function (GPU Computing Gems, 2012), single precision; highest power first.
_CENTRE = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503,
           -0.00417768164, 0.246640727, 1.50140941)  # fmt: skip
_EDGE = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
         1.00167406, 2.83297682)  # fmt: skip


def _erfinv(s: Any, x: Any, erf_of: Any, log_erfc_of: Any) -> Any:
    """Giles' polynomials; in double precision Newton's steps bring them to full accuracy.

    They solve erf(y) = |x| or, where that is nearly 1, log(erfc(y)) = log(1 - |x|).
    """
    size = s.abs(x)
    c = 1 - size
    w = -s.log(c * (1 + size))
    centre = _polynomial(s, _CENTRE, w - 2.5)
    edge = _polynomial(s, _EDGE, s.sqrt(s.maximum(w, 5)) - 3)
    y = size * s.where(w < 5, centre, edge)
    if x.dtype == np.float64:
        log_c = s.log(c)
        for _ in range(4):
            log_erfc = log_erfc_of(y)
            excess = s.where(y < _DOUBLE.split, erf_of(y) - size, s.exp(log_erfc) * (log_c - log_erfc))
            y = y - excess * (1 / _SLOPE) * s.exp(y * y)
    y = s.where(size == 1, math.inf, y)
    return s.where(x < 0, -y, s.where(x == 0, x, y))


def _log_erfc_of_doubles(x: Any) -> Any:
    return np.log(_erfc_of_doubles(x))


class _NumpyNames:
    """The few functions that `_erfinv` asks for."""

    abs, exp, log, maximum, sqrt, where = np.abs, np.exp, np.log, np.maximum, np.sqrt, np.where

    @staticmethod
    def fma(a: Any, b: Any, c: Any) -> Any:
        return a * b + c


erfinv = elementwise(
    "erfinv",
    numpy=lambda x: np.asarray(_erfinv(_NumpyNames, x, _erf_of_doubles, _log_erfc_of_doubles), x.dtype),
    scalar=lambda s, x: _erfinv(s, x, lambda y: _erf_scalar(s, y), lambda y: _log_erfc(s, _DOUBLE, y)),
    vjp=lambda ctx, g: (g * (1 / _SLOPE * exp(ctx.y * ctx.y)),),
    notation=function("erfinv", r"\operatorname{erf}^{-1}"),
    doc="The inverse of erf: nan outside [-1, 1], infinite at its ends.",
    samples=(-0.9, 0.9),
)
