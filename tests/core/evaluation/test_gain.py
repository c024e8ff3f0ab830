"""What is no better is seldom promoted, however many candidates were looked at; what is better mostly is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from core.evaluation.compare import METRICS, paired_swaps, weighted_scores
from core.evaluation.gain import gain_interval, judge

N = 360


def promoted(candidates: int, rule: str = "interval", gain: float = 0.0, alike: float = 0.0, runs: int = 200) -> float:
    """Return how often the best of some candidates takes the place of a champion that is right with a chance of .8.

    gain: of the candidates' chances. alike: share of answers that they have in common with the champion.
    """
    rng, wins = np.random.default_rng(0), 0
    for _ in range(runs):
        labels = rng.integers(0, 2, N)
        champion = np.where(rng.random(N) < 0.8, labels, 1 - labels)
        answers = np.where(rng.random((candidates, N)) < 0.8 + gain, labels, 1 - labels)
        answers = np.where(rng.random((candidates, N)) < alike, champion, answers)
        best = answers[np.argmax((answers == labels).sum(axis=1))]
        wins += judge(labels, champion, best, rule=rule, looked_at=candidates, n=400).better
    return wins / runs


@pytest.mark.parametrize(("candidates", "alike"), [(1, 0.0), (20, 0.0), (1, 0.97), (20, 0.97)])
def test_what_is_no_better_is_promoted_in_at_most_a_twentieth_of_all_cases(candidates, alike):
    assert promoted(candidates, alike=alike) <= 0.05


def test_what_is_better_is_promoted_mostly():
    assert promoted(1, gain=0.1, runs=50) > 0.8 and promoted(20, gain=0.1, runs=50) > 0.8


def test_the_plain_difference_promotes_half_of_what_is_no_better():
    assert 0.35 < promoted(1, "point", runs=100) < 0.65 and promoted(20, "point", runs=50) > 0.85


@pytest.mark.parametrize(("more", "less"), [(5, 0), (6, 0), (12, 3), (30, 12)])
def test_swapped_answers_vary_as_mcnemars_test_says(more, less):
    labels = np.zeros(100, int)
    champion, candidate = labels.copy(), labels.copy()
    champion[:more], candidate[more : more + less] = 1, 1
    swaps = paired_swaps(labels, champion, candidate, n=20_000)
    chance = (swaps >= (more - less) / 100 - 1e-9).mean()
    assert chance == pytest.approx(binomtest(more, more + less, 0.5, "greater").pvalue, abs=0.006)
    assert gain_interval(labels, champion, candidate, "accuracy", 20_000, 0, 0.95).low > 0 or chance > 0.02


def test_swaps_are_those_of_a_plain_loop():
    rng = np.random.default_rng(3)
    labels, a, b = rng.integers(0, 3, (3, 40))
    groups = rng.integers(0, 12, 40)
    plain: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for _ in range(500):
        swap = rng.random(12)[groups] < 0.5
        mine, theirs = np.where(swap, a, b), np.where(swap, b, a)
        for metric, values in plain.items():
            one, other = (weighted_scores(metric, np.ones((1, 40)), labels, answers)[0] for answers in (mine, theirs))
            values.append(one - other)
    for metric, values in plain.items():
        found = paired_swaps(labels, a, b, metric, 4000, 0, groups)
        assert found.mean() == pytest.approx(np.mean(values), abs=0.02) and found.std() == pytest.approx(np.std(values), rel=0.15)
        assert np.quantile(found, 0.9) == pytest.approx(np.quantile(values, 0.9), abs=0.04)


def test_groups_that_stand_or_fall_together_are_less_sure_than_their_items():
    labels = np.zeros(120, int)
    champion, candidate = labels.copy(), labels.copy()
    champion[:12] = 1
    groups = np.arange(120) // 6  # the twelve are two groups
    assert judge(labels, champion, candidate).better and not judge(labels, champion, candidate, groups=groups).better


def test_many_candidates_widen_the_interval_and_min_gain_moves_the_bar():
    labels = np.zeros(200, int)
    champion, candidate = labels.copy(), labels.copy()
    champion[:16], candidate[16:21] = 1, 1
    alone, many = (judge(labels, champion, candidate, looked_at=count).gain for count in (1, 20))
    assert many.level == pytest.approx(0.9975) and many.low < alone.low < alone.value == many.value < alone.high < many.high
    assert judge(labels, champion, candidate, min_gain=alone.low - 1e-6).better
    assert not judge(labels, champion, candidate, min_gain=alone.low).better
    assert judge(labels, champion, candidate, min_gain=0.05, rule="point").better
