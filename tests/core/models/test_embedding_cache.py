"""Embeddings on disk: found by what they are of, verified when read, computed once by however many ask."""

import dataclasses
import multiprocessing
import os
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from core.errors import UserError
from core.models.embedding_cache import EmbeddingKey, cached, embed
from tests.core.models import tiny_clip

KEY = EmbeddingKey(tower="t", data="d", transform="e", precision="fp32")
VALUES = np.arange(12, dtype=np.float32).reshape(4, 3)


def never() -> np.ndarray:
    raise AssertionError("computed again")


def test_they_are_computed_once_and_read_back(tmp_path):
    first = cached(tmp_path / "new", KEY, 4, lambda: VALUES)
    again = cached(tmp_path / "new", KEY, 4, never)
    assert not first.reused and again.reused and first.path == again.path
    assert np.array_equal(first.values, VALUES) and np.array_equal(again.values, VALUES)


@pytest.mark.parametrize("part", [field.name for field in dataclasses.fields(EmbeddingKey)])
def test_every_part_of_the_key_counts(tmp_path, part):
    cached(tmp_path, KEY, 4, lambda: VALUES)
    other = cached(tmp_path, dataclasses.replace(KEY, **{part: "other"}), 4, lambda: VALUES + 1)
    assert not other.reused and np.array_equal(cached(tmp_path, KEY, 4, never).values, VALUES)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign", "another"])
def test_a_damaged_file_is_named_and_computed_again(tmp_path, damage, capsys):
    path = cached(tmp_path, KEY, 4, lambda: VALUES).path
    whole = path.read_bytes()
    other = cached(tmp_path, dataclasses.replace(KEY, data="other"), 4, lambda: VALUES + 1).path.read_bytes()
    flipped = whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]
    path.write_bytes({"cut": whole[:-1], "flipped": flipped, "empty": b"", "foreign": b"\x80\x04" * 40, "another": other}[damage])
    mended = cached(tmp_path, KEY, 4, lambda: VALUES)
    assert not mended.reused and mended.damaged and np.array_equal(mended.values, VALUES)
    assert str(path) in capsys.readouterr().err
    assert cached(tmp_path, KEY, 4, never).reused


def test_a_file_with_too_few_rows_is_not_used(tmp_path):
    cached(tmp_path, KEY, 4, lambda: VALUES)
    assert "4 rows for 5 items" in cached(tmp_path, KEY, 5, lambda: np.zeros((5, 3))).damaged


@pytest.mark.parametrize("values", [VALUES[:3], np.full((4, 3), np.nan), np.zeros(4)])
def test_wrong_embeddings_are_never_stored(tmp_path, values):
    with pytest.raises(ValueError, match="for 4 items"):
        cached(tmp_path, KEY, 4, lambda: values)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_computation_that_fails_leaves_nothing_behind(tmp_path):
    with pytest.raises(AssertionError):
        cached(tmp_path, KEY, 4, never)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def _ask(folder, tally):
    def compute():
        with open(tally, "a") as file:
            file.write("x")
        return VALUES

    assert np.array_equal(cached(folder, KEY, 4, compute).values, VALUES)


def test_processes_that_ask_at_once_compute_once(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_ask, args=(tmp_path / "cache", tmp_path / "tally")) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(worker.exitcode == 0 for worker in workers)
    assert (tmp_path / "tally").read_text() == "x"


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match=r"embeddings cannot be kept in .*cache'.*; give a folder"):
        cached(tmp_path / "cache", KEY, 4, lambda: VALUES)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="a disk is full"):
        cached(tmp_path, KEY, 4, lambda: VALUES)
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob(".*.part"))


def test_embedding_puts_the_mode_back_and_keeps_no_gradients():
    towers, images = tiny_clip.towers().train(), tiny_clip.images(5)
    values = embed(towers.image_features, towers, images.split(2), nullcontext, "images")
    assert towers.training and values.shape == (5, 16) and values.dtype == np.float32
    with torch.no_grad():
        np.testing.assert_allclose(values, towers.eval().encode_image(images).numpy(), rtol=1e-4, atol=1e-5)


def test_bf16_is_kept_in_two_bytes_and_read_back_bit_for_bit(tmp_path):
    values = torch.from_numpy(VALUES).bfloat16() / 3
    first, again = cached(tmp_path, KEY, 4, lambda: values), cached(tmp_path, KEY, 4, never)
    assert torch.equal(first.tensor, values) and torch.equal(again.tensor, values) and again.tensor.nbytes * 2 == VALUES.nbytes
    assert np.array_equal(again.values, values.float().numpy())


def test_nothing_to_embed_is_no_error():
    towers = tiny_clip.towers()
    assert len(embed(towers.image_features, towers, [], nullcontext, "images")) == 0
