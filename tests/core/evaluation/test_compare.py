"""Intervals against item-by-item resampling and the binomial distribution, McNemar against its sum."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import f1_score, precision_score, recall_score

from core.errors import UserError
from core.evaluation import compare
from core.evaluation.compare import METRICS, Interval, McNemar, bootstrap_interval, mcnemar, paired_bootstrap, weighted_scores

quick = settings(derandomize=True, deadline=None, max_examples=60)
triples = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20)


def plain(metric: str):
    """Return the metric as a loop over the classes that have items."""

    def score(labels: np.ndarray, predictions: np.ndarray) -> float:
        if metric == "accuracy":
            return float(np.mean(labels == predictions))
        scores = []
        for c in set(labels.tolist()):
            hits, true, said = ((labels == c) & (predictions == c)).sum(), (labels == c).sum(), (predictions == c).sum()
            of_class = {"macro_precision": hits / max(said, 1), "macro_f1": 2 * hits / (true + said)}
            scores.append(of_class.get(metric, hits / true))
        return float(np.mean(scores))

    return score


def answers(n: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels and the predictions of a worse and of a better classifier; class 3 is rare."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, n, p=[0.5, 0.3, 0.17, 0.03])
    first, second = (np.where(rng.random(n) < right, labels, rng.integers(0, 4, n)) for right in (0.5, 0.8))
    return labels, first, second


@pytest.mark.parametrize("metric", [*METRICS, *compare.MACRO])
@quick
@given(triples, st.integers(0, 2**32 - 1))
def test_scores_of_counted_pairs_equal_scores_of_repeated_items(metric, pairs, seed):
    labels, predictions, _ = np.array(pairs).T
    weights = np.random.default_rng(seed).integers(0, 3, (3, len(labels)))
    weights[:, 0] += 1
    expected = [plain(metric)(np.repeat(labels, row), np.repeat(predictions, row)) for row in weights]
    assert weighted_scores(metric, weights, labels, predictions) == pytest.approx(expected)


@quick
@given(triples)
def test_loops_agree_with_scikit_learn(pairs):
    labels, predictions, _ = np.array(pairs).T
    options = {"labels": np.unique(labels), "average": "macro", "zero_division": 0}
    assert plain("macro_f1")(labels, predictions) == pytest.approx(f1_score(labels, predictions, **options))
    assert plain("balanced_accuracy")(labels, predictions) == pytest.approx(recall_score(labels, predictions, **options))
    assert plain("macro_recall")(labels, predictions) == pytest.approx(recall_score(labels, predictions, **options))
    assert plain("macro_precision")(labels, predictions) == pytest.approx(precision_score(labels, predictions, **options))


@pytest.mark.parametrize("metric", METRICS)
def test_counts_and_items_give_the_same_interval(metric):
    labels, first, second = answers()
    fast, slow = (bootstrap_interval(labels, first, which, n=3000, seed=1) for which in (metric, plain(metric)))
    assert fast.value == pytest.approx(slow.value)
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), abs=0.015)
    fast, slow = (paired_bootstrap(labels, first, second, which, n=3000, seed=1) for which in (metric, plain(metric)))
    assert fast.value == pytest.approx(slow.value)
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), abs=0.02)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_accuracy_is_binomial(level):
    labels = np.zeros(200, np.int64)
    found = bootstrap_interval(labels, np.repeat([0, 1], [150, 50]), n=20000, seed=3, level=level)
    expected = binom.ppf([(1 - level) / 2, (1 + level) / 2], 200, 0.75) / 200
    assert (found.value, found.level) == (0.75, level)
    assert (found.low, found.high) == pytest.approx(expected, abs=0.0051)


def test_a_paired_difference_is_b_minus_a_on_the_same_items():
    labels, first, second = answers()
    found = paired_bootstrap(labels, first, second)
    assert found.value == pytest.approx(np.mean(second == labels) - np.mean(first == labels))
    assert 0 < found.low < found.value < found.high
    mirrored = paired_bootstrap(labels, second, first, n=5000)
    again = paired_bootstrap(labels, first, second, n=5000)
    assert (mirrored.low, mirrored.high) == pytest.approx((-again.high, -again.low), abs=0.02)
    # Paired: with itself there is no difference, though either score alone varies.
    assert paired_bootstrap(labels, first, first, "macro_f1") == Interval(0.0, 0.0, 0.0, 0.95)


@pytest.mark.parametrize("metric", METRICS)
def test_the_order_of_items_the_ids_of_classes_and_the_block_size_change_nothing(metric, monkeypatch):
    labels, first, second = answers()
    shuffled = np.random.default_rng(5).permutation(len(labels))
    ids = np.array([-7, 2, 50, 1000])
    whole = paired_bootstrap(labels, first, second, metric, n=50)
    assert paired_bootstrap(*(ids[column[shuffled]] for column in (labels, first, second)), metric, n=50) == whole
    monkeypatch.setattr(compare, "_BLOCK_CELLS", 100)
    blocked = paired_bootstrap(labels, first, second, metric, n=50)
    assert (blocked.value, blocked.low, blocked.high) == pytest.approx((whole.value, whole.low, whole.high))


def test_probabilities_stand_for_their_argmax_and_reach_a_function_whole():
    labels, first, second = answers()
    sharp, soft = np.eye(4)[first], np.eye(4)[second] * 0.9 + 0.025
    assert bootstrap_interval(labels, sharp, n=20) == bootstrap_interval(labels, first, n=20)
    assert paired_bootstrap(labels, sharp, second, n=20) == paired_bootstrap(labels, first, soft, n=20)
    assert mcnemar(labels, sharp, soft) == mcnemar(labels, first, second)
    found = bootstrap_interval(labels, soft, lambda truth, p: float(p[np.arange(len(truth)), truth].mean()), n=200)
    assert found.value == pytest.approx(soft[np.arange(len(labels)), labels].mean())
    assert found.low < found.value < found.high


@pytest.mark.parametrize("metric", ["accuracy", plain("accuracy")])
def test_seed_and_number_of_resamples_act(metric):
    labels, first, _ = answers()
    assert bootstrap_interval(labels, first, metric, n=30, seed=4) == bootstrap_interval(labels, first, metric, n=30, seed=4)
    assert bootstrap_interval(labels, first, metric, n=30, seed=4) != bootstrap_interval(labels, first, metric, n=30, seed=5)
    single = bootstrap_interval(labels, first, metric, n=1)
    assert single.low == single.high


@quick
@given(triples)
def test_mcnemar_equals_the_binomial_sum(items):
    labels, a, b = np.array(items).T
    only_a = sum(x == y != z for y, x, z in items)
    only_b = sum(z == y != x for y, x, z in items)
    n, k = only_a + only_b, min(only_a, only_b)
    p_value = min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n)
    found = mcnemar(labels, a, b)
    assert (found.only_a, found.only_b) == (only_a, only_b)
    assert found.p_value == pytest.approx(p_value)


def test_mcnemar_by_hand_and_without_a_difference():
    labels, right, wrong = np.zeros(6, np.int64), np.zeros(6, np.int64), np.array([1, 1, 1, 1, 1, 0])
    assert mcnemar(labels, right, wrong) == McNemar(5, 0, pytest.approx(2 / 32))
    assert mcnemar(labels, wrong, wrong) == McNemar(0, 0, 1.0)


def test_bad_input_is_refused():
    labels, first, second = answers(10)
    with pytest.raises(UserError, match="unknown metric 'macro_f2' to resample; did you mean 'macro_f1'"):
        bootstrap_interval(labels, first, "macro_f2")
    for compared in (lambda *_: bootstrap_interval([], []), lambda *_: paired_bootstrap([], [], []), lambda *_: mcnemar([], [], [])):
        with pytest.raises(UserError, match="no items"):
            compared()
    with pytest.raises(ValueError, match="10 labels need"):
        paired_bootstrap(labels, first, second[:5])
    with pytest.raises(ValueError, match="10 labels need"):
        mcnemar(labels, first, np.zeros((10, 2, 2)))
    for level in (0.0, 1.0, 95):
        with pytest.raises(ValueError, match="level"):
            bootstrap_interval(labels, first, level=level)
    with pytest.raises(ValueError, match="resamples, must be"):
        bootstrap_interval(labels, first, n=0)
    with pytest.raises(ValueError, match="not finite"):
        bootstrap_interval(labels, first, lambda truth, said: float("nan"))


def resampled_groups(labels, first, second, groups, score, n: int, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of second - first over resamples of whole groups, item by item."""
    rng, numbers, found = np.random.default_rng(seed), sorted(set(groups.tolist())), []
    for _ in range(n):
        drawn = [i for g in rng.integers(0, len(numbers), len(numbers)) for i in range(len(labels)) if groups[i] == numbers[g]]
        found.append(score(labels[drawn], second[drawn]) - score(labels[drawn], first[drawn]))
    return tuple(np.quantile(found, [0.025, 0.975]).tolist())


@pytest.mark.parametrize("metric", METRICS)
def test_groups_are_drawn_whole(metric):
    labels, first, second = answers(60)
    groups = np.random.default_rng(2).integers(0, 18, 60)
    slow = resampled_groups(labels, first, second, groups, plain(metric), 1000, 1)
    for which in (metric, plain(metric)):
        found = paired_bootstrap(labels, first, second, which, n=1000, seed=3, groups=groups)
        assert (found.low, found.high) == pytest.approx(slow, abs=0.04)
    alone = paired_bootstrap(labels, first, second, metric, n=50, groups=np.arange(60)[::-1])
    assert alone == paired_bootstrap(labels, first, second, metric, n=50)


@pytest.mark.parametrize("metric", [*METRICS, plain("accuracy")])
def test_copies_of_items_widen_nothing_and_narrow_nothing(metric):
    """Every item ten times over says no more than once; counted one by one the interval would be three times too narrow."""
    labels, first, _ = answers(100)
    copies, groups = [np.repeat(column, 10) for column in (labels, first)], np.repeat(np.arange(100), 10)
    once = bootstrap_interval(labels, first, metric)
    grouped = bootstrap_interval(*copies, metric, groups=groups)
    assert (grouped.value, grouped.low, grouped.high) == pytest.approx((once.value, once.low, once.high), abs=0.02)
    naive = bootstrap_interval(*copies, metric)
    assert naive.high - naive.low < 0.5 * (grouped.high - grouped.low)


def test_the_numbers_of_groups_and_the_order_of_items_change_nothing():
    labels, first, second = answers()
    groups = np.random.default_rng(4).integers(0, 40, len(labels))
    shuffled, other = np.random.default_rng(5).permutation(len(labels)), np.random.default_rng(6).permutation(40) * 7 - 9
    whole = paired_bootstrap(labels, first, second, "macro_f1", n=50, groups=groups)
    moved = [column[shuffled] for column in (labels, first, second)]
    assert paired_bootstrap(*moved, "macro_f1", n=50, groups=other[groups][shuffled]) == whole
    with pytest.raises(ValueError, match="120 labels need as many group numbers"):
        bootstrap_interval(labels, first, groups=groups[:5])


def test_mcnemar_counts_a_group_once():
    """Ten copies of each item are ten times the items, and no more evidence."""
    labels, first, second = answers(50)
    copies, groups = [np.repeat(column, 10) for column in (labels, first, second)], np.repeat(np.arange(50), 10)
    assert mcnemar(*copies, groups) == mcnemar(labels, first, second) != mcnemar(*copies)
    right, wrong, zeros = np.zeros(5, int), np.ones(5, int), np.zeros(5, int)
    mixed = np.array([0, 0, 1, 1, 0])  # group 0: second better by two of three, group 1: neither
    assert mcnemar(zeros, wrong, mixed, np.array([0, 0, 0, 1, 1])) == McNemar(0, 2, 0.5)
    assert mcnemar(zeros, right, wrong, zeros) == McNemar(1, 0, 1.0)
    with pytest.raises(ValueError, match="5 labels need as many group numbers"):
        mcnemar(zeros, right, wrong, np.zeros(4, int))


@quick
@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_equals_its_definition(p_values):
    """The adjusted p of the k-th smallest is the largest, over those up to it, of (number not smaller) times p, at most 1."""
    found, ranked = compare.holm(p_values), sorted(p_values)
    for p, adjusted in zip(p_values, found, strict=True):
        place = len(ranked) - 1 - ranked[::-1].index(p)
        assert adjusted == pytest.approx(min(1.0, max((len(ranked) - i) * ranked[i] for i in range(place + 1))))


def test_holm_by_hand():
    assert compare.holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert compare.holm([]) == ()
    with pytest.raises(ValueError, match="probabilities"):
        compare.holm([0.5, float("nan")])
