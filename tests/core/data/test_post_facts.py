"""What posts are grouped by."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data import post_facts, posts
from tests.core.data import fake_posts


@pytest.mark.parametrize(
    ("n", "group"),
    [(0, "none"), (1, "1-20"), (20, "1-20"), (21, "21-50"), (50, "21-50"), (51, "51-100"), (100, "51-100"), (101, "over 100")],
)
def test_lengths_end_at_20_50_and_100(n, group):
    assert post_facts.length_group("x" * n) == group


def test_emoji_are_seen_and_emoticons_are_none():
    assert post_facts.emoji_group("so good 😂") == "with emoji" and post_facts.emoji_group("so good :)") == "without"


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Just a day http://t.co/abc", "Latin"),
        ("今天心情", "Chinese"),
        ("今日はいい天気", "Japanese"),
        ("오늘 기분", "Korean"),
        ("Привет @name", "Cyrillic"),
        ("مرحبا", "Arabic"),
        ("Привет dear friend", "mixed"),
        ("a very long Latin sentence with one Привет", "Latin"),
        ("😂 123 !!! https://t.co/xyz", "none"),
        ("", "none"),
    ],
)
def test_scripts_are_those_of_the_letters(text, script):
    assert post_facts.script_group(text) == script


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=40))
def test_terciles_are_ordered_and_keep_equal_areas_together(areas):
    groups = post_facts.area_groups(np.array(areas))
    ranks = [post_facts.AREAS.index(name) for name in groups]
    for a, one in zip(areas, ranks, strict=True):
        for b, other in zip(areas, ranks, strict=True):
            assert (one <= other) if a <= b else (one >= other)


def test_terciles_of_different_areas_are_thirds():
    assert post_facts.area_groups(np.arange(9)) == ["small"] * 3 + ["medium"] * 3 + ["large"] * 3


def test_areas_are_those_of_the_files(tmp_path):
    root = fake_posts.write(tmp_path / "posts", n=3, n_predict=0)
    fake_posts.picture(root / "data" / "2.jpg", 1, size=(10, 7))
    found = posts.load(root)
    assert post_facts.image_areas(found).tolist() == [480, 70, 480]
    assert {len(names) for names, _ in post_facts.groupings(found, ["neutral"] * 3).values()} == {3}
