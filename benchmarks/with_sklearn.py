"""The dense workloads in scikit-learn: an epoch is one `partial_fit` of all its batches, in their order.

It has no sigmoid on the output of a regression, and no other networks than dense ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor

from benchmarks.givens import Givens
from benchmarks.workloads import Mlp, Workload

ACTIVATIONS = {"sigmoid": "logistic", "tanh": "tanh", "relu": "relu"}


def prepare(workload: Workload, givens: Givens) -> Callable[[], Sequence[Any]]:
    """A function that trains for an epoch and gives its mean loss, alone."""
    net = workload.net
    assert isinstance(net, Mlp)
    assert net.output is None
    classifies = workload.loss == "crossentropy"
    model = (MLPClassifier if classifies else MLPRegressor)(
        hidden_layer_sizes=net.sizes[1:-1],
        activation=ACTIVATIONS[net.hidden],
        solver=workload.optimizer,
        batch_size=workload.batch,
        learning_rate_init=workload.learning_rate,
        alpha=0.0,
        shuffle=False,
    )
    order = givens.rows.ravel()
    x, y = givens.x[order], givens.y[order] if classifies else givens.y[order, 0]
    how = {"classes": np.arange(net.classes)} if classifies else {}
    model.partial_fit(x[: workload.batch], y[: workload.batch], **how)  # makes what is overwritten now
    for i, (weight, bias) in enumerate(zip(model.coefs_, model.intercepts_, strict=True), 1):
        weight[:], bias[:] = givens.weights[f"dense_{i}.weight"], givens.weights[f"dense_{i}.bias"]
    del model._optimizer  # its memory of that step; another one is made

    # Its squared error is half of the others'. Adam, which regressions here are trained by, takes the same steps.
    scale = 1.0 if classifies else 2.0

    def train() -> Sequence[Any]:
        model.partial_fit(x, y)
        return [scale * model.loss_]

    return train
