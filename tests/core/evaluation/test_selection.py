"""Model-selection scores against plain loops and scikit-learn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import silhouette_samples

from core.errors import UserError
from core.evaluation import selection
from core.evaluation.selection import held_out_accuracy, silhouette

quick = settings(derandomize=True, deadline=None, max_examples=80)
pairs = st.lists(st.tuples(st.integers(-2, 3), st.integers(0, 3)), max_size=12)


def plain_held_out(train: list[tuple[int, int]], held_out: list[tuple[int, int]]) -> float:
    """Return the fraction of held-out (cluster, label) whose cluster's most frequent training label, smallest first, is theirs."""
    right = 0
    for cluster, label in held_out:
        counts = Counter(other for where, other in train if where == cluster)
        right += bool(counts) and min(counts, key=lambda name: (-counts[name], name)) == label
    return right / len(held_out)


def columns(points: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [cluster for cluster, _ in points], [label for _, label in points]


@quick
@given(pairs, pairs.filter(len))
def test_held_out_accuracy_names_clusters_by_majority(train, held_out):
    assert held_out_accuracy(*columns(train), *columns(held_out)) == pytest.approx(plain_held_out(train, held_out))


def test_unnamed_clusters_are_wrong_and_ties_take_the_smaller_label():
    assert held_out_accuracy([0, 0, 1], [5, 4, 6], [0, 0, 1, 2], [4, 5, 6, 6]) == 0.5


def test_nothing_held_out_is_a_users_mistake():
    with pytest.raises(UserError, match="val_fraction"):
        held_out_accuracy([0], [0], [], [])


@quick
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(8, 40))
def test_silhouette_equals_scikit_learn_on_the_masked_points(seed, n_clusters, n):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, 3)).round(1)
    labels = np.concatenate([np.arange(n_clusters), rng.integers(0, n_clusters, n - n_clusters)]) * 3 - 4
    mask = rng.random(n) < 0.6
    mask[0] = True
    assert silhouette(features, labels, mask) == pytest.approx(silhouette_samples(features, labels)[mask].mean(), abs=1e-6)


def test_silhouette_does_not_depend_on_the_block_size(monkeypatch):
    rng = np.random.default_rng(3)
    features, labels = rng.standard_normal((50, 4)), rng.integers(0, 3, 50)
    whole = silhouette(features, labels)
    monkeypatch.setattr(selection, "_BLOCK_CELLS", 350)
    assert silhouette(features, labels) == pytest.approx(whole, rel=1e-12)


def test_silhouette_where_there_is_nothing_to_compare():
    features = np.arange(8.0).reshape(4, 2)
    assert silhouette(features, [1, 1, 1, 1]) == 0.0
    assert silhouette(features, [0, 1, 2, 3]) == 0.0
    assert silhouette(features, [0, 0, 1, 1], np.zeros(4, dtype=bool)) == 0.0
    assert silhouette(np.ones((4, 2)), [0, 0, 1, 1]) == 0.0
