"""A sample of what passes by once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from core.evaluation.reservoir import Reservoir


def sampled(categories: list[int], distances: list[float], limit: int, n: int, seed: int = 0) -> list[int]:
    sample: Reservoir[int] = Reservoir(limit, n, seed)
    for number, (category, distance) in enumerate(zip(categories, distances, strict=True)):
        sample.offer(category, distance, lambda number=number: number)
    return sample.items()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.integers(0, 200), st.integers(1, 60), st.integers(0, 1000))
def test_a_sample_keeps_its_limit_and_the_nearest_of_each_category(n, passing, limit, seed):
    rng = np.random.default_rng(seed)
    categories, distances = rng.integers(0, n, passing).tolist(), rng.random(passing).round(1).tolist()
    kept = sampled(categories, distances, limit, n, seed)
    assert len(kept) == len(set(kept)) <= max(limit, n + 1) and kept == sorted(kept)
    assert kept == sampled(categories, distances, limit, n, seed)
    for category in range(n):
        members = [i for i in range(passing) if categories[i] == category]
        if members:
            assert min(members, key=lambda i: (distances[i], i)) in kept
    if passing <= limit // 2:
        assert kept == list(range(passing))


def test_every_item_is_drawn_as_often():
    seen = np.zeros(60)
    for seed in range(400):
        kept = sampled([0] * 60, [1.0] * 59 + [0.0], 12, 1, seed)
        seen[kept] += 1
    # 6 of 12 places are for the nearest, which are the last one and, of equals, the first ones.
    assert abs(seen[10:50].mean() / 400 - 6 / 60) < 0.01 and seen[10:50].max() < 3 * seen[10:50].mean()
