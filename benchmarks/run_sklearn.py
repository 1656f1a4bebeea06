"""scikit-learn's MLPClassifier and MLPRegressor: whole epochs, divided by their number of batches."""

from __future__ import annotations

import sys
import warnings

from sklearn.neural_network import MLPClassifier, MLPRegressor

from benchmarks.timing import report
from benchmarks.workloads import WORKLOADS, examples


def main(name: str, seconds: float) -> None:
    warnings.filterwarnings("ignore")
    work = WORKLOADS[name]
    if work.kind != "mlp":
        raise SystemExit("scikit-learn has dense networks only")
    x, y = examples(work, 20 * work.batch)
    made = MLPRegressor if work.loss == "mse" else MLPClassifier
    act = {"relu": "relu", "tanh": "tanh", "sigmoid": "logistic"}[work.activation]

    def run(count: int) -> None:
        epochs = max(1, count // 20)
        for _ in range(max(1, count // (20 * epochs))):
            made(
                hidden_layer_sizes=work.sizes[1:-1], activation=act, solver=work.optimizer, batch_size=work.batch,
                max_iter=epochs, n_iter_no_change=10**6,
            ).fit(x, y.ravel() if work.loss == "mse" else y)  # fmt: skip

    report(lambda: run(20), lambda count: run(20 * max(1, count // 20)) if count >= 20 else run(20), seconds)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
