"""Many graphs held against the reference executor at once, as one, since compiling is what takes time."""

import numpy as np

from backlit.executors import get
from backlit.ir import Graph

TOLERANCE = {"float64": 1e-12, "float32": 2e-5}


def one_graph(graphs_with_inputs):
    """(graph, arrays, the label of each output)."""
    inputs, outputs, values, labels = [], [], [], []
    for label, graph, given in graphs_with_inputs:
        inputs += graph.inputs
        outputs += graph.outputs
        values += given
        labels += [label] * len(graph.outputs)
    return Graph(tuple(inputs), tuple(outputs)), values, labels


def agree(executor, graphs):
    graph, given, labels = one_graph(graphs)
    expected, found = get("reference").compile(graph)(*given), get(executor).compile(graph)(*given)
    for label, a, b in zip(labels, expected, found, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), label
        tolerance = TOLERANCE.get(a.dtype.name, 0)
        np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance, err_msg=label)
