"""Metrics: against scikit-learn, whole or in batches, and what they refuse."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

import backlit as bl
from backlit.errors import DtypeError, SettingError, ShapeError
from backlit.nn import losses, metrics
from backlit.nn.metrics import Accuracy, Average, Metric, TopK, WholeMetric
from backlit.settings import kinds, revived

RANDOM = np.random.default_rng(0)
Z, Y = RANDOM.standard_normal((60, 5)), RANDOM.integers(0, 5, 60)
ONE, BINARY = RANDOM.standard_normal(60), RANDOM.integers(0, 2, 60)
NUMBERS = RANDOM.standard_normal((60, 5)) + 1000
WEIGHTS = RANDOM.random(60)


def value(metric: Metric, predicted, target, weights=None, batches: int = 1) -> float:
    """The metric, its sums added up over batches, each computed by a compiled step."""
    run = bl.compile(metric)
    totals = None
    for rows in np.array_split(np.arange(len(predicted)), batches):
        more = (weights[rows],) if weights is not None else ()
        sums = [float(s) for s in run(predicted[rows], target[rows], *more)]
        totals = sums if totals is None else [a + b for a, b in zip(totals, sums, strict=True)]
    return metric.result(*totals)


@pytest.mark.parametrize("batches", [1, 7])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_scikit_learn_agrees(batches, weights):
    expected = {
        "accuracy": (Z, Y, sk.accuracy_score(Y, Z.argmax(1), sample_weight=weights)),
        "top_k": (Z, Y, sk.top_k_accuracy_score(Y, Z, k=2, sample_weight=weights)),
        "r2": (NUMBERS + Z / 2, NUMBERS, sk.r2_score(NUMBERS.ravel(), (NUMBERS + Z / 2).ravel(), sample_weight=None)),
        "mae": (Z, NUMBERS, sk.mean_absolute_error(NUMBERS, Z, sample_weight=weights)),
        "mse": (Z, NUMBERS, sk.mean_squared_error(NUMBERS, Z, sample_weight=weights)),
        "binary_crossentropy": (ONE, BINARY, sk.log_loss(BINARY, 1 / (1 + np.exp(-ONE)), sample_weight=weights)),
    }
    for name, (predicted, target, number) in expected.items():
        metric = TopK(2) if name == "top_k" else metrics.get(name)
        given = None if name == "r2" else weights
        assert value(metric, predicted, target, given, batches) == pytest.approx(number, rel=1e-8), name


def test_one_logit_is_two_classes():
    expected = sk.accuracy_score(BINARY, ONE > 0)
    assert value(Accuracy(), ONE, BINARY) == value(Accuracy(), ONE[:, None], BINARY) == pytest.approx(expected)
    chances = 1 / (1 + np.exp(-ONE))
    assert value(Accuracy(threshold=0.5), chances, BINARY) == pytest.approx(expected)


def test_labels_rows_and_probabilities_are_taken():
    expected = value(Accuracy(), Z, Y)
    for target in (
        np.eye(5)[Y],
        np.eye(5, dtype=int)[Y],
        np.eye(5, dtype=bool)[Y],
        Y[:, None],
        0.8 * np.eye(5)[Y] + 0.04,
    ):
        assert value(Accuracy(), Z, target) == expected


def test_r2_survives_targets_far_from_zero_in_float32():
    y = (RANDOM.standard_normal(200) + 2000).astype(np.float32)
    found = (y + 0.1 * RANDOM.standard_normal(200)).astype(np.float32)
    expected = sk.r2_score(y.astype(float), found.astype(float))
    assert value(metrics.get("r2"), found, y, batches=9) == pytest.approx(expected, abs=1e-6)
    weights = RANDOM.random(200).astype(np.float32)
    expected = sk.r2_score(y.astype(float), found.astype(float), sample_weight=weights)
    assert value(metrics.get("r2"), found, y, weights, batches=9) == pytest.approx(expected, abs=1e-6)
    assert np.isnan(value(metrics.get("r2"), found, np.ones(200)))


@given(st.integers(2, 5), st.integers(1, 20), st.integers(1, 4), st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_batches_add_up(classes, rows, batches, seed):
    random = np.random.default_rng(seed)
    z, y = random.standard_normal((rows, classes)), random.integers(0, classes, rows)
    batches = min(batches, rows)
    for metric in (Accuracy(), TopK(2), Average("crossentropy")):
        assert value(metric, z, y, batches=batches) == pytest.approx(value(metric, z, y), rel=1e-10)
    assert value(TopK(classes), z, y) == 1
    assert value(TopK(1), z, y) == value(Accuracy(), z, y)


def test_every_loss_is_a_metric():
    for name in losses.LOSSES:
        metric = metrics.get(name)
        assert metric.label == name
        assert not metric.higher_is_better
    weighted = Average(losses.CrossEntropy(class_weight=(1, 2, 3, 4, 5)))
    assert value(weighted, Z, Y, batches=4) == pytest.approx(float(weighted.loss(Z, Y)), rel=1e-10)


# --- of all predictions at once ---------------------------------------------------------------------------------------


def test_whole_metrics_are_scikit_learns():
    p = np.exp(Z) / np.exp(Z).sum(1, keepdims=True)
    found = {name: metrics.get(name)(Z, Y) for name in ("roc_auc", "precision", "recall", "f1")}
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(Y, p, multi_class="ovr"))
    assert found["precision"] == pytest.approx(sk.precision_score(Y, Z.argmax(1), average="macro"))
    assert found["recall"] == pytest.approx(sk.recall_score(Y, Z.argmax(1), average="macro"))
    assert found["f1"] == pytest.approx(sk.f1_score(Y, Z.argmax(1), average="macro"))
    np.testing.assert_array_equal(metrics.get("confusion_matrix")(Z, Y), sk.confusion_matrix(Y, Z.argmax(1)))
    assert metrics.get("roc_auc")(ONE, BINARY) == pytest.approx(sk.roc_auc_score(BINARY, ONE))
    both = np.stack([-ONE, ONE], 1)
    assert metrics.get("roc_auc")(both, BINARY) == pytest.approx(sk.roc_auc_score(BINARY, ONE))
    assert metrics.get("f1")(ONE, BINARY) == pytest.approx(sk.f1_score(BINARY, ONE > 0))
    assert metrics.get("f1")(both, BINARY) == pytest.approx(sk.f1_score(BINARY, ONE > 0))


def test_classes_that_do_not_occur_keep_their_place_in_the_confusion_matrix():
    found = metrics.get("confusion_matrix")(np.eye(4)[[0, 1, 1]], np.array([0, 1, 0]))
    np.testing.assert_array_equal(found, [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


# --- names and refusals -----------------------------------------------------------------------------------------------


def test_metrics_survive_json():
    every = [*metrics.METRICS.values(), TopK(3), Average("mae"), metrics.F1(average="micro")]
    assert {type(m) for m in every} == {*kinds(Metric).values(), *kinds(WholeMetric).values()}
    for metric in every:
        assert revived(json.loads(json.dumps(metric.config()))) == metric


def test_unknown_metrics_are_refused():
    with pytest.raises(SettingError, match="there is no metric 'acuracy'") as e:
        metrics.get("acuracy")
    assert "accuracy" in str(e.value)
    assert "mae" in str(e.value)
    with pytest.raises(SettingError):
        Average(lambda p, t: p)
    assert metrics.get(TopK(3)).k == 3
    assert metrics.get(Accuracy) == Accuracy()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ShapeError, match=r"metric top_k: there are 5 classes, and k is 6"):
        TopK(6)(Z, Y)
    with pytest.raises(ShapeError, match="metric accuracy: the target has the shape"):
        Accuracy()(Z, Y[:3])
    with pytest.raises(DtypeError, match="labels are integers"):
        metrics.check(Accuracy(), Z, Y.astype(float))
    with pytest.raises(ShapeError):
        metrics.check(Average("mse"), Z, Y)
    metrics.check(metrics.get("roc_auc"), Z, Y)
