"""Pictures that were saved again are found, different ones and plain ones are not."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.data import perceptual_hash, posts

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "posts"


def look(bits: np.ndarray) -> str:
    return np.packbits(bits.astype(bool)).tobytes().hex()


def distance(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


@st.composite
def tables(draw):
    """Two lists of looks: copies of few with some bits flipped, sparse ones and ''."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    bases = [rng.random(256) < share for share in (0.5, 0.5, 0.07, 0.95)]

    def one():
        bits = bases[rng.integers(4)].copy()
        bits[rng.permutation(256)[: rng.integers(0, 20)]] ^= True
        return look(bits) if rng.random() < 0.9 else ""

    return [one() for _ in range(draw(st.integers(0, 30)))], [one() for _ in range(draw(st.integers(0, 30)))]


@pytest.mark.parametrize("block", [4, 256])
@settings(derandomize=True, deadline=None, max_examples=60)
@given(tables())
def test_pairs_are_those_of_plain_counting(block, given_tables):
    ours, theirs = given_tables

    def allowed(one):
        ones = int(one, 16).bit_count()
        return min(perceptual_hash.MOST_BITS, ones // 3, (256 - ones) // 3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perceptual_hash, "_BLOCK", block)
        found = perceptual_hash.alike(ours, theirs)
    assert found.dtype == np.int64 and found.shape[1:] == (2,)
    assert found.tolist() == [
        [i, j]
        for i, one in enumerate(ours)
        for j, other in enumerate(theirs)
        if one and other and distance(one, other) <= min(allowed(one), allowed(other))
    ]


@pytest.mark.parametrize(("flipped", "same"), [(0, True), (10, True), (11, False)])
def test_ten_bits_of_256_may_differ(flipped, same):
    bits = np.arange(256) % 2 == 0
    assert bool(len(perceptual_hash.alike([look(bits)], [look(bits ^ (np.arange(256) < flipped))]))) is same


def test_sparse_looks_of_different_pictures_stay_apart():
    one, other = np.zeros(256), np.zeros(256)
    one[:16] = 1
    other[4:20] = 1
    assert distance(look(one), look(other)) == 8 and not len(perceptual_hash.alike([look(one)], [look(other)]))
    assert len(perceptual_hash.alike([look(one)], [look(one)])) == 1 and not len(perceptual_hash.alike([""], [""]))


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the posts beside the repository (shared/data/posts)")
def test_real_pictures_are_known_again_and_told_apart(tmp_path):
    paths = posts.load(REAL).subset(range(60)).image_paths
    again = {"quality": [], "size": []}
    for path in paths:
        with Image.open(path) as image:
            image = image.convert("RGB")
        image.save(tmp_path / "quality.jpg", quality=70)
        image.resize((image.width * 3 // 4, image.height * 3 // 4)).save(tmp_path / "size.jpg")
        for kind, copies in again.items():
            copies.append(posts.fingerprint(tmp_path / f"{kind}.jpg").look)
    known = [posts.fingerprint(path).look for path in paths]
    twice = {tuple(pair) for pair in perceptual_hash.alike(known, known).tolist()}  # two of these posts have one picture
    assert len(twice) == len(paths) + 2
    for copies in again.values():
        pairs = {tuple(pair) for pair in perceptual_hash.alike(known, copies).tolist()}
        assert pairs <= twice and sum(i == j for i, j in pairs) >= 0.9 * len(paths)
