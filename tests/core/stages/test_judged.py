"""Served answers as class names, and All, Old and New of them."""

from __future__ import annotations

import pytest

from core.stages import judged
from core.stages.held_out import HeldOut

ITEMS = HeldOut(("cat", "cat", "dog", "dog"), ("1", "2", "3", "4"), lambda: iter(()), novel=("dog",))


def answers(*said):
    return [{"class": name, "known": known, "cluster": cluster} for name, known, cluster in said]


def test_a_nameless_cluster_gets_the_novel_classes_name():
    given = answers(("cat", True, 0), ("cluster 5", False, 5), ("cluster 5", False, 5), ("cluster 5", False, 5))
    named = judged.names(ITEMS, given)
    assert named == ("cat", "dog", "dog", "dog")
    found = judged.categories(ITEMS, given, named)
    assert {name: found[name] for name in ("all", "old", "new")} == {"all": 0.75, "old": 0.5, "new": 1.0}
    assert found["v2_all"] == pytest.approx(0.75)
