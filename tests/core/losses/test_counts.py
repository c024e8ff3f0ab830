"""Class counts are checked before a prior is made of them."""

import pytest
import torch

from core.losses._counts import positive


def test_counts_become_float64_on_the_cpu():
    found = positive(torch.tensor([3, 1]), 2)
    assert found.tolist() == [3.0, 1.0] and found.dtype == torch.float64 and found.device.type == "cpu"


@pytest.mark.parametrize(
    ("counts", "n_classes", "line"),
    [
        ([2, 0, 1], None, "above 0, got 0 for class 1"),
        ([2, -1], None, "above 0, got -1 for class 1"),
        ([1, 1], 3, r"shape \(3,\), got \(2,\)"),
        ([[1.0], [1.0]], None, r"shape \(C,\), got \(2, 1\)"),
        ([1.0, float("nan")], None, "got nan for class 1"),
    ],
)
def test_others_are_refused(counts, n_classes, line):
    with pytest.raises(ValueError, match=line):
        positive(torch.tensor(counts), n_classes)
