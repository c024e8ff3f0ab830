"""Pixels and features of posts: read once, computed once; what a locked tower gives is kept on disk and in memory."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core import cores, digest
from core.data import images, post_augment, views
from core.data.images import DECODE_THREADS, FileImages
from core.data.posts import Posts
from core.data.views import ViewSpec, resize_all
from core.models import tokenizers
from core.models.clip_towers import Tower
from core.models.embedding_cache import EmbeddingKey, cached, embed
from core.models.post_net import PostNet
from core.models.preprocessing import OLDER, Preprocessing
from core.training.posts import augmented
from core.training.precision import autocast
from core.training.state import write_atomically

FORWARD_BATCH = 128
_memory: dict[str, dict[str, np.ndarray]] = {}  # of this process: folds and variants ask for the same posts again


def pixels_of(posts: Posts, image_size: int, seen: Preprocessing = OLDER) -> Tensor:
    """Return the pictures (N, 3, S, S) uint8, resized and cut out as `seen` says (disk)."""
    views = ViewSpec.of(seen.views(image_size))
    return crop(resize_all(FileImages(posts.image_paths), views).batch(np.arange(len(posts))), image_size)


def crop(pictures: Tensor, image_size: int) -> Tensor:
    """Return the centre (N, 3, S, S) of pictures (N, 3, R, R)."""
    start = (pictures.shape[2] - image_size) // 2
    return pictures[:, :, start : start + image_size, start : start + image_size].contiguous()


def content_of(paths: Sequence[Path]) -> list[str]:
    """Return the sha256 of each file (disk); one that this process has read is read again only when its size or time differ."""
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        return list(pool.map(digest.of_file_once, paths))


def image_features(
    net: PostNet, posts: Posts, size: int, device: torch.device, number_format: str, view: int = 0, seed: int = 0
) -> np.ndarray:
    """Return the image tower's features (N, d) float32 of a view: 0 is the plain one, others are augmented, drawn by picture and seed."""
    tower = _needed(net.visual)
    how = [_source(images, views, pixels_of, crop), [_source(post_augment, augmented), view, seed] if view else 0]
    transform = digest.of_json(["post image", net.reading.preprocessing.views(size), how])
    contents = content_of(posts.image_paths)

    def compute(rows: np.ndarray) -> np.ndarray:
        pixels = pixels_of(posts.subset(rows), size, net.reading.preprocessing)
        if view:
            with ThreadPoolExecutor(cores.usable()) as pool:
                made = pool.map(lambda one, row: augmented(one, seed, contents[row], view - 1), pixels, rows.tolist())
                pixels = torch.stack(list(made))
        batches = (net.reading.normalise(part.to(device)) for part in pixels.split(FORWARD_BATCH))
        return embed(tower.features, tower, batches, lambda: autocast(device, number_format), f"image features, view {view}")

    return _remembered(tower.digest(), transform, number_format, contents, compute)


def text_features(net: PostNet, texts: Sequence[str], device: torch.device, number_format: str) -> np.ndarray:
    """Return the text tower's features (N, d) float32 of cleaned texts."""
    tower = _needed(net.text)
    transform = digest.of_json(["post text", net.reading.tokenizer.context_length, _source(tokenizers)])

    def compute(rows: np.ndarray) -> np.ndarray:
        tokens = net.reading.tokenizer([texts[row] for row in rows])
        order = tokens.lengths.argsort(stable=True)  # a sentence encoder reads a batch as far as its longest text
        batches = (tokens.ids[part].to(device) for part in order.split(FORWARD_BATCH))
        found = embed(tower.features, tower, batches, lambda: autocast(device, number_format), "text features")
        return found[order.argsort().numpy()]

    return _remembered(tower.digest(), transform, number_format, [digest.of_bytes(text.encode()) for text in texts], compute)


def _needed(tower: Tower | None) -> Tower:
    if tower is None:
        raise ValueError("the head does not look at this side of a post, so the network has no tower for it")
    return tower


def _source(*made_by: ModuleType | Callable[..., Any]) -> str:
    """Return the sha256 of the code that makes a tower's inputs: kept features must not outlive it."""
    return digest.of_bytes(*(inspect.getsource(one).encode() for one in made_by))


def _remembered(
    tower: str, transform: str, number_format: str, items: Sequence[str], compute: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return the features of `items` (names of content), each computed once: here, by another process, or now.

    What is missing is computed in the order of its names, so that the file that it goes to does not depend on the order of the posts.
    Beside each file lies whose features it has: a fold, or a training with variants, asks for other posts than those of any one file.
    """
    from core.places import cache_home, made

    home, group = cache_home() / "embeddings", digest.of_json([tower, transform, number_format])
    known = _memory.setdefault(group, {})
    first = {name: row for row, name in reversed(list(enumerate(items)))}

    def take(names: list[str], make: Callable[[], np.ndarray]) -> None:
        key = EmbeddingKey(tower, digest.of_json(names), transform, number_format)
        known.update(zip(names, cached(home, key, len(names), make).values, strict=True))

    if set(items) - known.keys():
        _take_stored(home / group[:24], set(items) - known.keys(), take)
    missing = sorted(set(items) - known.keys())
    if missing:
        take(missing, lambda: compute(np.array([first[name] for name in missing])))
        listing = json.dumps(missing).encode()
        write_atomically(made(home / group[:24]) / f"{digest.of_bytes(listing)[:24]}.json", listing, "the names of kept features")
    return np.stack([known[name] for name in items])


def _take_stored(folder: Path, missing: set[str], take: Callable[[list[str], Callable[[], np.ndarray]], None]) -> None:
    """Take the files of which `folder` says that they have features of `missing` items; one that is gone or damaged is passed over."""

    def absent() -> np.ndarray:
        raise LookupError

    for listing in sorted(folder.glob("*.json")):
        with contextlib.suppress(LookupError, OSError, ValueError):
            names = json.loads(listing.read_text())
            if missing.intersection(names):
                take(names, absent)
                missing = missing.difference(names)
