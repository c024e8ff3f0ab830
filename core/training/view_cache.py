"""Augmented views kept as the frozen trunk's outputs: an epoch then costs the trained tail only.

V views per image are drawn once; every epoch picks `n_views` different ones of them. A training sees no other views than these V, so it
is off by default. The outputs are kept in a file that is mapped into memory and not read as a whole: the stages of a pipeline and the
arms of a comparison share it, and the memory that holds its pages.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from core.data.loader import Batch, ViewLoader, prefetched
from core.data.views import ViewSpec, augment, draw_parameters
from core.errors import UserError
from core.models.discovery import DiscoveryModel
from core.models.split import compact
from core.places import say
from core.progress import bar

MEMORY_LIMIT = 8 << 30  # bytes of trunk outputs of one image set without a file
DISK_LIMIT = 16 << 30  # bytes of all cache files; the oldest go first
AUTO_LIMIT = DISK_LIMIT // 2  # bytes that `auto` fills: two image sets have room then
AUTO_VIEWS = (4, 10)  # fewer lose too much accuracy, more win nothing
FILLED = 0.9  # of a disk's free space at most
BLOCK = 64  # images of a forward pass
STREAM = 0xCAC4E  # keeps these draws apart from the loader's
FORMATS = {str(dtype): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}
NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}  # as safetensors calls them

Autocast = Callable[[], AbstractContextManager]
Kept = tuple[Tensor, torch.dtype]


def auto_views(model: DiscoveryModel, spec: ViewSpec, n_images: int, n_views: int, device: torch.device, autocast: Autocast) -> int:
    """Return what `view_cache = auto` stands for: the most views, at most 10, whose outputs fit into AUTO_LIMIT; 0 below 4 of them.

    A function of images, trunk and number format alone, as stage keys are: another machine's disk changes no result.
    """
    if not model.trunk_digest:
        return 0
    with torch.no_grad(), autocast():
        one = compact(model.trunk(torch.zeros(1, 3, spec.image_size, spec.image_size, device=device)))
    least, most = AUTO_VIEWS
    found = min(most, AUTO_LIMIT // (one.nbytes * n_images))
    return found if found >= max(least, n_views) else 0


class CachedViews:
    """Stands in for a ViewLoader: the same images in the same proportion, views chosen among V cached ones.

    Args:
        loader: what it stands in for; its sampling weights, seed, ranks and batch size apply.
        model: its frozen trunk computes the cache.
        n_cached: V, at least the number of views a step.
        device, autocast: where and how the trunk runs.
        file: where the outputs are kept; its name must stand for everything they depend on. Without one, or room on its disk, they are
            kept in memory.

    Raises:
        UserError: the trunk is empty (nothing frozen), V is too small, or neither disk nor memory takes the outputs.
    """

    def __init__(
        self,
        loader: ViewLoader,
        model: DiscoveryModel,
        n_cached: int,
        device: torch.device,
        autocast: Autocast,
        file: Path | None = None,
    ):
        if not model.trunk_digest:
            raise UserError("view_cache needs a frozen trunk, but grad_from_block trains everything; set view_cache 0 or freeze blocks")
        if n_cached < loader.n_views:
            raise UserError(f"view_cache = {n_cached} is less than n_views = {loader.n_views}; keep at least as many views as a step uses")
        self.loader, self.n_cached, self.steps = loader, n_cached, loader.steps
        self.model, self.device, self.autocast = model, device, autocast
        self.outputs, self.computed = _read(file, (len(loader.images), n_cached)) or self._compute(file)

    def _compute(self, file: Path | None) -> Kept:
        """Return the trunk outputs (N, V, ...) in the number format of its forward pass, and the one that they came in."""
        loader, n, n_cached = self.loader, len(self.loader.images), self.n_cached
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([loader.seed, STREAM])))
        parameters = draw_parameters(loader.spec, n, n_cached, rng)
        sample, computed = self._outputs(loader.images.batch(np.arange(1)), parameters[:1, 0])
        one = sample[0]
        self._require_fit(one, DISK_LIMIT if file else MEMORY_LIMIT)
        size = one.nbytes * n * n_cached
        about = f"view cache: {n_cached} views of {n:,} images, {_shown(size)}, in"
        lacking = _make_room(file, size) if file else 0
        if file and not lacking:
            say(f"{about} {'/'.join(file.parent.parts[-2:])}")
            with contextlib.suppress(OSError):  # what the disk does not take after all is kept in memory
                found = _write(file, self._blocks(parameters, one), (n, n_cached, *one.shape), one.dtype, computed)
                if found is not None:
                    return found
        if file and size > min(MEMORY_LIMIT, _free_memory()):
            self._refuse_disk(one, file, lacking or size)
        say(f"{about} memory")
        kept = torch.empty((n, n_cached, *one.shape), dtype=one.dtype)
        for start, block in enumerate(self._blocks(parameters, one)):
            kept[start * BLOCK : start * BLOCK + len(block)] = block
        return kept, computed

    @torch.no_grad()
    def _outputs(self, pixels: Tensor, parameters: np.ndarray) -> Kept:
        """Return the trunk's outputs (B, ...) of one view of each image, as they are kept, and the format that they came in."""
        with self.autocast():
            output = self.model.trunk(augment(pixels, parameters, self.loader.spec).to(self.device))
            return compact(output).cpu(), output.dtype

    def _blocks(self, parameters: np.ndarray, one: Tensor) -> Iterator[Tensor]:
        """Yield the outputs (B, V, ...) of BLOCK images after BLOCK images, all in one buffer; `one` is one view's."""
        n = len(parameters)
        buffer = torch.empty((min(BLOCK, n), self.n_cached, *one.shape), dtype=one.dtype)
        for start in bar(range(0, n, BLOCK), "view cache"):
            rows = np.arange(start, min(start + BLOCK, n))
            pixels = self.loader.images.batch(rows)
            for view in range(self.n_cached):
                buffer[: len(rows), view] = self._outputs(pixels, parameters[rows, view])[0]
            yield buffer[: len(rows)]

    def _require_fit(self, one: Tensor, limit: int) -> None:
        n = len(self.loader.images)
        if one.nbytes * n * self.n_cached > limit:
            raise UserError(
                f"view_cache = {self.n_cached} needs {_shown(one.nbytes * n * self.n_cached)} for {n} images; "
                f"keep it to {limit // (one.nbytes * n)} views or fewer"
            )

    def _refuse_disk(self, one: Tensor, file: Path, lacking: int) -> None:
        a_view = one.nbytes * len(self.loader.images)
        fewer = max(0, a_view * self.n_cached - lacking) // a_view
        instead = f"{fewer} or fewer" if fewer >= self.loader.n_views else "0"
        raise UserError(
            f"view_cache = {self.n_cached} needs {_shown(a_view * self.n_cached)} for {len(self.loader.images)} images, {_shown(lacking)} "
            f"more than the disk of '{file.parent}' has left; free that there, set TAXON_CACHE to another disk, or view_cache to {instead}"
        )

    def restored(self, outputs: Tensor) -> Tensor:
        """Return kept outputs in the number format that the trunk gives them in."""
        return outputs.to(self.computed)

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
    """Return what a file holds, mapped into memory, or None when there is none or it is damaged."""
    if file is None or not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            outputs, computed = opened.get_tensor("outputs"), FORMATS[(opened.metadata() or {})["computed"]]
    except (SafetensorError, OSError, KeyError):
        return None
    return (outputs, computed) if tuple(outputs.shape[:2]) == shape else None


def _write(file: Path, blocks: Iterator[Tensor], shape: tuple[int, ...], dtype: torch.dtype, computed: torch.dtype) -> Kept | None:
    """Write the outputs (N, V, ...) as a safetensors file while they come, atomically, and return them mapped.

    Raises OSError where the disk does not take them; room for all is taken first. What processes that died have left is removed.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    tensor = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": [0, size]}
    header = json.dumps({"__metadata__": {"computed": str(computed)}, "outputs": tensor}).encode()
    header += b" " * (-(8 + len(header)) % 64)  # so that the outputs are aligned as memory of torch's own is
    _remove_left(file.parent)
    with _owned(file) as handle:
        temporary = Path(handle.name)
        try:
            if hasattr(os, "posix_fallocate"):  # not on macOS
                os.posix_fallocate(handle.fileno(), 0, 8 + len(header) + size)
            handle.write(len(header).to_bytes(8, "little") + header)
            for block in blocks:
                handle.write(block.view(torch.uint8).numpy().data)
            handle.flush()
            os.fsync(handle.fileno())
            found = _read(temporary, (shape[0], shape[1]))
            os.replace(temporary, file)
            return found
        finally:
            temporary.unlink(missing_ok=True)


def _owned(file: Path) -> BinaryIO:
    """Open a new file beside `file` and hold its lock, which the kernel drops with its process."""
    while True:
        handle = file.with_name(f".{file.name}.{secrets.token_hex(4)}").open("xb")
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle.fileno()).st_nlink:
            return handle
        handle.close()  # another process took it for a leftover before it was locked


def _remove_left(folder: Path) -> None:
    """Remove the unfinished files of processes that are no more: nobody holds their locks."""
    for path in folder.glob(".*.safetensors.*"):
        with contextlib.suppress(OSError), path.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _make_room(file: Path, needed: int) -> int:
    """Remove the oldest cache files until `needed` more bytes fit; return how many bytes are lacking even so (then none is removed)."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        status = os.statvfs(file.parent)
    except OSError:
        return needed
    others = []
    for path in file.parent.glob("*.safetensors"):
        with contextlib.suppress(FileNotFoundError):  # another process removes some too
            others.append((path.stat().st_mtime, path.stat().st_size, path))
    others.sort(reverse=True)
    held, usable = sum(size for _, size, _ in others), int(FILLED * status.f_bavail * status.f_frsize)
    if needed > usable + held:
        return needed - usable - held
    while others and (held + needed > DISK_LIMIT or needed > usable):
        _, size, path = others.pop()
        path.unlink(missing_ok=True)
        held, usable = held - size, usable + size
    return 0


def _free_memory() -> int:
    """Return the bytes of memory that Linux has for a new process; MEMORY_LIMIT elsewhere."""
    with contextlib.suppress(OSError, StopIteration), open("/proc/meminfo") as lines:
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    return MEMORY_LIMIT


def _shown(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"
