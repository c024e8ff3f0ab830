"""How sharp the teacher of a self-distillation is over the epochs."""

from __future__ import annotations

SOFT = 0.07
WARM_UP = 0.15


def teacher_temperature(epoch: int, total_epochs: int, sharp: float = 0.04, soft: float = SOFT, warm_up: float = WARM_UP) -> float:
    """Return the teacher's temperature in a global epoch: from `soft` linearly to `sharp` over a warm-up, `sharp` from there on.

    SimGCD's schedule (Wen et al. 2023, arXiv:2211.11727, section 4.1: 0.07 to 0.04 in the first 30 of 200 epochs), for any number of
    epochs. A `sharp` above `soft` is held throughout.

    Args:
        epoch: from 0. total_epochs: global number of epochs.
        sharp, soft: the last and the first temperature.
        warm_up: share of the epochs that the way takes.
    """
    length = round(warm_up * total_epochs)
    if epoch >= length or sharp >= soft:
        return sharp
    return soft + (sharp - soft) * epoch / max(length - 1, 1) if length > 1 else soft
