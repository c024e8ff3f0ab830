"""What clustering takes: labels outside the mask are never looked at, and every mistake is one line."""

import numpy as np
import pytest

from core.clustering._inputs import checked, checked_ks, checked_percentiles
from core.errors import UserError

FEATURES = np.eye(3, dtype=np.float32)


def test_codes_ascend_with_the_labels_and_unlabelled_points_have_none():
    found = checked(FEATURES, np.array([40, -7, 12]), np.array([True, False, True]))
    assert found.codes.tolist() == [1, -1, 0] and found.n_codes == 2 and found.features.dtype == np.float64
    nonsense = np.array([40, np.nan, 12])
    assert checked(FEATURES, nonsense, np.array([1, 0, 1])).codes.tolist() == [1, -1, 0]


@pytest.mark.parametrize(
    ("features", "labels", "mask", "line"),
    [
        (np.ones(3), np.zeros(3), np.zeros(3), r"shape \(N, d\), not float64 \(3,\)"),
        (FEATURES * 1e20, np.zeros(3), np.zeros(3), "exceed 1e15"),
        (FEATURES, np.zeros(2), np.zeros(3), "features have 3 rows"),
        (FEATURES, np.zeros(3), np.full(3, 2), "only true and false"),
        (FEATURES, np.full(3, 0.5), np.ones(3), "must be integers"),
        (np.full((3, 2), np.nan), np.zeros(3), np.zeros(3), "the features to cluster"),
    ],
)
def test_others_are_refused(features, labels, mask, line):
    with pytest.raises(UserError, match=line):
        checked(features, labels, mask)


def test_ks_and_percentiles_are_distinct_and_ascend():
    assert checked_ks([5, 3, 5], 6) == [3, 5]
    assert checked_percentiles([90.0, 12.5, 90]) == [12.5, 90]


@pytest.mark.parametrize(("ks", "line"), [([], "no k to try"), ([0], "at least 1, not 0"), ([2.5], "whole number"), ([6], "choose k < 6")])
def test_other_ks_are_refused(ks, line):
    with pytest.raises(UserError, match=line):
        checked_ks(ks, 6)


@pytest.mark.parametrize(("percentiles", "line"), [([], "no density percentile"), ([101], "between 0 and 100, not 101")])
def test_other_percentiles_are_refused(percentiles, line):
    with pytest.raises(UserError, match=line):
        checked_percentiles(percentiles)
