"""The gallery picks the most central images and says what each category is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.plots.figure import KNOWN_COLOUR, NOVEL_COLOUR
from core.plots.gallery import COLUMNS, GalleryGroup, gallery, heading, most_central, strip


def pictures(n: int, height: int = 8, width: int = 6) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 255, (n, height, width, 3)).astype(np.uint8)


def test_rows_headings_and_colours():
    groups = [
        GalleryGroup("oak", pictures(16), True, 0.826, 1200),
        GalleryGroup("category 7", pictures(3), False, 1.0, 3),
        GalleryGroup("category 9", pictures(1), None, None, 1),
        GalleryGroup("empty", pictures(0), None, None, 0),
    ]
    axes = gallery(groups).axes
    titles = [panel.get_title(loc="left") for panel in axes]
    assert titles == [
        "oak - known, 1,200 images, 83 % pure",
        "category 7 - novel, 3 images, 100 % pure",
        "category 9 - 1 image",
        "empty - 0 images",
    ]
    assert axes[0].title.get_text() == ""
    assert [panel._left_title.get_color() for panel in axes[:2]] == [KNOWN_COLOUR, NOVEL_COLOUR]
    assert [len(panel.images) for panel in axes] == [1, 1, 1, 0]
    assert axes[3].texts[0].get_text() == "no image"
    np.testing.assert_array_equal(axes[1].images[0].get_array(), strip(groups[1].images))


def test_strip_places_at_most_16_images_on_white():
    images = pictures(3)
    canvas = strip(images)
    assert canvas.shape == (8, COLUMNS * 7 - 1, 3)
    for place in range(3):
        np.testing.assert_array_equal(canvas[:, place * 7 : place * 7 + 6], images[place])
    assert (canvas[:, 21:] == 255).all() and (canvas[:, 6] == 255).all()
    np.testing.assert_array_equal(strip(pictures(20)), strip(pictures(20)[:16]))


def test_purity_without_truth_is_left_out():
    assert heading(GalleryGroup("a", pictures(1), False, None, 5)) == "a - novel, 5 images"


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_most_central_equals_a_plain_sort(seed, n):
    rng = np.random.default_rng(seed)
    features, labels = rng.integers(-2, 3, (30, 2)).astype(np.float32), rng.integers(0, 3, 30)
    members = [i for i in range(30) if labels[i] == 1]
    mean = np.mean([features[i] for i in members], axis=0, dtype=np.float64)

    def cosine(i: int) -> float:
        length = np.linalg.norm(features[i].astype(np.float64)) * np.linalg.norm(mean)
        return round(float(features[i].astype(np.float64) @ mean / length), 12) if length else 0.0

    assert most_central(features, labels, 1, n).tolist() == sorted(members, key=lambda i: (-cosine(i), i))[:n]


def test_copies_tie_to_the_smaller_index_and_an_empty_cluster_is_empty():
    features = np.tile([0.1, 0.7, 0.3], (5, 1))
    assert most_central(features, np.array([1, 0, 1, 1, 1]), 1, 3).tolist() == [0, 2, 3]
    assert most_central(features, np.zeros(5), 4).tolist() == []


def test_no_category_is_a_users_mistake():
    with pytest.raises(UserError, match="no categories"):
        gallery([])
