"""Settings that no classifier of posts can be built with are refused before any library is loaded."""

import pytest

from core.errors import UserError
from core.models.post_head_names import HEADS, MODALITIES, check


def test_every_head_takes_both_sides_and_all_but_the_gate_take_one():
    for head in HEADS:
        for modalities in MODALITIES if head != "gated" else ("both",):
            check(head, modalities, 0.0)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (("bse", "both", 0.1), "head_variant=bse is unknown; give one of base, ln, mlp, gated; did you mean 'base'"),
        (("base", "text", 0.1), "modalities=text is unknown"),
        (("gated", "text_only", 0.1), "needs both; modalities=text_only has one"),
        (("base", "both", 1.0), "dropout=1.0 must be at least 0 and below 1"),
    ],
)
def test_others_are_refused(given, line):
    with pytest.raises(UserError, match=line):
        check(*given)
