"""Centres of novel categories come first, then borders in turns; nothing is asked twice."""

import dataclasses

import numpy as np

from core.evaluation.answer import POSITIONS
from core.evaluation.suggest import suggest
from tests.core.evaluation.answers import made


def answer(**more):
    return made((60, 50, 40, 30), n_clusters=4, **more).answer


def test_the_centres_of_novel_categories_come_first_the_largest_before():
    found = answer()
    rows = suggest(found, 6)
    novel = sorted((c for c in found.categories if not c.known), key=lambda c: -c.size)
    assert [row["id"] for row in rows[:2]] == [found.ids[c.exemplars[0]] for c in novel]
    assert rows[0]["reason"] == "centre of novel 1 (40 images): its label names them all"
    assert [row["name"] for row in rows[2:]] == ["novel 1", "novel 2", "oak", "pine"]
    assert rows[2]["reason"].startswith("border of novel 1, whose nearest category is ")
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_only_unlabelled_images_that_are_no_outliers_are_asked_and_none_twice():
    found = answer()
    rows = suggest(found, 1000)
    at = [found.ids.index(row["id"]) for row in rows]
    free = (np.array(found.parts) == "unlabelled") & (found.positions != POSITIONS.index("outlier"))
    assert sorted(at) == np.flatnonzero(free).tolist()
    assert suggest(found, 0) == [] and len(suggest(found, 3)) == 3


def test_of_near_duplicates_one_is_asked_and_none_where_one_is_labelled():
    parts = np.array(answer().parts)
    unlabelled = np.flatnonzero(parts == "unlabelled")
    groups = np.full(len(parts), -1, np.int64)
    groups[unlabelled[:30]] = 0
    groups[unlabelled[30:40]] = groups[np.flatnonzero(parts == "labelled")[0]] = 1
    found = answer(change=lambda rows: dataclasses.replace(rows, duplicates=groups))
    asked = [groups[found.ids.index(row["id"])] for row in suggest(found, 1000)]
    assert asked.count(0) == 1 and asked.count(1) == 0
