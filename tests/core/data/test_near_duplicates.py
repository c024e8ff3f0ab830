"""Near-duplicates are grouped as plain comparing of all pairs groups them, and different pictures stay apart."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.data import catalog, near_duplicates, perceptual_hash
from core.data.images import ArrayImages, FileImages
from core.errors import UserError

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


def as_look(bits):
    return np.packbits(bits.astype(bool)).tobytes().hex()


def plainly(hashed, contents):
    """Group by comparing every pair."""
    numbers = list(range(len(hashed)))

    def allowed(look, side):
        ones = int(look, 16).bit_count()
        return min(4 if side < 64 else 10, ones // 10, (256 - ones) // 10)

    def alike(i, j):
        (one, side), (other, other_side) = hashed[i], hashed[j]
        if contents[i] and contents[i] == contents[j]:
            return True
        if not one or not other or min(side, other_side) < 16:
            return False
        return (int(one, 16) ^ int(other, 16)).bit_count() <= min(allowed(one, side), allowed(other, other_side))

    for i in range(len(hashed)):
        for j in range(i):
            if alike(i, j):
                numbers = [numbers[j] if number == numbers[i] else number for number in numbers]
    groups = [number for number in dict.fromkeys(numbers) if numbers.count(number) > 1]
    return [groups.index(number) if number in groups else -1 for number in numbers]


@st.composite
def heaps(draw):
    """Looks near one of few pictures, sparse ones and '', of small and large images; some contents are equal."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    n = draw(st.integers(0, 40))
    bases = [rng.random(256) < share for share in (0.5, 0.5, 0.5, 0.1, 0.9)]
    hashed = []
    for _ in range(n):
        bits = bases[rng.integers(len(bases))].copy()
        bits[rng.permutation(256)[: rng.integers(0, 16)]] ^= True
        hashed.append((as_look(bits) if rng.random() < 0.9 else "", int(rng.choice([8, 32, 100]))))
    return hashed, [str(rng.integers(0, 2 * n)) if rng.random() < 0.9 else "" for _ in range(n)]


@pytest.mark.parametrize("few", [1, 64])
@settings(derandomize=True, deadline=None, max_examples=80)
@given(heaps())
def test_groups_are_those_of_comparing_all_pairs(few, heap):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "_FEW", few)
        patch.setattr(near_duplicates, "_STARTS", few)
        found = near_duplicates.groups(*heap)
    assert found.dtype == np.int64 and found.tolist() == plainly(*heap)


@pytest.mark.parametrize(("side", "flipped", "same"), [(64, 10, True), (64, 11, False), (63, 4, True), (63, 5, False), (15, 0, False)])
def test_small_images_must_agree_in_more_bits(side, flipped, same):
    bits = np.arange(256) % 2 == 0
    hashed = [(as_look(bits), side), (as_look(bits ^ (np.arange(256) < flipped)), side)]
    assert near_duplicates.groups(hashed, ["a", "b"]).tolist() == ([0, 0] if same else [-1, -1])
    assert near_duplicates.groups(hashed, ["a", "a"]).tolist() == [0, 0]


def test_saved_again_is_a_near_duplicate_in_files_and_in_memory(tmp_path):
    rng = np.random.default_rng(0)
    pixels = np.stack([np.asarray(Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8)).resize((96, 96))) for _ in range(3)])
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    Image.fromarray(pixels[1]).resize((80, 80)).save(tmp_path / "3.jpg", quality=80)
    files = FileImages([tmp_path / name for name in ("0.png", "1.png", "2.png", "3.jpg")])
    assert near_duplicates.find(files, files.file_digests).tolist() == [-1, 0, -1, 0]
    in_memory = ArrayImages(np.concatenate([pixels, pixels[:1]]))
    assert near_duplicates.find(in_memory, ["a", "b", "c", "d"]).tolist() == [0, -1, -1, 0]
    (tmp_path / "2.png").write_bytes(b"gone")
    with pytest.raises(UserError, match=r"2\.png: not a readable image"):
        near_duplicates.find(files, files.file_digests)


def test_different_digits_are_no_near_duplicates():
    digits = catalog.load("digits", "", "", "", False).train.source
    assert set(near_duplicates.find(digits, [str(i) for i in range(len(digits))])) == {-1}


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs CIFAR-100 beside the repository (shared/data)")
def test_the_pairs_of_trees_are_one_picture_each():
    source = catalog.load("cifar100", str(SHARED), "trees", "", False).train.source
    found = near_duplicates.find(source, [str(i) for i in range(len(source))])
    members = [np.flatnonzero(found == group) for group in range(found.max() + 1)]
    grey = source.load(np.arange(len(source))).mean(axis=3).reshape(len(source), -1)
    assert len(members) == 1
    assert all(np.corrcoef(grey[one])[0, 1] > 0.97 for one in members)


@pytest.mark.slow
def test_a_hundred_thousand_are_grouped_in_seconds_even_where_all_are_alike():
    rng = np.random.default_rng(0)
    base = rng.random(256) < 0.5
    for share in (0.0, 1.0):  # every picture another; frames of one film
        rows = np.where(rng.random((100_000, 1)) < share, base, rng.random((100_000, 256)) < 0.5)
        for _ in range(5):
            rows[np.arange(100_000), rng.integers(0, 256, 100_000)] ^= True
        hashed = [(as_look(row), 100) for row in rows]
        began = time.process_time()
        found = near_duplicates.groups(hashed, [str(i) for i in range(100_000)])
        assert (found == (0 if share else -1)).all() and time.process_time() - began < 60


def sparse(n, cells, least, most):
    """Return n looks of pictures that are plain but for some of `cells`."""
    rng = np.random.default_rng(0)
    rows = np.zeros((n, 256), bool)
    for row in rows:
        row[rng.permutation(cells)[: rng.integers(least, most)]] = True
    return rows


@pytest.mark.slow
@pytest.mark.parametrize(("first", "least", "most"), [(0, 16, 17), (160, 16, 40), (208, 16, 32)])
def test_twenty_thousand_pictures_that_are_mostly_plain_are_grouped_in_seconds(first, least, most):
    """Specks anywhere, or something at the lower edge: hashes that have most blocks in common."""
    rows = sparse(20_000, np.arange(first, 256), least, most)
    rows[1::500] = rows[::500]
    hashed = [(as_look(row), 100) for row in rows]
    began = time.process_time()
    found = near_duplicates.groups(hashed, [str(i) for i in range(len(rows))])
    assert time.process_time() - began < 10
    assert (found[::500] >= 0).all() and (found[1::500] == found[::500]).all()


@settings(derandomize=True, deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.integers(20, 120))
def test_large_buckets_of_plain_pictures_are_grouped_as_all_pairs_are(seed, cells):
    """Buckets that are divided again: many hashes, near-duplicates among them, in few cells."""
    rng = np.random.default_rng(seed)
    rows = sparse(60, np.arange(cells), 16, 20)
    rows[30:] = rows[:30]
    rows[np.arange(30, 60), rng.integers(0, 256, 30)] ^= True
    hashed = [(as_look(row), 100) for row in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "_FEW", 2)
        patch.setattr(near_duplicates, "_STARTS", 1)
        found = near_duplicates.groups(hashed, [str(i) for i in range(60)])
    assert found.tolist() == plainly(hashed, [str(i) for i in range(60)]) and (found >= 0).any()


def test_a_plain_surface_is_like_nothing():
    plain = perceptual_hash.look(Image.new("RGB", (80, 80), "white"))
    assert plain == "" and near_duplicates.groups([(plain, 80)] * 2, ["a", "b"]).tolist() == [-1, -1]
