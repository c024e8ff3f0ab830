"""Strangers are outliers, what lies between two clusters is at the border, the rest is core."""

import numpy as np
import pytest

from core.evaluation import positions
from core.evaluation.features import normalise
from tests.core.evaluation.answers import blobs


def with_strangers(n, sizes=(300, 300), seed=0):
    """Return features, centres and clusters of blobs with n single strangers at the end."""
    features, truth = blobs(sizes, seed, d=32)
    strangers = normalise(np.eye(32, dtype=np.float32)[-n:] + 0.3 * features[:n])
    centres = np.stack([features[truth == c].mean(axis=0) for c in range(len(sizes))])
    everyone = np.concatenate([features, strangers])
    return everyone, centres, (everyone @ centres.T).argmax(axis=1)


def test_planted_strangers_are_the_outliers():
    features, centres, clusters = with_strangers(12)
    distances = positions.cosine_distances(features, centres, clusters)
    strange = positions.strangeness(features, distances, clusters, 0)
    assert strange[-12:].min() > strange[:-12].max() and (strange[:-12] > 0).mean() < 0.03


def test_candidates_and_samples_are_bounded(monkeypatch):
    features, centres, clusters = with_strangers(12)
    monkeypatch.setattr(positions, "_SAMPLE", 100)
    monkeypatch.setattr(positions, "_MOST", 12)
    monkeypatch.setattr(positions, "_CELLS", 700)
    distances = positions.cosine_distances(features, centres, clusters)
    assert np.flatnonzero(positions.strangeness(features, distances, clusters, 0)).tolist() == list(range(600, 612))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_handful_of_images_and_copies_have_no_outliers(n):
    features = np.repeat(np.eye(3, dtype=np.float32)[:1], n, axis=0)
    clusters = np.zeros(n, np.int64)
    distances = positions.cosine_distances(features, features[:1], clusters)
    assert not positions.strangeness(features, distances, clusters, 0).any() and (distances == 0).all()


def test_border_is_where_another_is_half_as_likely():
    shares, margins, strange = np.array([0.6, 0.6, 0.6, 0.4]), np.array([0.31, 0.29, 0.5, 0.0]), np.array([0.0, 0.0, 2.5, 0.0])
    assert positions.positions(margins, shares, strange).tolist() == [positions.CORE, positions.BORDER, positions.OUTLIER, positions.BORDER]


def test_radius_holds_95_percent_of_a_cluster():
    found = positions.radii(np.arange(101) / 100, np.zeros(101, np.int64), 2)
    assert found.tolist() == pytest.approx([0.95, 0.0])
