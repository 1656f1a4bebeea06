"""Scores against scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from backlit.tables.scores import score_classes, score_quantity


@settings(max_examples=30)
@given(st.integers(2, 4), st.integers(8, 40), st.integers(0, 10_000), st.booleans())
def test_class_scores_are_those_of_scikit_learn(count, rows, seed, ties):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(count), rng.integers(0, count, rows)])
    logits = rng.normal(size=(len(labels), count)).round(0 if ties else 8)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = score_classes(p, labels, tuple("abcd"[:count]))
    predicted = p.argmax(axis=1)
    np.testing.assert_array_equal(found.confusion, metrics.confusion_matrix(labels, predicted, labels=range(count)))
    assert found.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert found.log_loss == pytest.approx(metrics.log_loss(labels, p, labels=range(count)))
    assert found.baseline == np.bincount(labels).max() / len(labels)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(count), zero_division=math.nan
    )
    np.testing.assert_allclose(found.precision, precision)
    np.testing.assert_allclose(found.recall, recall)
    np.testing.assert_allclose(found.f1, f1)
    if count == 2:
        assert found.roc_auc == pytest.approx(metrics.roc_auc_score(labels, p[:, 1]))
    else:
        assert found.roc_auc is None


def test_roc_auc_of_one_class_alone_is_unknown():
    assert score_classes(np.full((3, 2), 0.5), np.array([1, 1, 1]), ("a", "b")).roc_auc is None


def test_a_certain_mistake_has_a_finite_log_loss():
    assert math.isfinite(score_classes(np.array([[1.0, 0.0]]), np.array([1]), ("a", "b")).log_loss)


@settings(max_examples=30)
@given(st.integers(2, 60), st.integers(0, 10_000))
def test_quantity_scores_are_those_of_scikit_learn(rows, seed):
    rng = np.random.default_rng(seed)
    amounts = rng.normal(size=rows) * 100 + 40
    predicted = amounts + rng.normal(size=rows) * 30
    found = score_quantity(predicted, amounts)
    assert found.r2 == pytest.approx(metrics.r2_score(amounts, predicted))
    assert found.rmse == pytest.approx(metrics.mean_squared_error(amounts, predicted) ** 0.5)
    assert found.mae == pytest.approx(metrics.mean_absolute_error(amounts, predicted))
    assert score_quantity(np.full(rows, amounts.mean()), amounts).rmse == pytest.approx(found.std)


def test_r2_of_equal_amounts_is_unknown():
    assert math.isnan(score_quantity(np.array([1.0, 2.0]), np.array([3.0, 3.0])).r2)
