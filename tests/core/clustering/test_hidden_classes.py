"""The F1 of hidden classes, against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from core.clustering.hidden_classes import recovered

CODES = np.array([0, 0, 0, -1, 1, 1, 1, -1, 2, 2, -1, -1])  # 0 shown; 1 and 2 hidden


def score(clusters, share=0.75, hidden=(1, 2), n_clusters=4):
    return recovered(np.array(clusters), CODES, np.array(hidden), share, 1, n_clusters)


def test_a_cluster_each_is_perfect():
    assert score([0, 0, 0, 0, 2, 2, 2, 2, 1, 1, 3, 3]) == 1.0


def test_strangers_and_lost_members_cost():
    # class 1: all 3 in a cluster of 6, of which 4.5 are expected to be labelled; class 2: 1 of 2 in a cluster of 1.
    assert score([0, 0, 0, 3, 2, 2, 2, 2, 2, 1, 2, 3]) == pytest.approx((2 * 3 / (3 + 4.5) + 2 * 1 / (2 + 1)) / 2)


def test_clusters_of_shown_classes_do_not_count_and_none_may_be_free():
    assert score([1] * 4 + [0] * 8, hidden=(1,)) == 0.0
    assert score([0] * 12, n_clusters=1) == 0.0


def test_two_classes_in_one_cluster_share_it():
    assert score([0] * 4 + [1] * 8, share=0.625, n_clusters=2) == pytest.approx(2 * 3 / (3 + 5) / 2)
