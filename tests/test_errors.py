"""Every kind of mistake: the message names the user's line, the op, the shapes, and what to do instead."""

import re

import numpy as np
import pytest

import backlit as bl
from backlit import errors, ops
from backlit.errors import (
    ControlFlowError,
    DtypeError,
    GradientError,
    IndexingError,
    MissingMethodError,
    ShapeError,
    StructureError,
)

X, W = np.ones((2, 3)), np.ones((4, 3))
LEAKED = []


# Each function below has the mistake on the line that says so.


def branches(x):
    y = ops.sum(x)
    if y > 0:  # mistake
        return y
    return -y


def asserts(x):
    assert x[0, 0] > 0  # mistake
    return x


def loops(x):
    total = x
    for _ in range(ops.sum(ops.astype(x, "int64"))):  # mistake
        total = total + x
    return total


def assigns(x):
    h = x * 2
    h[0] = 1.0  # mistake
    return h


def assigns_and_adds(x):
    x[0] += 1.0  # mistake
    return x


def multiplies_matrices(x):
    return x @ W  # mistake


def adds(x):
    h = x + np.ones((2, 4))  # mistake
    return h


def adds_in_a_composite(x):
    return ops.layer_norm(x, scale=np.ones(4))  # mistake


def mixes_kinds(x):
    return x + np.arange(3)  # mistake


def mixes_numbers(x):
    return ops.astype(x, "int64") * 2.5  # mistake


def sums_booleans(x):
    return ops.sum(x > 0)  # mistake


def takes_another_axis(x):
    return ops.mean(x, axis=2)  # mistake


def calls_numpy(x):
    return np.sum(x)  # mistake


def calls_numpy_for_what_ops_lack(x):
    return np.arctan(x)  # mistake


def calls_numpy_by_itself(x):
    return np.asarray(x)  # mistake


def calls_math(x):
    import math

    return math.exp(x[0, 0])  # mistake


def calls_a_method(x):
    return x.sum()  # mistake


def calls_another_method(x):
    return x.tolist()  # mistake


def prints_digits(x):
    return f"{ops.sum(x):.3f}"  # mistake


def indexes_too_far(x):
    return x[0, 5]  # mistake


def indexes_by_a_mask(x):
    return x[x > 0]  # mistake


def indexes_at_run_time(x):
    return x[ops.astype(x[0] * 9, "int64")]  # mistake


def slices_by_a_value(x):
    return x[: ops.argmax(x)]  # mistake


def gives_too_many(x):
    return ops.tanh(x, x)  # mistake


def gives_no_scalar(x):
    return x * 2.0  # mistake


def gives_an_integer(x):
    return ops.argmax(x)  # mistake


def loses_the_gradient(x):
    best = ops.argmax(x, 1)  # mistake
    return ops.sum(ops.astype(best, "float64"))


def compares(x):
    right = x > 0.5  # mistake
    return ops.mean(ops.astype(right, "float64"))


def uses_a_leak(x):
    return ops.sum(LEAKED[0] * x)  # mistake


def trace(f):
    bl.trace(f, X)


def run(f):
    bl.compile(f, executor="reference")(X)


def differentiate(f):
    bl.grad(f)(X)


# function, what is done with it, the error, then what its message says: the mistake, and what to do
MISTAKES = [
    (branches, trace, ControlFlowError, r"the truth of the traced value .*\(bool\[\], made by greater\)", "ops.where"),
    (asserts, trace, ControlFlowError, r"the truth of the traced value", "ops.where"),
    (loops, trace, ControlFlowError, r"the integer of the traced value \(i64\[\], made by sum\)", "ops.scan"),
    (assigns, trace, ControlFlowError, r"value \(f64\[2,3\], made by multiply\) cannot be assigned", "ops.where"),
    (assigns_and_adds, trace, ControlFlowError, r"traced value x .* cannot be assigned", "ops.scatter_add"),
    (multiplies_matrices, trace, ShapeError, r"matmul: the inner sizes 3 and 4 differ", "x.mT"),
    (adds, trace, ShapeError, r"add: the shapes \(2, 3\) and \(2, 4\) do not broadcast", "sizes must be equal or 1"),
    (adds_in_a_composite, trace, ShapeError, r"layer_norm, in its multiply: the shapes", "sizes must be equal"),
    (mixes_kinds, trace, DtypeError, r"add: f64 and i64 do not mix\n  inputs: f64\[2,3\], i64\[3\]", "ops.astype"),
    (mixes_numbers, trace, DtypeError, r"multiply: the Python number 2.5 does not mix with i64", "ops.astype"),
    (sums_booleans, trace, DtypeError, r"sum: takes numbers, not bool", "ops.astype"),
    (takes_another_axis, trace, ShapeError, r"mean, in its sum: axis 2 is out of range", "has 2 axes"),
    (calls_numpy, trace, ControlFlowError, r"np.sum was given the traced value x \(f64\[2,3\]", "use ops.sum"),
    (calls_numpy_for_what_ops_lack, trace, ControlFlowError, r"np.arctan was given", "no ops.arctan"),
    (calls_numpy_by_itself, trace, ControlFlowError, r"the array of the traced value x", "backlit.ops"),
    (calls_math, trace, ControlFlowError, r"the float of the traced value", "keep the value as it is"),
    (calls_a_method, trace, MissingMethodError, r"the traced value x .* has no .sum", r"use ops.sum\(x, ...\)"),
    (calls_another_method, trace, MissingMethodError, r"has no .tolist", "there is no ops.tolist"),
    (prints_digits, trace, ControlFlowError, r"the digits of the traced value", "without a format"),
    (indexes_too_far, trace, IndexingError, r"index 5 is out of range: axis 1 has size 3", "from -3 to 2"),
    (indexes_by_a_mask, trace, IndexingError, r"an index has dtype bool\n  inputs: f64.*, bool\[2,3\]", "ops.where"),
    (indexes_at_run_time, run, IndexingError, r"gather: index 9 is out of range: axis 0 has size 2", "from -2 to 1"),
    (slices_by_a_value, trace, ControlFlowError, r"a slice has a traced bound", "ops.take"),
    (gives_too_many, trace, StructureError, r"tanh: takes \(x\), not 2 values", ""),
    (gives_no_scalar, differentiate, GradientError, r"gives_no_scalar gives f64\[2,3\]", "ops.mean or ops.sum"),
    (gives_an_integer, differentiate, GradientError, r"gives_an_integer gives i64\[\]", "ops.mean or ops.sum"),
    (loses_the_gradient, differentiate, GradientError, r"argmax: no gradient reaches x: .*", "softmax for argmax"),
    (compares, differentiate, GradientError, r"greater: no gradient reaches x", "sigmoid for a comparison"),
    (uses_a_leak, trace, ControlFlowError, r"multiply: the traced value .* whose trace is over", "as an argument"),
]  # fmt: skip


@pytest.mark.parametrize(("f", "do", "kind", "what", "fix"), MISTAKES, ids=lambda v: getattr(v, "__name__", None))
def test_mistake(f, do, kind, what, fix):
    LEAKED.clear()
    bl.trace(lambda x: LEAKED.append(x) or x, X)
    with pytest.raises(kind) as caught:
        do(f)
    text = str(caught.value)
    assert re.search(what, text), text
    assert re.search(fix, text.splitlines()[-1]), text
    (line,) = [line for line in text.splitlines() if line.startswith("  at ")]
    assert line.startswith("  at test_errors.py:"), text
    assert f", in {f.__name__}: " in line, text
    assert line.endswith("# mistake"), text
    assert isinstance(caught.value, errors.Error)


# --- mistakes without a line of their own in a function ---------------------------------------------------------------

CALLS = [
    (lambda: bl.trace(branches), StructureError, "branches: missing a required argument: 'x'"),
    (lambda: bl.trace(branches, X, X), StructureError, "branches: too many positional arguments"),
    (lambda: bl.trace(gives_no_scalar, X * 1j), StructureError, "the leaf 'x' has dtype complex128"),
    (lambda: bl.trace(lambda p: p["a"], {"a": "text"}), StructureError, "the leaf 'p.a' is a str"),
    (lambda: bl.trace(lambda x: "text", X), StructureError, "the leaf 'result' is a str"),
    (lambda: bl.grad(ops.sum, argnums=1)(X), GradientError, "argnums=1 is out of range: 1 positional"),
    (lambda: bl.grad(lambda p: ops.sum(p["a"]), wrt="p.b")({"a": X}), GradientError, "choose from p.a"),
    (lambda: bl.grad(lambda x: x * x)(3), GradientError, "gives i64"),
    (lambda: bl.grad(lambda n, x: n * x)(3, 2.0), DtypeError, "i64 and f32 do not mix"),
    (lambda: bl.grad(lambda n, x: x)(3, 2.0), GradientError, r"n is i64\[\]: only floating-point .*\n.*\n.*3.0, not 3"),
    (lambda: bl.grad(lambda x: (ops.sum(x), x))(X), GradientError, "return the loss alone, or has_aux=True"),
    (lambda: bl.grad(lambda x: None)(X), GradientError, "<lambda> gives None\n.*\n.*lack a return"),
    (lambda: bl.grad(lambda x: ({"a": x}, x), has_aux=True)(X), GradientError, r"more than one number: dict\(a: \*\)"),
    (lambda: bl.grad(ops.sum, has_aux=True)(X), StructureError, r"a pair \(loss, aux\)"),
    (lambda: bl.vjp(gives_no_scalar, X)[1](np.ones(3)), ShapeError, r"cotangent has the shape \(3,\)"),
    (lambda: bl.vjp(gives_no_scalar, X)[1]((X, X)), StructureError, "cotangent is a tuple where a leaf"),
    (lambda: bl.jvp(gives_no_scalar, (X,), (np.ones(3),)), ShapeError, r"tangents\[0\] has the shape"),
    (lambda: bl.jvp(gives_no_scalar, (X,), (X.astype("f4"),)), DtypeError, r"tangents\[0\] is f32\[2,3\]"),
    (lambda: bl.compile(ops.sum, executor="abacus"), errors.Error, "no executor 'abacus'\n.*\n.*auto, reference"),
    (lambda: ops.astype(X, "float128x"), DtypeError, "'float128x' is no dtype"),
    (lambda: ops.astype(X, complex), DtypeError, "is no dtype of backlit"),
    (lambda: ops.where(X, 1.0, 0.0), DtypeError, "where: the condition is no boolean"),
    (lambda: np.int8(3) + ops.add(np.int8(1), 300), DtypeError, "300 does not fit in i8"),
]  # fmt: skip


@pytest.mark.parametrize(("f", "kind", "message"), CALLS)
def test_call(f, kind, message):
    with pytest.raises(kind) as caught:
        f()
    text = "\n".join("  at" if line.startswith("  at ") else line for line in str(caught.value).splitlines())
    assert re.search(message, text), text
    assert caught.value.site is not None
    assert caught.value.site.file == __file__


def test_every_error_is_also_a_builtin_one():
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.Error)]
    assert len(kinds) > 8
    for kind in kinds:
        assert kind is errors.Error or len(kind.__mro__) > 4, kind


def test_hasattr_and_containers_work_on_traced_values():
    """A missing attribute is missing, not an error."""

    def f(x):
        assert not hasattr(x, "toarray")
        assert not hasattr(x, "__float128__")
        assert repr(x).startswith("Traced(")
        assert str(x) == f"{x}"
        return x

    bl.trace(f, X)


def test_an_error_inside_an_error_handler_of_the_user():
    """Errors are ordinary exceptions: they can be caught where they are raised, and the trace goes on."""

    def f(x):
        try:
            return x @ x
        except ValueError:
            return x @ x.T

    assert bl.trace(f, X).outputs[0].type.shape == (2, 2)
