"""Options outside their limits are named with their value and what would be right."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from core.errors import UserError
from core.stages import limits

NAN = float("nan")


@pytest.mark.parametrize(
    ("kind", "good", "bad", "remedy"),
    [
        ("positive", (1e-9, 3), (0, -1, NAN), "it must be larger than 0"),
        ("not_negative", (0, 3), (-1, -1e-9, NAN), "it must be 0 or more"),
        ("shares", (0, 0.5, 1), (-0.1, 1.1, NAN), "give a share between 0 and 1"),
    ],
)
def test_an_option_outside_its_limits_is_named(kind, good, bad, remedy):
    for value in good:
        limits.require(SimpleNamespace(lr=value), **{kind: ["lr"]})
    for value in bad:
        with pytest.raises(UserError, match=f"lr = {value}.*{remedy}"):
            limits.require(SimpleNamespace(lr=value), **{kind: ["lr"]})
