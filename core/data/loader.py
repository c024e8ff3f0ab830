"""Batches of augmented views as a pure function of (seed, epoch), prepared in the background.

Everything random about an epoch is drawn at its start by one generator: which images, in which order, and the parameters
of every view. Workers then only compute, so the number of workers or ranks never changes what is seen.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
import torch

from core.data.views import ResizedImages, ViewSpec, augment, draw_parameters, evaluation_view
from core.errors import UserError

S = TypeVar("S")
T = TypeVar("T")
PREFETCH = 2  # batches that are ready or in work while the consumer uses another


@dataclass(frozen=True, eq=False)
class Batch:
    """indices: (B,) int64 into the image set. views: (n_views*B,3,S,S) float32, all first views, then all second views."""

    indices: torch.Tensor
    views: torch.Tensor


def sampling_weights(labelled: np.ndarray, unlabelled: np.ndarray, n: int) -> np.ndarray:
    """Return (n,) float64: 1 for labelled images, n_labelled/n_unlabelled for unlabelled ones, 0 for all others (validation).

    Labelled and unlabelled images are then drawn equally often in total (Vaze et al. 2022).
    """
    weights = np.zeros(n)
    weights[labelled] = 1.0
    if len(unlabelled):
        # Without labelled images the ratio would silence everything: then all unlabelled ones count alike.
        weights[unlabelled] = len(labelled) / len(unlabelled) if len(labelled) else 1.0
    return weights


class Pixels(Protocol):
    """Resized images: all of a `core.data.views.ResizedImages`, or some."""

    @property
    def size(self) -> int:
        """Their side R in pixels."""

    def __len__(self) -> int:
        """Return the number of images."""

    def batch(self, indices: np.ndarray) -> torch.Tensor:
        """Return (B, 3, R, R) uint8."""


class ViewLoader:
    """Batches of `n_views` augmented views of each drawn image.

    images: resized images. spec: how views are made (spec.resize must be the images' size).
    batch_size: images a step over all ranks; at most the number of images that can be drawn.
    weights: (N,) >= 0, images drawn with replacement in this proportion (weight 0 = never); None = each image once, shuffled.
    rank, world_size: this process builds its contiguous part of every batch; all ranks together see what one rank sees.
    num_workers: background threads (0 = build in the caller). wait_seconds: time the consumer has waited for batches.
    Raises UserError where a batch cannot be shared equally among the ranks, or nothing can be drawn.
    """

    def __init__(
        self,
        images: Pixels,
        spec: ViewSpec,
        batch_size: int,
        n_views: int = 2,
        weights: np.ndarray | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 2,
    ):
        if batch_size < 1 or n_views < 1 or num_workers < 0 or seed < 0:
            given = f"batch_size {batch_size}, n_views {n_views}, num_workers {num_workers}, seed {seed}"
            raise UserError(f"batch_size and n_views must be 1 or more, num_workers and seed 0 or more, not {given}")
        if images.size != spec.resize:
            raise ValueError(f"images are resized to {images.size} px, the views want {spec.resize} px")
        n = len(images) if weights is None else int(np.count_nonzero(weights))
        if not n:
            raise UserError("there is no image to train on: no labelled and no unlabelled one")
        self.batch_size = min(batch_size, n)
        if self.batch_size % world_size:
            raise UserError(
                f"batch_size {self.batch_size} (of {n} images) cannot be shared by {world_size} processes: take a multiple of that"
            )
        self.images, self.spec, self.n_views, self.weights = images, spec, n_views, weights
        self.seed, self.rank, self.world_size, self.num_workers = seed, rank, world_size, num_workers
        self.steps = max(1, n // self.batch_size)
        self.wait_seconds = 0.0

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield `steps` batches; the same ones each time for the same seed and epoch.

        Close the iterator (or exhaust it) to end its threads. An exception in a worker is raised here.
        """
        positions, parameters = self._draw(epoch)
        share = self.batch_size // self.world_size

        def build(step: int) -> Batch:
            start = step * self.batch_size + self.rank * share
            rows = slice(start, start + share)
            return self._build(positions[rows], parameters[rows])

        return self._timed(prefetched(build, self.steps, self.num_workers))

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the epoch's image indices (steps*batch,) and view parameters (steps*batch, n_views, 7)."""
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, epoch])))
        total = self.steps * self.batch_size
        if self.weights is None:
            positions = rng.permutation(len(self.images))[:total]
        else:
            positions = rng.choice(len(self.images), total, p=self.weights / self.weights.sum())
        return positions, draw_parameters(self.spec, total, self.n_views, rng)

    def _build(self, indices: np.ndarray, parameters: np.ndarray) -> Batch:
        images, n, size = self.images.batch(indices), len(indices), self.spec.image_size
        views = torch.empty(self.n_views * n, 3, size, size)
        for view in range(self.n_views):
            augment(images, parameters[:, view], self.spec, out=views[view * n : (view + 1) * n])
        return Batch(torch.from_numpy(indices.astype(np.int64)), views)

    def _timed(self, batches: Generator[Batch]) -> Iterator[Batch]:
        """Pass `batches` on and add the time spent waiting for them to `wait_seconds`."""
        try:
            while True:
                start = time.perf_counter()
                batch = next(batches, None)
                self.wait_seconds += time.perf_counter() - start
                if batch is None:
                    return
                yield batch
        finally:
            batches.close()


def evaluation_batches(
    images: ResizedImages, spec: ViewSpec, batch_size: int, indices: np.ndarray | None = None, num_workers: int = 2
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (indices (B,) int64, plain views (B,3,S,S) float32) in order; the last batch may be smaller.

    `indices` chooses the images (default: all of them).
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be 1 or more, not {batch_size}")
    chosen = np.arange(len(images)) if indices is None else np.asarray(indices, np.int64)

    def build(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        part = chosen[step * batch_size : (step + 1) * batch_size]
        return torch.from_numpy(part), evaluation_view(images.batch(part), spec)

    return prefetched(build, -(-len(chosen) // batch_size), num_workers)


def prefetched(build: Callable[[int], T], steps: int, num_workers: int) -> Generator[T]:
    """Yield build(0), ..., build(steps - 1) in order, built ahead by `num_workers` threads (0 = in the caller's thread)."""
    yield from ahead(build, range(steps), num_workers)


def ahead(build: Callable[[S], T], items: Iterable[S], num_workers: int) -> Generator[T]:
    """Yield build(item) of each of `items` in order, built ahead by `num_workers` threads (0 = in the caller's thread).

    `items` is gone through in the caller's thread, a few steps before what is yielded, and is never held as a whole.
    """
    if not num_workers:
        yield from map(build, items)
        return
    torch.get_num_threads()  # fixes this thread's setting before the workers lower the one that new threads start with
    pool = ThreadPoolExecutor(num_workers, "views", initializer=_compute_on_one_thread)
    try:
        items_left = iter(items)
        pending = deque(pool.submit(build, item) for item in islice(items_left, max(PREFETCH, num_workers)))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(build, item) for item in islice(items_left, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(torch.get_num_threads())


def _compute_on_one_thread() -> None:
    """Let a worker compute by itself: a thread team for each worker would crowd the cores that the training step needs."""
    torch.set_num_threads(1)
