"""The accuracy on the training batches, counted from the outputs that the loss is computed from: no further forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

NAME = "train/accuracy"


class Tally:
    """Counts right answers over an epoch. It sees images as they are trained on: augmented, mixed, with dropout."""

    def __init__(self) -> None:
        self._right: Tensor | None = None
        self._seen = 0

    @torch.no_grad()
    def add(self, predicted: Tensor, labels: Tensor) -> None:
        """Count the predicted classes (B,) that are the labels (B,)."""
        right = (predicted == labels).sum()
        self._right = right if self._right is None else self._right + right
        self._seen += len(labels)

    def read(self) -> dict[str, float]:
        """Return {'train/accuracy': share of right answers} and start anew; {} where nothing was counted."""
        found = {NAME: float(self._right) / self._seen} if self._right is not None and self._seen else {}
        self._right, self._seen = None, 0
        return found
