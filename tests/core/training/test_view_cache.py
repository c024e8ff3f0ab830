"""Cached views: different ones in every step, the same in every run, and together what one process sees."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from core.data.images import ArrayImages
from core.data.loader import ViewLoader, sampling_weights
from core.data.views import ViewSpec, augment, draw_parameters, resize_all
from core.errors import UserError
from core.training import view_cache
from core.training.view_cache import CachedViews

CPU = torch.device("cpu")
N, V = 24, 4


class Frozen(nn.Module):
    """A model whose trunk shrinks an image; `trunk_digest` as the real one has it."""

    def __init__(self, trunk_digest: str = "x"):
        super().__init__()
        self.trunk, self.trunk_digest = nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), trunk_digest


def loader(weights=None, **more) -> ViewLoader:
    pixels = np.random.default_rng(0).integers(0, 256, (N, 10, 10, 3), dtype=np.uint8)
    spec = ViewSpec(image_size=8, resize=10)
    return ViewLoader(resize_all(ArrayImages(pixels), spec), spec, **{"batch_size": 8, "seed": 1, "num_workers": 0} | more, weights=weights)


def cached(made: ViewLoader, n_cached: int = V) -> CachedViews:
    return CachedViews(made, Frozen(), n_cached, CPU, nullcontext)


def test_every_row_is_a_cached_view_of_its_image_and_a_step_has_different_ones():
    views = cached(loader(n_views=3))
    assert views.outputs.shape[:2] == (N, V)
    for batch in views.epoch(0):
        rows = batch.views.view(3, 8, -1)
        for position, image in enumerate(batch.indices.tolist()):
            used = [int((views.outputs[image] == rows[view, position]).all(1).nonzero()) for view in range(3)]
            assert len(set(used)) == 3


def test_all_cached_views_of_all_images_come_to_use():
    views = cached(loader())
    seen = set()
    for epoch in range(30):
        for batch in views.epoch(epoch):
            seen |= {(image, tuple(row.tolist())) for image, row in zip(batch.indices.tolist() * 2, batch.views, strict=True)}
    assert len(seen) == N * V


def same(one, other) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a.indices, b.indices) and torch.equal(a.views, b.views) for a, b in pairs)


def test_an_epoch_is_a_pure_function_of_seed_and_epoch():
    one, again, other = cached(loader()), cached(loader()), cached(loader(seed=2))
    assert same(one.epoch(3), again.epoch(3)) and same(one.epoch(3), one.epoch(3))
    assert not same(one.epoch(3), one.epoch(4))
    assert not torch.equal(one.outputs, other.outputs)


def test_an_epoch_without_weights_shows_each_image_once():
    indices = torch.cat([batch.indices for batch in cached(loader()).epoch(0)])
    assert sorted(indices.tolist()) == list(range(N))


def test_sampling_weights_apply():
    weights = sampling_weights(np.arange(4), np.arange(4, 20), N)
    indices = torch.cat([batch.indices for epoch in range(40) for batch in cached(loader(weights)).epoch(epoch)]).numpy()
    assert indices.max() < 20  # the held-out images are never drawn
    assert (indices < 4).mean() == pytest.approx(0.5, abs=0.08)


def test_two_ranks_together_see_what_one_process_sees():
    whole = cached(loader())
    parts = [cached(loader(rank=rank, world_size=2)) for rank in range(2)]
    for batch, *shares in zip(whole.epoch(2), *(part.epoch(2) for part in parts), strict=True):
        assert torch.equal(batch.indices, torch.cat([share.indices for share in shares]))
        for view in range(2):
            joined = torch.cat([share.views.chunk(2)[view] for share in shares])
            assert torch.equal(batch.views.chunk(2)[view], joined)


class Residual(Frozen):
    """A trunk that gives tokens in float32 under autocast, as a ViT's residual stream does."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Flatten(2), nn.Linear(64, 6), AddOne())


class AddOne(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.ones(1)


def test_under_bf16_the_cache_takes_half_the_bytes_and_gives_what_the_trunk_gave(tmp_path):
    def made(autocast, file=None) -> CachedViews:
        return CachedViews(loader(), Residual(), V, CPU, autocast, file)

    bf16 = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    plain, half = made(nullcontext), made(bf16, tmp_path / "views.safetensors")
    assert plain.outputs.dtype == torch.float32 and half.outputs.dtype == torch.bfloat16
    assert 2 * half.outputs.nbytes == plain.outputs.nbytes
    with bf16():
        pixels = augment(half.loader.images.batch(np.arange(N)), drawn()[:, 1], half.loader.spec)
        given = Residual().trunk(pixels)
    restored = half.restored(half.outputs[:, 1])
    assert given.dtype == restored.dtype == torch.float32 and torch.equal(restored, given.bfloat16().float())
    again = made(bf16, tmp_path / "views.safetensors")
    assert torch.equal(again.outputs, half.outputs) and again.computed == torch.float32
    assert 2 * (tmp_path / "views.safetensors").stat().st_size < plain.outputs.nbytes * 1.5
    assert torch.equal(plain.restored(plain.outputs), plain.outputs)


def drawn() -> np.ndarray:
    made = loader()
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([made.seed, view_cache.STREAM])))
    return draw_parameters(made.spec, N, V, rng)


def test_what_cannot_work_is_said_in_one_line(monkeypatch):
    with pytest.raises(UserError, match="needs a frozen trunk"):
        CachedViews(loader(), Frozen(""), V, CPU, nullcontext)
    with pytest.raises(UserError, match="view_cache = 1 is less than n_views = 2"):
        cached(loader(), 1)
    row = 12 * 4  # bytes of one view's trunk output
    monkeypatch.setattr(view_cache, "MEMORY_LIMIT", row * N * 3)
    with pytest.raises(UserError, match="keep it to 3 views or fewer"):
        cached(loader(), 4)
    assert cached(loader(), 3).outputs.nbytes == row * N * 3
