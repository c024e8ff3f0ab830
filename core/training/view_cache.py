"""Augmented views kept as the frozen trunk's outputs: an epoch then costs the trained tail only.

V views per image are drawn once; every epoch picks `n_views` different ones of them. What this costs in accuracy is measured in the
README, and it is off by default. The outputs are kept in a file as well, so that the stages of a pipeline share them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.data.loader import Batch, ViewLoader, prefetched
from core.data.views import augment, draw_parameters
from core.errors import UserError
from core.models.discovery import DiscoveryModel
from core.models.split import compact
from core.progress import bar

MEMORY_LIMIT = 8 << 30  # bytes of trunk outputs of one image set
DISK_LIMIT = 16 << 30  # bytes of all cache files; the oldest go first
STREAM = 0xCAC4E  # keeps these draws apart from the loader's
FORMATS = {str(dtype): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}

Kept = tuple[Tensor, torch.dtype]


class CachedViews:
    """Stands in for a ViewLoader: the same images in the same proportion, views chosen among V cached ones.

    Args:
        loader: what it stands in for; its sampling weights, seed, ranks and batch size apply.
        model: its frozen trunk computes the cache.
        n_cached: V, at least the number of views a step.
        device, autocast: where and how the trunk runs.
        file: where the outputs are kept; its name must stand for everything they depend on.

    Raises:
        UserError: the trunk is empty (nothing frozen), V is too small, or the cache would not fit.
    """

    def __init__(
        self,
        loader: ViewLoader,
        model: DiscoveryModel,
        n_cached: int,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager],
        file: Path | None = None,
    ):
        if not model.trunk_digest:
            raise UserError("view_cache needs a frozen trunk, but grad_from_block trains everything; set view_cache 0 or freeze blocks")
        if n_cached < loader.n_views:
            raise UserError(f"view_cache = {n_cached} is less than n_views = {loader.n_views}; keep at least as many views as a step uses")
        self.loader, self.n_cached, self.steps = loader, n_cached, loader.steps
        found = _read(file, (len(loader.images), n_cached))
        if found is None:
            found = self._compute(model, device, autocast)
            _write(file, *found)
        self.outputs, self.computed = found

    @torch.no_grad()
    def _compute(self, model: DiscoveryModel, device: torch.device, autocast: Callable[[], AbstractContextManager]) -> Kept:
        """Return the trunk outputs (N, V, ...) in the number format of its forward pass, and the one that they came in."""
        loader, images = self.loader, self.loader.images
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([loader.seed, STREAM])))
        parameters = draw_parameters(loader.spec, len(images), self.n_cached, rng)
        kept: Kept | None = None
        for start in bar(range(0, len(images), 64), "view cache"):
            rows = np.arange(start, min(start + 64, len(images)))
            pixels = images.batch(rows)
            for view in range(self.n_cached):
                with autocast():
                    output = model.trunk(augment(pixels, parameters[rows, view], loader.spec).to(device))
                    part = compact(output).cpu()
                if kept is None:
                    kept = self._allocate(part, len(images)), output.dtype
                kept[0][rows, view] = part
        if kept is None:
            raise ValueError("there are no images whose views could be kept")
        return kept

    def restored(self, outputs: Tensor) -> Tensor:
        """Return kept outputs in the number format that the trunk gives them in."""
        return outputs.to(self.computed)

    def _allocate(self, part: Tensor, n: int) -> Tensor:
        needed = part[0].nbytes * n * self.n_cached
        if needed > MEMORY_LIMIT:
            raise UserError(
                f"view_cache = {self.n_cached} needs {needed / 2**30:.1f} GiB for {n} images; "
                f"keep it to {int(MEMORY_LIMIT // (part[0].nbytes * n))} views or fewer"
            )
        return torch.empty((n, self.n_cached, *part.shape[1:]), dtype=part.dtype)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of a global epoch; `views` holds trunk outputs (n_views*B, ...), view-major."""
        loader = self.loader
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([loader.seed, epoch, STREAM])))
        total = self.steps * loader.batch_size
        if loader.weights is None:
            positions = rng.permutation(len(loader.images))[:total]
        else:
            positions = rng.choice(len(loader.images), total, p=loader.weights / loader.weights.sum())
        chosen = rng.random((total, self.n_cached)).argsort(axis=1)[:, : loader.n_views]
        share = loader.batch_size // loader.world_size

        def build(step: int) -> Batch:
            start = step * loader.batch_size + loader.rank * share
            rows = slice(start, start + share)
            indices = torch.from_numpy(positions[rows].astype(np.int64))
            views = [self.outputs[indices, torch.from_numpy(chosen[rows, view])] for view in range(loader.n_views)]
            return Batch(indices, torch.cat(views))

        yield from prefetched(build, self.steps, 1)


def _read(file: Path | None, shape: tuple[int, int]) -> Kept | None:
    """Return what a file holds, or None when there is none or it is damaged."""
    if file is None or not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            outputs, computed = opened.get_tensor("outputs"), FORMATS[(opened.metadata() or {})["computed"]]
    except (SafetensorError, OSError, KeyError):
        return None
    return (outputs, computed) if tuple(outputs.shape[:2]) == shape else None


def _write(file: Path | None, outputs: Tensor, computed: torch.dtype) -> None:
    """Keep the outputs in a file, atomically; without room they are simply computed again next time."""
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    others = sorted(file.parent.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
    while others and sum(path.stat().st_size for path in others) + outputs.nbytes > DISK_LIMIT:
        others.pop(0).unlink(missing_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        save_file({"outputs": outputs}, temporary, metadata={"computed": str(computed)})
        os.replace(temporary, file)
    except (OSError, SafetensorError):
        temporary.unlink(missing_ok=True)
