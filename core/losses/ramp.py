"""The weight of the pseudo-label loss over the epochs."""

from __future__ import annotations

MODES = ("intervals", "total")


def gamma(epoch: int, first_epoch: int | None, update_interval: int, total_epochs: int, mode: str = "intervals") -> float:
    """Return min(1, (e - e0 + 1) / r): 0 before the first pseudo labels, never 0 in a pseudo-labelled epoch.

    Args:
        epoch: e, the global epoch (from 0).
        first_epoch: e0, the first epoch trained with pseudo labels; None while there are none.
        update_interval: epochs between two refreshes of the pseudo labels.
        total_epochs: global number of epochs.
        mode: 'intervals' ramps over r = 2*update_interval epochs, 'total' over r = total_epochs - e0.

    Raises:
        ValueError: unknown `mode`.
    """
    if mode not in MODES:
        raise ValueError(f"gamma_ramp={mode} is unknown; give one of {', '.join(MODES)}")
    if first_epoch is None or epoch < first_epoch:
        return 0.0
    length = 2 * update_interval if mode == "intervals" else total_epochs - first_epoch
    return min(1.0, (epoch - first_epoch + 1) / max(length, 1))
