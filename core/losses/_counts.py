"""What the losses that know the class frequencies share: the counts, checked."""

from __future__ import annotations

import torch
from torch import Tensor


def positive(class_counts: Tensor, n_classes: int | None = None) -> Tensor:
    """Return the counts (C,) in float64 on the CPU (other devices may lack float64).

    Raises:
        ValueError: not one count a class (of `n_classes`, where given), or a class without samples, whose prior would be 0.
    """
    counts = class_counts.detach().cpu().double()
    if counts.ndim != 1 or (n_classes is not None and counts.shape[0] != n_classes):
        wanted = "(C,)" if n_classes is None else f"({n_classes},)"
        raise ValueError(f"class_counts must have shape {wanted}, got {tuple(counts.shape)}")
    empty = torch.nonzero(~(counts > 0)).flatten().tolist()
    if empty:
        raise ValueError(f"class_counts must be above 0, got {counts[empty[0]].item():g} for class {empty[0]}")
    return counts
