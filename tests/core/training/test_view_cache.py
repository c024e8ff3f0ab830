"""Cached views: different ones in every step, the same in every run, and together what one process sees."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

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


def cached(made: ViewLoader, n_cached: int = V, file: Path | None = None) -> CachedViews:
    return CachedViews(made, Frozen(), n_cached, CPU, nullcontext, file)


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "cache" / "views" / "x.safetensors"


def names(file: Path) -> list[str]:
    return sorted(path.name for path in file.parent.iterdir())


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


def test_a_file_gives_the_same_bits_and_is_mapped_and_not_read(file):
    plain, first, again = cached(loader()), cached(loader(), file=file), cached(loader(), file=file)
    assert torch.equal(plain.outputs, first.outputs) and torch.equal(plain.outputs, again.outputs)
    assert same(plain.epoch(1), again.epoch(1))
    assert names(file) == ["x.safetensors"]
    if Path("/proc/self/maps").exists():
        assert mapped_from(first.outputs) == mapped_from(again.outputs) == str(file) != mapped_from(plain.outputs)


def mapped_from(values: torch.Tensor) -> str:
    """Return the file that lies behind a tensor's memory, '' for none."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        region, *_, name = line.split(maxsplit=5)
        start, end = (int(place, 16) for place in region.split("-"))
        if start <= values.data_ptr() < end:
            return name if name.startswith("/") else ""
    raise AssertionError("no memory")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_that_go_to_a_file_are_never_in_memory_together(file, monkeypatch, dtype):
    made, empty = [], torch.empty
    monkeypatch.setattr(view_cache, "BLOCK", 7)
    monkeypatch.setattr(torch, "empty", lambda *size, **options: made.append(empty(*size, **options)) or made[-1])
    autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16) if dtype == torch.bfloat16 else nullcontext
    kept = CachedViews(loader(), Residual(), V, CPU, autocast, file)
    assert kept.outputs.dtype == dtype and kept.outputs.data_ptr() % 64 == 0
    views = [block for block in made if block.dtype == dtype and block.shape[1:] == kept.outputs.shape[1:]]
    assert [len(block) for block in views] == [7]
    assert torch.equal(kept.outputs, CachedViews(loader(), Residual(), V, CPU, autocast).outputs)


class Stopping(nn.Module):
    """A trunk that does `stop` in the middle of the second block of 6 images."""

    def __init__(self, stop):
        super().__init__()
        self.calls, self.stop, self.whole = 0, stop, Frozen().trunk

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == V + 4:
            self.stop()
        return self.whole(x)


def stopped(file: Path, stop) -> None:
    """Begin to write a cache file, and stop in the middle of it."""
    model = Frozen()
    model.trunk = Stopping(stop)
    CachedViews(loader(), model, V, CPU, nullcontext, file)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_is_interrupted_leaves_nothing(file, monkeypatch, error):
    def stop():
        assert len(names(file)) == 1  # it had begun
        raise error

    monkeypatch.setattr(view_cache, "BLOCK", 6)
    with pytest.raises(error):
        stopped(file, stop)
    assert names(file) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.core.training import test_view_cache as here
here.view_cache.BLOCK = 6
here.stopped(Path(sys.argv[1]), lambda: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_killed_process_leaves_nothing_that_counts_and_the_next_one_removes_it(file):
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", KILLED, str(file)], cwd=root).returncode == -signal.SIGKILL
    (left,) = names(file)
    assert left.startswith(".x.safetensors.")
    with (file.parent / ".y.safetensors.alive").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert torch.equal(cached(loader(), file=file).outputs, cached(loader()).outputs)
        assert names(file) == [".y.safetensors.alive", "x.safetensors"]


def test_the_size_is_said_before_it_is_made(file, capsys, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        made = loader()
        monkeypatch.setattr(CachedViews, "_blocks", interrupted)
        cached(made, file=file)
    assert capsys.readouterr().err == "taxon: view cache: 4 views of 24 images, 0.0 MiB, in cache/views\n"
    assert view_cache._shown(int(0.94 * 2**30)) == "0.9 GiB" and view_cache._shown(9 << 20) == "9.0 MiB"


def interrupted(*_arguments):
    raise KeyboardInterrupt


def disk(monkeypatch, free: int) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _folder: SimpleNamespace(f_bavail=free, f_frsize=1))


SIZE = 12 * 4 * N * V  # bytes of the outputs


def test_without_room_on_the_disk_memory_is_used_and_a_tenth_stays_free(file, capsys, monkeypatch):
    disk(monkeypatch, SIZE)
    assert torch.equal(cached(loader(), file=file).outputs, cached(loader()).outputs)
    assert names(file) == [] and "24 images, 0.0 MiB, in memory\n" in capsys.readouterr().err
    disk(monkeypatch, int(SIZE / 0.9) + 1)
    cached(loader(), file=file)
    assert names(file) == ["x.safetensors"]


def test_a_disk_that_refuses_after_all_leaves_memory(file, monkeypatch):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    assert torch.equal(cached(loader(), file=file).outputs, cached(loader()).outputs)
    assert names(file) == []


def test_neither_disk_nor_memory_is_refused_with_what_is_lacking(file, monkeypatch):
    monkeypatch.setattr(view_cache, "_free_memory", lambda: SIZE - 1)
    monkeypatch.setattr(view_cache, "_shown", lambda size: f"{size} B")
    disk(monkeypatch, SIZE)
    lacking = SIZE - int(0.9 * SIZE)
    said = rf"view_cache = 4 needs {SIZE} B for 24 images, {lacking} B more than the disk of '{re.escape(str(file.parent))}' has left; "
    with pytest.raises(UserError, match=said + ".*set TAXON_CACHE to another disk, or view_cache to 3 or fewer$"):
        cached(loader(), file=file)
    with pytest.raises(UserError, match=r"or view_cache to 0$"):
        cached(loader(n_views=4), file=file)
    monkeypatch.setattr(view_cache, "DISK_LIMIT", SIZE - 1)
    with pytest.raises(UserError, match="keep it to 3 views or fewer"):
        cached(loader(), file=file)


@pytest.mark.parametrize(
    ("limit", "free", "lacking", "left"), [(5, 99, 0, "bc"), (9, 1, 0, "c"), (9, 0, 0, ""), (9, 99, 0, "abc"), (9, 0, 1, "abc")]
)
def test_the_oldest_files_make_room_where_that_helps(file, monkeypatch, limit, free, lacking, left):
    """Three files of 1000 bytes, and one of 3000 that is to come; `limit` and usable space in 1000 bytes."""
    file.parent.mkdir(parents=True)
    for name in "cab":
        (file.parent / f"{name}.safetensors").write_bytes(b"x" * 1000)
        os.utime(file.parent / f"{name}.safetensors", ("abc".index(name), 0))
    monkeypatch.setattr(view_cache, "DISK_LIMIT", limit * 1000)
    disk(monkeypatch, -(-free * 10000 // 9))
    assert view_cache._make_room(file, 3000 + 1000 * lacking) == 1000 * lacking
    assert names(file) == [f"{name}.safetensors" for name in left]


def test_auto_takes_the_most_views_that_fit_a_budget(monkeypatch):
    def auto(limit: float, n_views: int = 2, digest: str = "x") -> int:
        monkeypatch.setattr(view_cache, "AUTO_LIMIT", int(limit * 12 * 4 * N))
        return view_cache.auto_views(Frozen(digest), loader().spec, N, n_views, CPU, nullcontext)

    assert [auto(limit) for limit in (99, 10, 9.9, 4, 3.9)] == [10, 10, 9, 4, 0]
    assert [auto(6, n_views) for n_views in (6, 7)] == [6, 0]
    assert auto(99, digest="") == 0
