"""What goes into the files: `save` and `load` for networks, and the checkpoints of `Trainer.save` and `resume`.

The rule: a file may name things, never define them. Layers, losses, metrics and optimisers are made from registered
kinds with checked settings, and before a network is made, the shapes that its definition asks for are held against the
tensors that are there. Functions of the user's own are passed again when a file is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from backlit.errors import CheckpointError, Error
from backlit.ir import Type
from backlit.nn import Network, Sequential
from backlit.nn.layer import Layer
from backlit.nn.losses import Loss
from backlit.nn.metrics import Metric, WholeMetric
from backlit.ops import random
from backlit.pytree import flatten, unflatten
from backlit.settings import revived
from backlit.tracing import trace_function, type_of
from backlit.train.checkpoint import Contents, guarded, read, write
from backlit.train.history import History
from backlit.train.run import Moment, Plan, joined

if TYPE_CHECKING:
    from backlit.train.trainer import Trainer

Array = np.ndarray[Any, np.dtype[Any]]
Tree = Any
_T = TypeVar("_T")

MAX_INPUT = 2**28
"""The largest input of one example, in elements, that a file may ask for."""


# --- networks ---------------------------------------------------------------------------------------------------------


def save(net: Network, path: str | Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write a network to one file, whole or not at all: its definition, parameters and state.

    `extra` is anything that JSON can hold, kept beside it (see `load_with_extra`). Raises SettingError for a layer with
    a function that no file can name, CheckpointError where the file cannot be written.
    """
    description = {"kind": "model", "network": net.config(), "extra": dict(extra or {})}
    write(path, description, _prefixed("params", net.params) | _prefixed("state", net.state))


def load(path: str | Path, net: Network | None = None) -> Network:
    """The network in a file that `save` or `Trainer.save` wrote; of a run with optim.EMA, with the averaged weights.

    `net`, if it is given, gets the parameters and is returned: for layers that the file cannot name. Nothing in the
    file is executed. Raises CheckpointError for a file that is no model, is damaged, or does not fit.
    """
    return load_with_extra(path, net)[0]


def load_with_extra(path: str | Path, net: Network | None = None) -> tuple[Network, dict[str, Any]]:
    """The network, and what was kept beside it."""
    contents = read(path)
    if contents.get("kind", str) not in ("model", "checkpoint"):
        raise CheckpointError(f"{contents.path} is a {contents.get('kind', str)!r:.60}, and no network or checkpoint")
    net = network_in(contents, net)
    average = contents.section("averaged")
    if average:
        _set(contents, net, average)
    return net, contents.get("extra", dict, {})


def network_in(contents: Contents, net: Network | None = None) -> Network:
    """The network that a file defines (or the one that is given), with the numbers of the file.

    Nothing is allocated before the shapes that the definition asks for are found to be those of the file's tensors.
    """
    if net is None:
        config = contents.get("network", (dict, type(None)))
        if config is None:
            raise CheckpointError(
                f"{contents.path} was saved with layers or functions that no file can name",
                fix="make the network as it was made, and pass it: net=",
            )

        def made() -> Network:
            elements = sum(a.size for a in contents.tensors.values())
            shapes = _parameter_shapes(config, max(elements, 2**20))
            there = {name: a.shape for name, a in contents.section("params").items()}
            if there != shapes:
                wrong = next(n for n in (*shapes, *there) if there.get(n) != shapes.get(n))
                raise CheckpointError(
                    f"the parameter {wrong!r:.60} has the shape {shapes.get(wrong, 'of nothing')} in the definition "
                    f"and {there.get(wrong, 'of nothing')} in the file"
                )
            return Network.from_config(config)

        net = _told(contents, "the definition of its network", made)
    _set(contents, net, contents.section("params"))
    return net


def _set(contents: Contents, net: Network, params: Mapping[str, Array]) -> None:
    """Give the network these parameters and the state of the file."""
    state = contents.section("state")
    for given, own, what in ((params, net.params, "parameter"), (state, net.state, "state")):
        for name in [*own, *given]:
            if name not in given or name not in own:
                lacking = "the file lacks" if name not in given else "the network lacks"
                raise CheckpointError(f"{contents.path} does not fit the network: {lacking} the {what} {name!r}")
            if type_of(given[name]) != type_of(own[name]):
                raise CheckpointError(
                    f"{contents.path} does not fit the network: the {what} {name!r} is {type_of(given[name])}, "
                    f"not {type_of(own[name])}"
                )
    net.params, net.state = params, state


def _parameter_shapes(config: Mapping[str, Any], most: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters of a network, without making any: its initialisation is traced.

    No layer may have a setting above `most`: what a layer keeps besides parameters is no larger than these.
    """
    shape = config["input_shape"]
    if not isinstance(shape, list) or any(type(n) is not int or n < 1 for n in shape) or math.prod(shape) > MAX_INPUT:
        raise CheckpointError(f"input_shape is {shape!r:.60}")
    if _largest(config["layers"]) > most:
        raise CheckpointError(f"a layer asks for {_largest(config['layers'])} of something")
    layer = Sequential(tuple(revived(c, Layer) for c in config["layers"]))
    dtype = np.dtype(str(config["input_dtype"]))
    if dtype.kind not in "iuf":
        raise CheckpointError(f"input_dtype is {dtype}")
    trace = trace_function(lambda key: layer.build(key, Type(dtype, tuple(shape))).params, random.key(0))
    return {name: o.type.shape for name, o in zip(trace.result.keys, trace.graph.outputs, strict=True)}


def _largest(config: Any) -> int:
    """The largest whole number in a definition."""
    match config:
        case bool():
            return 0
        case int():
            return abs(config)
        case list() | Mapping():
            return max(map(_largest, config.values() if isinstance(config, Mapping) else config), default=0)
    return 0


def _told(contents: Contents, what: str, make: Callable[[], _T]) -> _T:
    """What `make` gives; whatever goes wrong in it is told as an error of the file."""
    try:
        return make()
    except (Error, ValueError, TypeError, KeyError, AttributeError, OverflowError, MemoryError, RecursionError) as e:
        raise guarded(contents.path, what, e) from e


def _prefixed(name: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {f"{name}/{k}": np.asarray(a) for k, a in arrays.items()}


# --- checkpoints ------------------------------------------------------------------------------------------------------


def save_checkpoint(trainer: Trainer, path: str | Path) -> None:
    """Write everything that a run needs to go on with the same bits; of several processes the first one does."""
    if trainer.processes.id != 0:
        return
    moment = trainer.moment
    params, _, optimizer, *_ = moment.carry
    description = {
        "kind": "checkpoint",
        "network": _config(trainer.net),
        "loss": _config(trainer.objective.loss),
        "optimizer": trainer.optimizer.config(),
        "metrics": {n: _config(m) for n, m in (*trainer.objective.metrics.items(), *trainer.objective.whole.items())},
        "penalty": trainer.objective.penalty is not None,
        "on_nan": trainer.on_nan,
        "plan": None if trainer.plan is None else trainer.plan.config(),
        "stopped": trainer.stopped,
        "rollbacks": trainer.rollbacks,
        "epoch": moment.epoch,
        "batch": moment.batch,
        "history": list(trainer.history),
        "callbacks": [kind for kind, _ in trainer.callback_states()],
    }
    tensors = _carried("", moment.carry)
    average = trainer.optimizer.averaged(optimizer, params)
    if average is not params:
        tensors |= _prefixed("averaged", average)
    if trainer.on_nan == "rollback" and moment.batch:
        tensors |= _carried("epoch_start/", trainer.epoch_start.carry)
    if moment.sums:
        for name, columns in joined(moment.sums).items():
            tensors |= {f"sums/{name}/{i}": column for i, column in enumerate(columns)}
    tensors |= _prefixed("history", trainer.history)
    for i, (_, state) in enumerate(trainer.callback_states()):
        tensors |= _prefixed(f"callbacks/{i}", state)
    write(path, description, tensors)


def _config(thing: Any) -> dict[str, Any] | None:
    """The settings as plain data; None for what no file can name."""
    try:
        found: dict[str, Any] = thing.config()
    except (Error, AttributeError):
        return None
    return found


def _carried(prefix: str, carry: tuple[Tree, ...]) -> dict[str, Array]:
    params, state, optimizer, key, step = carry
    leaves, paths, _ = flatten(optimizer)
    found = _prefixed("params", params) | _prefixed("state", state)
    found |= _prefixed("optimizer", dict(zip(paths, leaves, strict=True)))
    return {f"{prefix}{name}": array for name, array in (found | {"key": key, "step": step}).items()}


def resume_checkpoint(cls: type[Trainer], path: str | Path, **given: Any) -> Trainer:
    """The trainer that `save_checkpoint` was given."""
    allowed = ("net", "loss", "optimizer", "metrics", "penalty", "executor")
    if wrong := [name for name in given if name not in allowed]:
        raise Error(f"resume does not take {wrong[0]}", fix=f"it takes {', '.join(allowed)}")
    contents = read(path)
    if contents.get("kind", str) != "checkpoint":
        raise CheckpointError(
            f"{contents.path} holds a network, and not a run that could go on", fix="read it with bl.load(path)"
        )
    net = network_in(contents, given.get("net"))
    arguments = {
        "loss": given.get("loss") or _revived(contents, "loss", contents.get("loss", (dict, type(None))), Loss),
        "optimizer": given.get("optimizer") or _optimizer(contents),
        "metrics": given["metrics"] if "metrics" in given else _metrics(contents),
        "penalty": given.get("penalty"),
        "on_nan": contents.get("on_nan", str),
    } | {name: given[name] for name in given if name == "executor"}
    if contents.get("penalty", bool) and arguments["penalty"] is None:
        raise CheckpointError(f"{contents.path} is of a run with a penalty", fix="pass the same function: penalty=")
    trainer = _told(contents, "its settings", lambda: cls(net, **arguments))
    _told(contents, "its state", lambda: _restore(trainer, _scaled(trainer, contents)))
    return trainer


def _scaled(trainer: Trainer, contents: Contents) -> Contents:
    """The contents, with a loss scale's start where this trainer has one and the optimiser of the file has none."""
    from backlit import optim

    if not isinstance(trainer.optimizer, optim.LossScale) or contents.get("optimizer", dict).get("kind") == "lossscale":
        return contents
    start = _prefixed("optimizer", {k: trainer.moment.carry[2][k] for k in ("loss_scale", "good_steps")})
    whole = ["", "epoch_start/"] if "epoch_start/step" in contents.tensors else [""]
    added = {f"{prefix}{name}": array for prefix in whole for name, array in start.items()}
    return replace(contents, tensors={**contents.tensors, **added})


def _revived(contents: Contents, what: str, config: Any, base: Any) -> Any:
    if config is None:
        raise CheckpointError(
            f"{contents.path} is of a run with a {what} that no file can name", fix=f"pass it again: {what}="
        )
    return _told(contents, f"its {what}", lambda: revived(config, base))


def _optimizer(contents: Contents) -> Any:
    from backlit import optim

    return _told(contents, "its optimizer", lambda: optim.from_config(contents.get("optimizer", dict)))


def _metrics(contents: Contents) -> dict[str, Any]:
    found = contents.get("metrics", dict)
    for name, config in found.items():
        if config is None:
            raise CheckpointError(
                f"{contents.path} is of a run with the metric {name!r:.60}, a function",
                fix="pass all metrics again: metrics={'name': function, ...}",
            )
    return {name: _told(contents, "its metrics", lambda c=config: _metric(c)) for name, config in found.items()}  # type: ignore[misc]


def _metric(config: Any) -> Metric | WholeMetric:
    found = revived(config)
    if not isinstance(found, Metric | WholeMetric):
        raise CheckpointError(f"{found!r:.60} is no metric")
    return found


def _restore(trainer: Trainer, contents: Contents) -> None:
    """Put the moment, the plan, the history and what the callbacks remember back into a new trainer."""
    carry = _carry_of(contents, "", trainer.moment.carry)
    epoch, batch = _count(contents, "epoch"), _count(contents, "batch")
    sums: dict[str, dict[int, Array]] = {}
    for name, column in contents.section("sums").items():
        metric, _, part = name.rpartition("/")
        sums.setdefault(metric, {})[int(part)] = column
        if column.shape != (batch,):
            raise CheckpointError(f"the sums {name!r:.60} have the shape {column.shape}")
    expected = ["loss", *["penalty"] * (trainer.objective.penalty is not None), *trainer.objective.metrics]
    expected += ["skipped"] * (trainer.on_nan == "skip")
    if set(sums) != (set(expected) if batch else set()):
        raise CheckpointError("the sums of the epoch are not those of its loss and metrics")
    ordered = {name: tuple(sums[name][i] for i in range(len(sums[name]))) for name in (expected if batch else ())}
    trainer.moment = Moment(carry, epoch, batch, (ordered,) if batch else ())
    trainer.epoch_start = trainer.moment
    if trainer.on_nan == "rollback" and batch:
        trainer.epoch_start = Moment(_carry_of(contents, "epoch_start/", carry), epoch)
    plan = contents.get("plan", (dict, type(None)))
    trainer.plan = None if plan is None else _plan(plan)
    columns = contents.section("history")
    if sorted(map(str, contents.get("history", list))) != sorted(columns):
        raise CheckpointError("the columns of its history are not those it names")
    trainer.history = History({name: columns[name] for name in contents.get("history", list)})
    kinds = contents.get("callbacks", list)
    states = [(str(kind), contents.section(f"callbacks/{i}")) for i, kind in enumerate(kinds[:1000])]
    trainer.resumed_with(states, contents.get("stopped", str), _count(contents, "rollbacks"))


def _count(contents: Contents, key: str) -> int:
    value: int = contents.get(key, int)
    if isinstance(value, bool) or not 0 <= value < 2**62:
        raise CheckpointError(f"{key} is {value!r:.60}")
    return value


def _carry_of(contents: Contents, prefix: str, template: tuple[Tree, ...]) -> tuple[Tree, ...]:
    """The carried values of the file, in the structure and of the types of the template."""
    wanted = _carried(prefix, template)
    for name, array in wanted.items():
        found = contents.tensors.get(name)
        if found is None or type_of(found) != type_of(array):
            raise CheckpointError(
                f"{name!r:.60} is {'missing' if found is None else type_of(found)}, and should be {type_of(array)}"
            )
    for name in contents.tensors:
        if name.startswith(f"{prefix}optimizer/") and name not in wanted:
            raise CheckpointError(f"{name!r:.60} is nothing that its optimiser remembers")
    params, state, optimizer, *_ = template
    arrays = {name.removeprefix(prefix): contents.tensors[name] for name in wanted}
    _, paths, structure = flatten(optimizer)
    return (
        {k: arrays[f"params/{k}"] for k in params},
        {k: arrays[f"state/{k}"] for k in state},
        unflatten(structure, [arrays[f"optimizer/{p}"] for p in paths]),
        arrays["key"],
        arrays["step"],
    )


def _plan(config: Mapping[str, Any]) -> Plan:
    empty = Plan(0, 0, 1, 0, True, False, None, 0.0, 0)
    if set(config) != set(empty.config()):
        raise CheckpointError(f"its plan has the entries {', '.join(map(str, config))!r:.80}")
    for name, usual in empty.config().items():
        value = config[name]
        kinds = (int, type(None)) if name == "steps_per_epoch" else (float, int) if name == "holdout" else type(usual)
        if not isinstance(value, kinds) or (isinstance(value, bool) and not isinstance(usual, bool)):
            raise CheckpointError(f"{name} of its plan is {value!r:.60}")
        if isinstance(value, int) and name != "seed" and not 0 <= value < 2**62:
            raise CheckpointError(f"{name} of its plan is {value!r:.60}")
    if config["batch_size"] < 1 or config["steps_per_epoch"] == 0 or not 0 <= config["holdout"] < 1:
        raise CheckpointError("its plan cannot be carried out")
    return replace(empty, **config)
