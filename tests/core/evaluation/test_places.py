"""The map keeps alike images together, gives every image a place, and is the same each time."""

import numpy as np
import pytest

from core.evaluation import places
from tests.core.evaluation.answers import blobs


def test_blobs_lie_apart_and_the_map_comes_again():
    features, truth = blobs((60, 50, 40))
    points = places.reduced(features, 1, 8)
    found = places.places(points, 1)
    assert found.dtype == np.float32 and found.shape == (150, 2) and np.abs(found).max() <= 1
    distances = np.linalg.norm(found[:, None] - found[None], axis=2) + 9 * np.eye(150)
    assert (truth[distances.argmin(axis=1)] == truth).mean() > 0.98
    assert np.array_equal(found, places.places(places.reduced(features, 1, 8), 1))


def test_images_beyond_the_sample_lie_at_their_nearest_mapped_image(monkeypatch):
    monkeypatch.setattr(places, "MAPPED", 40)
    monkeypatch.setattr(places, "sampled", lambda n, seed, most=40: np.arange(0, n, 4))
    features, _ = blobs((60, 50, 50))
    found = places.places(features, 3)
    nearest = 4 * (features @ features[::4].T).argmax(axis=1)
    assert np.abs(found - found[nearest]).max() < 5 * places._JITTER
    assert len(np.unique(found, axis=0)) == 160


@pytest.mark.parametrize("n", [1, 2, 11, 30])
def test_few_or_equal_images_have_places(n):
    assert places.places(places.reduced(np.ones((n, 4), np.float32), 0), 0).tolist() == [[0, 0]] * n
    assert np.isfinite(places.places(places.reduced(np.eye(n, 3, dtype=np.float32), 0), 0)).all()


def test_main_directions_keep_distances():
    features, _ = blobs((40, 40), d=16)
    points = places.reduced(features, 0)
    assert points.shape == (80, 16)
    assert np.allclose(points @ points.T, (features - features.mean(0)) @ (features - features.mean(0)).T, atol=1e-4)
