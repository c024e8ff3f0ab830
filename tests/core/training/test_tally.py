"""The accuracy on training batches: a share of all answers, counted anew every epoch."""

from __future__ import annotations

import torch

from core.training.discovery import count_nearest_means
from core.training.tally import Tally


def test_batches_of_different_sizes_count_by_their_images():
    tally = Tally()
    tally.add(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 2, 0]))
    tally.add(torch.tensor([1]), torch.tensor([0]))
    assert tally.read() == {"train/accuracy": 3 / 5}
    assert tally.read() == {}
    tally.add(torch.tensor([1]), torch.tensor([1]))
    assert tally.read() == {"train/accuracy": 1.0}


def test_discovery_counts_labelled_images_whose_last_view_is_nearest_to_their_class_mean():
    """Two classes at right angles; of five images one is unlabelled, and one view lies with the other class."""
    first = torch.tensor([[1.0, 0], [2, 0.1], [0, 1], [0.1, 3], [5, 5]])
    last = torch.tensor([[1.0, 0.2], [0.1, 1], [0, 2], [0, 1], [1, 0]])
    tally = Tally()
    count_nearest_means(tally, torch.cat([first, last]), torch.tensor([4, 4, 7, 7, -1]), 2)
    assert tally.read() == {"train/accuracy": 3 / 4}
    count_nearest_means(tally, torch.cat([first, last]), torch.full((5,), -1), 2)
    assert tally.read() == {}
