"""What scaling costs: the bytes counted in compiled programs, and the model on paper."""

import itertools
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from typer.testing import CliRunner

from benchmarks import scaling, scaling_model
from benchmarks.scaling_model import GPUS, H100, MODELS, Cluster, Training, all_reduce, ring
from benchmarks.scaling_program import Collective, collectives
from benchmarks.workloads import WORKLOADS

PROGRAM = """HloModule jit_run, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%add (x: f32[], y: f32[]) -> f32[] {
  %all-reduce.99 = f32[1000]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
}

%inner (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %permuted = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%a), source_target_pairs={{0,1},{1,0}}
  %done = f32[4]{0} collective-permute-done(%permuted)
}

%called (p: f32[2]) -> f32[4] {
  ROOT %g = (bf16[2]{0}, bf16[8]{0}) all-gather-start(%p), replica_groups=[2,4]<=[8], dimensions={0}
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %both = (f32[8,3]{1,0:T(8,128)}, /*index=1*/pred[]) all-reduce(%a, %b), replica_groups={{0,1,2,3},{4,5,6,7}}
  %while.1 = (s32[], f32[4]{0}) while(%t), condition=%c, body=%inner, backend_config={"known_trip_count":{"n":"5"}}
  %call.1 = bf16[8]{0} call(%x), to_apply=%called
  %scattered = f32[2]{0} reduce-scatter(%s), replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}, to_apply=%add
  %swapped = f32[16]{0} all-to-all(%s), replica_groups={}, dimensions={0}
}

%cond (p: (s32[], f32[8])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %outside = f32[100]{0} all-gather(%p), replica_groups={{0,1}}, dimensions={0}
  %while.2 = (s32[], f32[8]{0}) while(%t), condition=%cond, body=%body
}
"""


def test_the_collectives_of_a_step_are_read():
    assert collectives(PROGRAM, 8) == [
        Collective("all-reduce", 8 * 3 * 4 + 1, 4),
        Collective("collective-permute", 16, 8, times=5),
        Collective("all-gather", 16, 4),
        Collective("reduce-scatter", 2 * 4 * 4, 4),
        Collective("all-to-all", 64, 8),
    ]


def test_what_a_ring_sends():
    assert Collective("all-reduce", 100, 4).sent == 150
    assert Collective("all-gather", 100, 4, times=2).sent == 150
    assert Collective("reduce-scatter", 100, 5).sent == 80
    assert Collective("collective-permute", 100, 4).sent == 100
    assert all(Collective(kind, 100, 1).sent == 0 for kind in ("all-reduce", "all-gather", "collective-permute"))


def test_a_loop_in_the_step_counts_as_often_as_it_turns():
    mesh = Mesh(np.array(jax.devices()[:4]), ("d",))
    cut, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("d",), ()))

    def run(x, n):
        def turn(_, x):
            total = jax.lax.with_sharding_constraint(x.sum(0), whole)
            return jax.lax.with_sharding_constraint(x * 0.5 + total, cut)

        return jax.lax.fori_loop(0, n, lambda _, x: jax.lax.fori_loop(0, 6, turn, x), x)

    given = jax.ShapeDtypeStruct((8, 5), jnp.float32, sharding=cut), jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    found = collectives(jax.jit(run).lower(*given).compile().as_text(), 4)
    assert sum(c.times * c.bytes for c in found if c.kind == "all-reduce") == 6 * 5 * 4


SMALL = replace(WORKLOADS["digits 64-100-10"], batch=16, steps=2)
PARAMETERS = 65 * 100 + 101 * 10


@pytest.mark.parametrize("devices", [1, 4])
def test_data_parallel_training_sends_its_gradients(devices):
    found = scaling.measure_share(SMALL, devices, None, 0.0)
    assert found.seconds > 0
    if devices == 1:
        assert (found.count, found.sent) == (0, 0)
    else:
        assert 4 * PARAMETERS <= found.reduced < 4 * PARAMETERS + 4 * 2 * SMALL.batch
        assert found.gathered < 0.05 * found.reduced
        assert found.sent == pytest.approx(2 * 3 / 4 * found.reduced + 3 / 4 * found.gathered)
    share = 6 * SMALL.batch / devices * PARAMETERS
    assert 0.5 * share < found.operations < 2 * share + 20 * PARAMETERS  # the update does not get less
    assert found.memory > 3 * 4 * PARAMETERS


def test_devices_hold_less_where_weights_are_cut():
    whole, cut = (scaling.measure_share(SMALL, 2, shard, 0.0) for shard in (None, scaling.CUT))
    assert cut.memory < whole.memory - 3 * 4 * 64 * 100 / 2
    assert cut.gathered > whole.gathered


@pytest.mark.parametrize("parameters", scaling.SIZES)
def test_dense_networks_have_the_parameters_asked_for(parameters):
    sizes = scaling.dense(parameters, 1).net.sizes
    found = sum((a + 1) * b for a, b in itertools.pairwise(sizes))
    assert found == pytest.approx(parameters, rel=0.05)


@pytest.mark.parametrize("executor", ["native", "xla"])
def test_steps_a_second_are_measured(executor):
    rate, first = scaling.steps_a_second(1000, executor, 0.0)
    assert rate > 10
    assert first > 0


def test_a_ring_by_hand():
    assert ring(1, 1e9, 1e9, 1.0) == 0
    assert ring(4, 8.0, 2.0, 0.5) == 2 * 3 / 4 * 8 / 2 + 2 * 3 * 0.5
    one = Cluster("", rate=1, node=8, inner=10.0, outer=1.0, inner_hop=0.1, outer_hop=0.2)
    assert all_reduce(one, 4, 80.0) == ring(4, 80.0, 10.0, 0.1)
    assert all_reduce(one, 8, 80.0) == ring(8, 80.0, 10.0, 0.1)
    assert all_reduce(one, 32, 80.0) == ring(8, 80.0, 10.0, 0.1) + ring(4, 10.0, 1.0, 0.2)


def test_efficiency_by_hand():
    one = Cluster("", rate=10.0, node=8, inner=4.0, outer=1.0, inner_hop=0.0, outer_hop=0.0)
    training = Training("", "", parameters=4, operations=20, batch=7, total=56, gradient_bytes=4)
    step = scaling_model.weak(training, one, 8)
    assert (step.compute, step.communication) == (14, 7)
    assert step.plain == 14 / 21
    assert step.hidden == 1
    assert scaling_model.strong(training, one, 8) == step
    few = scaling_model.strong(training, one, 2)
    assert (few.batch, few.compute, few.communication) == (28, 56, 4)
    slow = scaling_model.weak(replace(training, batch=1), one, 8)
    assert (slow.compute, slow.communication) == (2, 7)
    assert slow.hidden == pytest.approx(2 / (2 + 7 - 4 / 3))


@pytest.mark.parametrize("training", MODELS, ids=lambda t: t.name)
def test_more_gpus_are_less_efficient_and_strong_scaling_ends(training):
    for function in (scaling_model.weak, scaling_model.strong):
        steps = [function(training, H100, n) for n in GPUS]
        assert all(0 < s.plain <= s.hidden <= 1 for s in steps)
        assert all(a.plain > b.plain for a, b in itertools.pairwise(steps))
    assert scaling_model.strong(training, H100, 1024).plain < scaling_model.weak(training, H100, 1024).plain


def test_the_model_is_printed():
    found = CliRunner().invoke(scaling.app, ["paper", "--markdown"])
    assert found.exit_code == 0
    assert found.output.count("| 1,024 |") == 1 + 2 * len(MODELS)


def test_the_page_has_the_model_as_it_is():
    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    for row in scaling.efficiencies()[1]:
        assert f"| {' | '.join(row)} |" in page
    for number in (H100.rate / 1e12, H100.outer * 8 / 1e9, H100.inner * 2 / 1e9):
        assert f"{number:g} " in page


def test_what_is_unknown_is_refused():
    found = CliRunner().invoke(scaling.app, ["devices", "vgg"])
    assert found.exit_code == 2
    assert "vgg" in found.output
