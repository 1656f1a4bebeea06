"""Operations on arrays and traced values, with the names of the Python array API standard where it has one.

Given arrays they compute at once; given a traced value they add to the graph.
"""

from backlit.ops import random as random
from backlit.ops.activation import (
    celu,
    elu,
    gelu,
    hard_sigmoid,
    hard_silu,
    hard_tanh,
    leaky_relu,
    log_sigmoid,
    mish,
    relu6,
    selu,
    silu,
    softsign,
)
from backlit.ops.composite import (
    attention,
    clip,
    isfinite,
    isinf,
    isnan,
    layer_norm,
    log_softmax,
    rsqrt,
    softmax,
)  # fmt: skip
from backlit.ops.contraction import contract, einsum, matmul, outer, tensordot, vecdot
from backlit.ops.control import scan
from backlit.ops.elementwise import (
    abs,
    add,
    astype,
    bitwise_and,
    bitwise_invert,
    bitwise_left_shift,
    bitwise_or,
    bitwise_right_shift,
    bitwise_xor,
    cos,
    divide,
    equal,
    exp,
    expm1,
    floor,
    floor_divide,
    greater,
    greater_equal,
    less,
    less_equal,
    log,
    log1p,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    maximum,
    minimum,
    multiply,
    negative,
    not_equal,
    pow,
    relu,
    remainder,
    round,
    sigmoid,
    sign,
    sin,
    softplus,
    sqrt,
    stop_gradient,
    subtract,
    tanh,
    where,
)  # fmt: skip
from backlit.ops.indexing import gather, one_hot, scatter_add, sort, take, take_along_axis, tril, triu
from backlit.ops.movement import (
    broadcast_to,
    concat,
    expand_dims,
    flatten,
    flip,
    matrix_transpose,
    moveaxis,
    pad,
    permute_dims,
    reshape,
    roll,
    split,
    squeeze,
    stack,
    tile,
    transpose,
)  # fmt: skip
from backlit.ops.operators import install
from backlit.ops.reduction import (
    all,
    any,
    argmax,
    argmin,
    argsort,
    cumulative_sum,
    logsumexp,
    max,
    mean,
    min,
    prod,
    std,
    sum,
    var,
)  # fmt: skip
from backlit.ops.special import erf, erfinv
from backlit.ops.window import (
    avg_pool,
    conv,
    conv_transpose,
    fold,
    global_avg_pool,
    global_max_pool,
    max_pool,
    windows,
)  # fmt: skip
from backlit.tracing import named, scope

install()

__all__ = [
    "abs", "add", "all", "any", "argmax", "argmin", "argsort", "astype", "attention", "avg_pool", "bitwise_and",
    "bitwise_invert", "bitwise_left_shift", "bitwise_or", "bitwise_right_shift", "bitwise_xor", "broadcast_to",
    "celu", "clip", "concat", "contract", "conv", "conv_transpose", "cos", "cumulative_sum", "divide", "einsum",
    "elu", "equal", "erf", "erfinv", "exp", "expand_dims", "expm1", "flatten", "flip", "floor", "floor_divide",
    "fold", "gather", "gelu", "global_avg_pool", "global_max_pool", "greater", "greater_equal", "hard_sigmoid",
    "hard_silu", "hard_tanh", "isfinite", "isinf", "isnan", "layer_norm", "leaky_relu", "less", "less_equal", "log",
    "log1p", "log_sigmoid", "log_softmax", "logical_and", "logical_not", "logical_or", "logical_xor", "logsumexp",
    "matmul", "matrix_transpose", "max", "max_pool", "maximum", "mean", "min", "minimum", "mish", "moveaxis",
    "multiply", "named", "negative", "not_equal", "one_hot", "outer", "pad", "permute_dims", "pow", "prod", "random",
    "relu", "relu6", "remainder", "reshape", "roll", "round", "rsqrt", "scan", "scatter_add", "scope", "selu",
    "sigmoid", "sign", "silu", "sin", "softmax", "softplus", "softsign", "sort", "split", "sqrt", "squeeze", "stack",
    "std", "stop_gradient", "subtract", "sum", "take", "take_along_axis", "tanh", "tensordot", "tile", "transpose",
    "tril", "triu", "var", "vecdot", "where", "windows",
]  # fmt: skip
