"""A seeded sample of what passes by once: some drawn at random from all, and of each category the most central ones."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")
CENTRAL = 16  # of each category


class Reservoir(Generic[T]):
    """A sample of at most `limit` items in memory, whatever passes by; the same for the same seed and order, however it is batched.

    Half of it is at most for the central ones of each category. Source of the random part: Vitter 1985, "Random sampling with a
    reservoir", algorithm R.
    """

    def __init__(self, limit: int, n_categories: int, seed: int):
        self.central = min(CENTRAL, max(1, limit // 2 // max(1, n_categories)))
        self.room = max(1, limit - self.central * n_categories)
        self._rng = np.random.default_rng([seed, 6])
        self._drawn: list[int] = []
        self._nearest: list[list[tuple[float, int]]] = [[] for _ in range(n_categories)]
        self._kept: dict[int, tuple[T, int]] = {}  # the item, and for how many reasons it is kept
        self.passed = 0

    def offer(self, category: int, distance: float, item: Callable[[], T]) -> None:
        """Let one item pass: its category, its distance from that one's centre, and what makes it where it is kept."""
        number, self.passed = self.passed, self.passed + 1
        leaving: list[int] = []
        reasons = self._drawn_in(number, leaving) + self._central_in(category, distance, number, leaving)
        if reasons:
            self._kept[number] = (item(), reasons)
        for one in leaving:
            kept, left = self._kept[one]
            self._kept[one] = (kept, left - 1)
            if left == 1:
                del self._kept[one]

    def _drawn_in(self, number: int, leaving: list[int]) -> int:
        if len(self._drawn) < self.room:
            self._drawn.append(number)
            return 1
        place = int(self._rng.integers(0, number + 1))
        if place >= self.room:
            return 0
        leaving.append(self._drawn[place])
        self._drawn[place] = number
        return 1

    def _central_in(self, category: int, distance: float, number: int, leaving: list[int]) -> int:
        nearest, entry = self._nearest[category], (-distance, -number)
        if len(nearest) < self.central:
            heapq.heappush(nearest, entry)
            return 1
        if entry <= nearest[0]:
            return 0
        leaving.append(-heapq.heapreplace(nearest, entry)[1])
        return 1

    def items(self) -> list[T]:
        """Return what is kept, in the order in which it passed."""
        return [self._kept[number][0] for number in sorted(self._kept)]
