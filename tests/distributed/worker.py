"""What a process of these tests does: `python worker.py JSON`, where JSON has the settings that `run` takes.

Prints lines of JSON: {"loss": ...} after each step, {"history": ...} at the end.
"""

import json
import sys
from pathlib import Path

import numpy as np

import backlit as bl
from backlit import nn
from backlit.train import Checkpoint, EarlyStopping, LambdaCallback

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(250, 6)).astype(np.float32)
Y = (X[:, 0] * X[:, 1] + 0.3 * X[:, 2] > 0).astype(int)
SETTINGS = {"batch_size": 32, "validation": 0.2}  # 200 rows: the last minibatch has 8


def network(seed=0):
    layers = [nn.Dense(16, "tanh"), nn.BatchNorm(), nn.Dropout(0.3), nn.Dense(2)]
    return bl.Network(layers, (6,), seed=seed)


def say(**what):
    print(json.dumps(what), flush=True)


def run(
    executor="xla", epochs=8, save=None, resume=None, mapped=None, seed=0, patience=None, rate=0.01, on_nan="raise",
    shard=None, metrics=("accuracy", "roc_auc"),
):  # fmt: skip
    """Train, or go on with `resume`; every step's loss is told, and after each epoch the run is saved to `save`."""
    x, y = X, Y
    if mapped is not None:  # the rows lie in a file
        x = np.load(mapped, mmap_mode="r")
    chosen = bl.executors.XLA(devices=None, shard=shard) if executor == "xla" else executor
    if resume is not None:
        trainer = bl.Trainer.resume(resume, executor=chosen)
    else:
        optimizer = bl.optim.Adam(rate)
        trainer = bl.Trainer(
            network(seed), "crossentropy", optimizer, metrics=list(metrics), executor=chosen, on_nan=on_nan
        )
    told = LambdaCallback(
        steps=lambda t: say(loss=float(t.moment.sums[-1]["loss"][0][-1] / t.moment.sums[-1]["loss"][1][-1])),
        every_steps=1,
    )
    callbacks = [told] + ([] if patience is None else [EarlyStopping(patience=patience)])
    callbacks += [] if save is None else [Checkpoint(save)]
    history = trainer.fit(x, y, epochs=epochs, callbacks=callbacks, progress=False, **SETTINGS)
    say(
        history={name: list(map(float, column)) for name, column in history.items() if name != "seconds"},
        params={name: np.asarray(p, np.float64).ravel().tolist() for name, p in trainer.net.params.items()},
        stopped=trainer.stopped,
        predictions=np.asarray(trainer.predict(X[:10]), np.float64).ravel().tolist(),
    )


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    how = settings.pop("cluster", None)
    if how is not None:
        me = bl.distributed.initialize(**how)
        again = bl.distributed.initialize()  # a second call changes nothing
        assert me == again == bl.distributed.member()
        settings = settings.get(str(me.id), settings)
    save = settings.get("save")
    if save is not None:
        Path(save).parent.mkdir(exist_ok=True)
    run(**settings)
