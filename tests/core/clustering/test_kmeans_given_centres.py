"""Semi-supervised k-means from given centres of the novel clusters."""

import numpy as np
import pytest

from core.clustering.kmeans import semi_supervised_kmeans
from tests.core.clustering.test_pseudo_labels import blobs

FEATURES, TRUTH = blobs()
LABELLED = (TRUTH < 2) & (np.arange(len(TRUTH)) % 2 == 0)


def fit(centres, seed=0, n_clusters=4):
    return semi_supervised_kmeans(FEATURES, TRUTH, LABELLED, n_clusters, np.random.default_rng(seed), novel_centres=centres)


def test_clusters_start_where_they_are_told_and_keep_that_order():
    centres = np.stack([FEATURES[rows].mean(axis=0) for rows in (TRUTH == 3, TRUTH == 2)])
    found = fit(centres)
    assert (found.labels[TRUTH == 3] == 2).all() and (found.labels[TRUTH == 2] == 3).all()
    assert (found.labels[LABELLED] == TRUTH[LABELLED]).all()
    np.testing.assert_allclose(found.centres[2], FEATURES[found.labels == 2].mean(axis=0), atol=1e-5)


def test_nothing_is_drawn():
    centres = FEATURES[TRUTH >= 2][[0, 40]]
    one, other = fit(centres, 0), fit(centres, 99)
    assert np.array_equal(one.labels, other.labels) and one.inertia == other.inertia


def test_no_novel_cluster_needs_no_centre():
    found = fit(np.zeros((0, 6), np.float32), n_clusters=2)
    assert set(found.labels) == {0, 1}


def test_centres_must_fill_up_the_clusters():
    with pytest.raises(ValueError, match="1 given centres and 2 classes are not 4 clusters"):
        fit(FEATURES[:1])
