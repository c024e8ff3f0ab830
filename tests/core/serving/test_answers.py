"""Rows are answered in batches, a bad one for itself; more than the best class comes on request."""

from __future__ import annotations

import numpy as np
import pytest

from core.errors import UserError
from core.serving import answers

NAMES = ("a", "b", "c")


def read(row):
    if row is None:
        raise UserError("no image")
    return row


def ask(rows, params=None, batches=None):
    def shares(inputs):
        if batches is not None:
            batches.append(len(inputs))
        found = np.array([[0.2, 0.5, 0.3] if value else [0.6, 0.1, 0.3] for value in inputs])
        return found.argmax(axis=1), found

    return answers.answer(rows, read, shares, lambda c: {"class": NAMES[c]}, params)


def test_many_rows_are_few_forwards():
    batches = []
    assert len(ask([1] * 70, batches=batches)) == 70
    assert batches == [8] * 8 + [6]


def test_a_bad_row_answers_for_itself():
    found = ask([1] * 40 + [None] + [0])
    assert found[40] == {"class": None, "confidence": None, "error": "no image"}
    assert found[41] == {"class": "a", "confidence": 0.6, "error": None} and found[0]["class"] == "b"


def test_no_good_row_at_all_is_refused():
    with pytest.raises(UserError, match=r"^no image$"):
        ask([None])
    with pytest.raises(UserError, match="none of the 2 rows can be read; row 0: no image"):
        ask([None, None])
    assert ask([]) == []


@pytest.mark.parametrize(("top_k", "said"), [(1, "b"), (2, "bc"), (9, "bca")])
def test_the_most_probable_classes_come_on_request(top_k, said):
    (found,) = ask([1], {"top_k": top_k})
    assert "".join(c["class"] for c in found["top_k"]) == said
    assert [c["probability"] for c in found["top_k"]] == [0.5, 0.3, 0.2][: len(said)]
    assert "top_k" not in ask([1], {"top_k": 0})[0]


@pytest.mark.parametrize("top_k", [-1, "3", 1.5, None, True])
def test_a_number_of_classes_that_is_none_is_refused(top_k):
    with pytest.raises(UserError, match="top_k = "):
        ask([1], {"top_k": top_k})
