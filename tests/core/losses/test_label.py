"""The rows of the label's losses: the names that people use, and formulas that exist."""

from __future__ import annotations

from typing import get_args

import pytest

from core.losses import label

OLDER = ("ce", "weighted_ce", "focal", "balanced_softmax", "logit_adjustment", "ldam_drw", "crt")


def test_every_name_of_the_option_has_a_row_and_none_is_lost():
    assert tuple(label.LOSSES) == get_args(label.LossType) and tuple(label.LOSSES)[: len(OLDER)] == OLDER


def test_what_answers_the_sizes_of_the_classes_is_told_from_what_does_not():
    assert {name for name in OLDER if not label.LOSSES[name].corrects} == {"ce", "focal"}
    assert {name: label.LOSSES[name].from_epoch for name in OLDER if label.LOSSES[name].from_epoch} == {
        "ldam_drw": "drw_epoch",
        "crt": "crt_epoch",
    }


@pytest.mark.parametrize(
    "reference", sorted({one for kind in label.LOSSES.values() for one in (kind.prior, kind.margins, kind.loss) if one})
)
def test_a_row_names_functions_of_this_room(reference):
    found = label.function(reference)
    assert found.__module__ == f"core.losses.{reference.split(':')[0]}" and found.__doc__
