"""Embeddings of frozen towers on disk: computed once, found again by what they are of, verified whenever they are read."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from core import digest
from core.errors import UserError, full_disk_named
from core.progress import bar


@dataclass(frozen=True)
class EmbeddingKey:
    """All that decides the numbers of an embedding; two keys that differ in anything are two files."""

    tower: str
    """Digest of the tower's architecture and weights (`Tower.digest`)."""
    data: str
    """Digest of the images or texts and of their order."""
    transform: str
    """Digest of how an item becomes the tower's input: the evaluation view, or tokenizer, context and cleaning rules."""
    precision: str
    """Number format of the forward pass: `fp32` or `bf16`."""

    @property
    def digest(self) -> str:
        """sha256 (hex) of the four."""
        return digest.of_json(vars(self))


@dataclass(frozen=True)
class Embeddings:
    """What the cache gives."""

    tensor: Tensor
    """(N, d) in the number format that they are kept in."""
    path: Path
    """File that they are in."""
    reused: bool
    """They were read, not computed."""
    damaged: str
    """Why a stored file was thrown away and computed again; '' when there was none."""

    @property
    def values(self) -> np.ndarray:
        """(N, d) float32."""
        return self.tensor.float().numpy()


def cached(folder: Path, key: EmbeddingKey, n_items: int, compute: Callable[[], np.ndarray | Tensor]) -> Embeddings:
    """Return the embeddings of `key`: read and verified, or computed, written and read back (disk).

    Processes that want the same embeddings wait for the first of them and read what it wrote. A file is written beside its
    place and moved there whole. A damaged one is named on stderr and computed again.

    Args:
        folder: made when missing.
        key: what the embeddings are of.
        n_items: N, the rows that `compute` must give.
        compute: gives (N, d) floats; called at most once. A tensor of bf16 is kept as it is, all else in float32.

    Raises:
        UserError: the folder cannot be written, or its disk is full.
        ValueError: `compute` gave another number of rows, or values that are not finite.
    """
    path = folder / f"{key.digest}.safetensors"
    with full_disk_named(), _lock(path):
        damaged = ""
        if path.exists():
            try:
                return Embeddings(_read(path, key, n_items), path, True, "")
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                damaged = " ".join(str(error).split())[:120]
                print(f"taxon: embeddings {path} are damaged ({damaged}); computing them again", file=sys.stderr)
        values = torch.as_tensor(compute()).contiguous()
        values = values if values.dtype == torch.bfloat16 else values.float()
        if values.ndim != 2 or values.shape[0] != n_items or not values.isfinite().all():
            raise ValueError(f"embeddings of shape {tuple(values.shape)} for {n_items} items, or values that are not finite")
        _write(path, key, values)
        return Embeddings(_read(path, key, n_items), path, False, damaged)


def embed(
    encode: Callable[[Tensor], Tensor],
    module: nn.Module,
    batches: Iterable[Tensor],
    autocast: Callable[[], AbstractContextManager],
    title: str,
) -> np.ndarray:
    """Return `embedded` of all batches as (N, d) float32."""
    return embedded(lambda batch: encode(batch).float(), module, batches, autocast, title).numpy()


def embedded(
    encode: Callable[[Tensor], Tensor],
    module: nn.Module,
    batches: Iterable[Tensor],
    autocast: Callable[[], AbstractContextManager],
    title: str,
) -> Tensor:
    """Return `encode` of all batches (N, d) on the CPU, without gradients, in evaluation mode; the mode is put back afterwards.

    no_grad and not inference_mode: under the latter open_clip's ViT with autocast runs at the speed of fp32 on a CPU.

    Args:
        encode: maps a batch to (B, d), e.g. `towers.image_features`.
        module: whose mode is set: the towers.
        batches: already on the module's device.
        autocast: makes the context of the forward passes.
        title: of the progress bar.
    """
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad(), autocast():
            parts = [encode(batch).cpu() for batch in bar(batches, title)]
    finally:
        module.train(was_training)
    return torch.cat(parts) if parts else torch.zeros(0, 0)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the file's lock, which the kernel drops with its process."""
    with _made(path.with_suffix(".lock")) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _made(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"embeddings cannot be kept in '{path.parent}' ({error.strerror}); give a folder that can be written") from None


def _read(path: Path, key: EmbeddingKey, n_items: int) -> Tensor:
    with safe_open(path, framework="pt") as file:
        about: Mapping[str, str] = file.metadata() or {}
        if json.loads(about.get("key", "null")) != vars(key):
            raise ValueError("it is of other towers or data than its name says")
        values = file.get_tensor("embeddings")
    if _digest(values) != about.get("sha256"):
        raise ValueError("its checksum differs")
    if values.shape[0] != n_items:
        raise ValueError(f"it has {values.shape[0]} rows for {n_items} items")
    return values


def _digest(values: Tensor) -> str:
    return digest.of_array((values.view(torch.int16) if values.dtype == torch.bfloat16 else values).numpy())


def _write(path: Path, key: EmbeddingKey, values: Tensor) -> None:
    about = {"key": json.dumps(vars(key)), "sha256": _digest(values)}
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:16]}-", suffix=".part")
    os.close(handle)
    try:
        save_file({"embeddings": values}, name, metadata=about)
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
