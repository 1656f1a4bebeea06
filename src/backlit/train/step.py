"""The graphs of training: one whole step (forward, loss, gradients, update, metrics), and one batch of evaluation.

A training step carries everything that changes: parameters, the layers' state, the optimiser's state, a random key and
a counter. Random numbers of step t come from fold_in(key, t), so a step is a function of what it carries and its batch,
and a run goes on from any step with the same bits.

Sums, not means, leave a step: (loss × weight, weight) and each metric's (sum, count). They add up over batches of
different sizes to exactly the mean over the examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backlit import ops
from backlit.errors import Error
from backlit.executors.api import Executor, RunLoop
from backlit.ir import Derived, Graph
from backlit.nn import metrics
from backlit.nn.losses import Loss
from backlit.nn.metrics import Metric, WholeMetric
from backlit.nn.targets import columns, weights_like
from backlit.ops.record import Value
from backlit.optim.optimizer import Optimizer
from backlit.pytree import Structure, flatten, leaves, map_leaves, unflatten
from backlit.tracing import Trace, refuse_leaks, trace_function, type_of
from backlit.train.feeding import ROLES, Stretch
from backlit.transforms import gradient_of_trace

Array = np.ndarray[Any, np.dtype[Any]]
Tree = Any


@dataclass(frozen=True, slots=True, eq=False)
class Objective:
    """What is minimised and measured: a network, a loss, metrics by name, and a penalty on the parameters."""

    net: Any
    loss: Loss
    metrics: Mapping[str, Metric | FunctionMetric]
    whole: Mapping[str, WholeMetric]  # those that need all predictions at once
    penalty: Callable[[Any], Value] | None = None

    def predict(self, params: Tree, state: Tree, batch: Mapping[str, Value], **how: Any) -> tuple[Value, Tree]:
        extra = {"mask": batch["mask"]} if "mask" in batch else {}
        return self.net.forward(params, state, batch["x"], **how, **extra)

    def measure(self, predicted: Value, batch: Mapping[str, Value]) -> tuple[Value, Value]:
        """The mean loss of a batch, and what the batch weighs: its examples, or the sum of their weights."""
        y, sample_weight = batch["y"], batch.get("sample_weight")
        with ops.scope("loss"):
            loss = self.loss(predicted, y, sample_weight)
            weight = self._weight(predicted, y, sample_weight)
        return loss, ops.astype(weight, type_of(loss).dtype)

    def _weight(self, predicted: Value, y: Value, sample_weight: Value) -> Value:
        """What the mean loss was taken over. The losses themselves that this computes again are never used."""
        if self.loss.label == "custom":
            return np.float64(type_of(predicted).shape[0])
        each, weight = self.loss.each(columns(predicted), y)
        if sample_weight is not None:
            sample_weight = weights_like(each, sample_weight)
            weight = sample_weight if weight is None else sample_weight * weight
        return np.float64(type_of(each).size) if weight is None else ops.sum(weight)

    def observe(self, predicted: Value, batch: Mapping[str, Value]) -> dict[str, Tree]:
        """Each metric's sums for this batch."""
        found = {}
        for name, metric in self.metrics.items():
            with ops.scope(name):
                found[name] = metric(predicted, batch["y"], batch.get("sample_weight"))
        return found

    def results(self, sums: Mapping[str, Sequence[Array]]) -> dict[str, float]:
        """What the sums of all steps come to, with one row a step."""
        found = {}
        for name, parts in sums.items():
            totals = [np.asarray(p, np.float64).sum(axis=0) for p in parts]
            found[name] = float(self.metrics.get(name, _MEAN).result(*totals))
        return found


@dataclass(frozen=True, slots=True)
class FunctionMetric:
    """A function (predicted, target) -> mean, or (sum, count), as a metric."""

    function: Callable[[Value, Value], Any]

    def __call__(self, predicted: Value, target: Value, sample_weight: Value = None) -> tuple[Value, Value]:
        found = self.function(predicted, target)
        if isinstance(found, tuple):
            if len(found) != 2:
                raise Error(f"a metric gives {len(found)} values", fix="return a mean, or a pair (sum, count)")
            return found
        if type_of(found).shape:
            raise Error(f"a metric gives {type_of(found)}", fix="reduce it: ops.mean(...), or return (sum, count)")
        count = np.asarray(type_of(predicted).shape[0], type_of(predicted).dtype)
        return ops.astype(found, count.dtype) * count, count

    def result(self, total: Any, count: Any) -> float:
        return float(total) / float(count) if count else math.nan


_MEAN = FunctionMetric(ops.mean)


def metrics_by_name(given: Any) -> tuple[dict[str, Metric | FunctionMetric], dict[str, WholeMetric]]:
    """The metrics that add up over batches, and those of all predictions, under the names that the history shows."""
    if isinstance(given, str | Metric | WholeMetric) or callable(given):
        given = [given]
    pairs = given.items() if isinstance(given, Mapping) else [(None, m) for m in given]
    parts: dict[str, Metric | FunctionMetric] = {}
    whole: dict[str, WholeMetric] = {}
    for name, value in pairs:
        plain = callable(value) and not isinstance(value, Metric | WholeMetric | Loss | type)
        metric = FunctionMetric(value) if plain else metrics.get(value)
        own = getattr(value, "__name__", "metric") if isinstance(metric, FunctionMetric) else metric.label
        name = str(name or own)
        if name in parts or name in whole or name in ("loss", "penalty", "epoch", "step", "seconds", "skipped"):
            raise Error(f"the name {name!r} is taken", fix="give metrics other names: metrics={'name': metric}")
        if isinstance(metric, WholeMetric):
            whole[name] = metric
        else:
            parts[name] = metric
    return parts, whole


@dataclass(frozen=True, slots=True, eq=False)
class TrainingStep:
    """One step: (params, state, optimizer, key, step, batch) -> (what is carried on, what is watched).

    `forward` goes from the batch to the loss and whatever is measured. The rest of the step, gradients and update,
    follows from the graph of that by the settings of the optimiser, so it is only made where no program of it is known.

    With `skip` a step whose loss or new parameters are not finite changes nothing but the counter.
    """

    objective: Objective
    optimizer: Optimizer
    skip: bool

    @property
    def rule(self) -> str | None:
        """All that the rest of the step depends on besides the forward part; None where it may be anything."""
        return None if self.skip else self.optimizer.description()

    def forward(
        self, params: Tree, state: Tree, optimizer_state: Tree, key: Value, step: Value, **batch: Value
    ) -> tuple[Value, tuple[Value, Tree, dict[str, Tree]]]:
        """What is differentiated; and the loss with its penalty, the layers' new state, and what is watched."""
        objective, fresh = self.objective, ops.random.fold_in(key, step)
        predicted, new_state = objective.predict(params, state, batch, training=True, key=fresh)
        loss, weight = objective.measure(predicted, batch)
        whole, watched = loss, {"loss": (loss * weight, weight)}
        if objective.penalty is not None:
            with ops.scope("penalty"):
                penalty = objective.penalty(params)
            whole, watched["penalty"] = loss + penalty, (penalty * weight, weight)
        watched |= objective.observe(predicted, batch)
        return self.optimizer.scaled(optimizer_state, whole), (whole, new_state, watched)

    def whole(self, forward: Trace) -> Callable[..., tuple[Tree, Tree]]:
        """The function of the whole step, given the trace of its first part."""

        def step(params: Tree, state: Tree, optimizer_state: Tree, key: Value, step: Value, **batch: Value) -> Any:
            given = leaves(((params, state, optimizer_state, key, step), batch))
            (_, (whole, new_state, watched)), gradients = gradient_of_trace(forward, given)
            gradients = {name: ops.named(g, f"grad {name}") for name, g in gradients.items()}
            with ops.scope("update"):
                new_params, new_optimizer = self.optimizer.update(gradients, optimizer_state, params)
            if self.skip:
                good = ops.isfinite(whole)
                for leaf in flatten((new_params, new_state))[0]:
                    if type_of(leaf).dtype.kind == "f":
                        good = ops.logical_and(good, ops.all(ops.isfinite(leaf)))

                def chosen(new: Value, old: Value) -> Value:
                    return ops.where(good, new, old)

                new_params = map_leaves(chosen, new_params, params)
                new_state = map_leaves(chosen, new_state, state)
                new_optimizer = map_leaves(chosen, new_optimizer, optimizer_state)
                watched = map_leaves(lambda v: ops.where(good, v, ops.astype(0.0, type_of(v).dtype)), watched)
                watched["skipped"] = (ops.astype(ops.logical_not(good), "float32"), np.float32(1))
            next_step = step + np.uint32(1)
            return (new_params, new_state, new_optimizer, key, next_step), watched

        return step


def evaluation_step(objective: Objective) -> Callable[..., tuple[Tree, Tree]]:
    """(params, state, batch) -> (params, state), the sums of loss and metrics, without dropout and with fixed state.

    With metrics of all predictions the second part is a pair of the sums and the predictions.
    """

    def evaluate(params: Tree, state: Tree, **batch: Value) -> Any:
        predicted, _ = objective.predict(params, state, batch, training=False)
        loss, weight = objective.measure(predicted, batch)
        sums = {"loss": (loss * weight, weight)} | objective.observe(predicted, batch)
        return (params, state), (sums, predicted if objective.whole else None)

    return evaluate


def prediction_step(objective: Objective) -> Callable[..., tuple[Tree, Tree]]:
    """(params, state, batch) -> (params, state), the network's outputs."""

    def predict(params: Tree, state: Tree, **batch: Value) -> Any:
        return (params, state), objective.predict(params, state, batch, training=False)[0]

    return predict


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A compiled step for batches of one kind: its graph, and how to run several steps of it."""

    graph: Graph
    run: RunLoop
    carried: Structure
    watched: Structure

    def __call__(self, carry: Tree, stretch: Stretch, donate: bool = False) -> tuple[Tree, Tree]:
        """The carried values after the steps, and the watched ones, one row a step.

        With `donate` the carry is given away, to be updated where it lies: see `Executor.compile_loop`.
        """
        data = [stretch.data[r] for r in ROLES if r in stretch.data]
        state, rows = self.run(leaves(carry), data, stretch.rows, donate=donate)
        return unflatten(self.carried, state), unflatten(self.watched, rows)


def compile_step(
    step: TrainingStep | Callable[..., tuple[Tree, Tree]], executor: Executor, carry: Sequence[Tree], stretch: Stretch
) -> Program:
    """The step for batches like those of the stretch, as a program of the executor."""

    def like(shape: tuple[int, ...], dtype: Any) -> Array:
        """An array without memory of its own: the graph of a step may be asked for later, and would keep another."""
        return np.ndarray(shape, dtype, bytes(np.dtype(dtype).itemsize), strides=(0,) * len(shape))

    batch = {r: like((stretch.batch, *a.shape[1:]), a.dtype) for r, a in stretch.data.items()}
    batch = {r: batch[r] for r in ROLES if r in batch}
    held, _, carried = flatten(tuple(carry))
    held = [like(a.shape, a.dtype) for a in held]
    carry = unflatten(carried, held)

    def traced(step: Callable[..., tuple[Tree, Tree]]) -> Trace:
        trace = trace_function(step, *carry, **batch)
        refuse_leaks(trace.graph)
        if trace.result.children[0] != carried:
            raise Error("the step gives another structure than it carries: an optimiser or layer changes its state's")
        return trace

    if isinstance(step, TrainingStep):
        forward = trace_function(step.forward, *carry, **batch)
        refuse_leaks(forward.graph)
        rule, whole = step.rule, step.whole(forward)
    else:
        rule, whole = None, step
    if rule is not None:
        watched = forward.result.children[1].children[2]
        types = [*map(type_of, held), *forward.graph.types[-watched.size :]]
        rule = f"{rule} {carried!r} {forward.result!r}"
        graph: Graph = Derived(forward.graph, rule, types, lambda: traced(whole).graph)
    else:
        trace = traced(whole)
        graph, watched = trace.graph, trace.result.children[1]
    return Program(graph, executor.compile_loop(graph, len(held), len(batch)), carried, watched)
