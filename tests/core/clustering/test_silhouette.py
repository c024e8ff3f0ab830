"""Mean silhouettes against scikit-learn's, and the cases that it refuses."""

import numpy as np
import pytest
from sklearn.metrics import silhouette_samples

from core.clustering.neighbours import build
from core.clustering.silhouette import mean_silhouettes


@pytest.mark.parametrize("workers", [1, 2])
def test_it_is_scikit_learns_of_the_chosen_points_under_every_partition(workers):
    rng = np.random.default_rng(0)
    x, partitions = rng.normal(size=(150, 4)), rng.integers(0, 4, (3, 150))
    chosen = np.arange(0, 150, 2)
    wanted = [silhouette_samples(x, labels)[chosen].mean() for labels in partitions]
    np.testing.assert_allclose(mean_silhouettes(build(x, 5), chosen, partitions, workers), wanted, atol=1e-5)


def test_a_single_cluster_a_lone_point_and_no_points_give_zero():
    x = np.random.default_rng(1).normal(size=(20, 3))
    neighbours, everyone = build(x, 5), np.arange(20)
    assert mean_silhouettes(neighbours, everyone, np.zeros((1, 20), int)).tolist() == [0.0]
    assert mean_silhouettes(neighbours, np.array([7]), (everyone == 7)[None].astype(int)).tolist() == [0.0]
    assert mean_silhouettes(neighbours, everyone[:0], np.zeros((2, 20), int)).tolist() == [0.0, 0.0]
