"""Errors of users: the nearest name, and a full disk told in one line whoever met it first."""

from __future__ import annotations

import errno
import sqlite3

import pytest

from core.errors import Gone, UserError, full_disk_named, misspelt, nearest, shown


def test_the_nearest_name_is_offered_and_a_far_one_is_not():
    assert nearest("learning_rat", ["learning_rate", "momentum"]) == "; did you mean 'learning_rate'?"
    assert nearest("zzz", ["learning_rate", "momentum"]) == ""


@pytest.mark.parametrize(
    ("name", "meant"), [("Labelled", "labelled"), ("labled", "labelled"), ("label", "labelled"), ("Tests", "test"), ("rest", ""), ("a", "")]
)
def test_a_name_in_another_spelling_is_what_it_stands_for(name, meant):
    assert misspelt(name, ["labelled", "test"]) == meant


def test_a_value_is_shown_in_one_line():
    assert shown("tr\nain\t\u200b\udcff ü 树") == r"tr\nain\t\u200b\udcff ü 树"
    assert shown("x" * 200) == "x" * 200 and shown("x" * 201) == "x" * 197 + "..." and shown("xxxxx", 4) == "x..."


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "no room"), OSError(errno.EDQUOT, "quota"), sqlite3.OperationalError("database or disk is full")],
)
def test_a_full_disk_is_named(error):
    line = r"^a disk is full: .*free some space there and run the same command again to continue$"
    with pytest.raises(UserError, match=line), full_disk_named():
        raise error


def test_other_errors_and_lines_for_users_pass_as_they_are():
    for error in (ValueError("seven"), UserError("No space left on device, said somebody")):
        with pytest.raises(type(error)) as caught, full_disk_named():
            raise error
        assert caught.value is error


def test_whatever_a_name_holds_the_error_is_one_line():
    for name, line in (
        ("a\nb", r"a\nb"),
        ("a\rb\x1b[31m", r"a\rb\x1b[31m"),
        ("\u2028", r"\u2028"),
        ("b\udcff", r"b\udcff"),
        ("Ü 樹 👩‍🌾", "Ü 樹 👩‍🌾"),
    ):
        for error in (UserError(f"class '{name}' is empty"), Gone(f"class '{name}' is empty")):
            assert str(error) == f"class '{line}' is empty" and len(str(error).splitlines()) == 1


def test_what_is_gone_says_whether_it_can_be_brought_back():
    assert Gone("run 1 was deleted").restorable and not Gone("run 1 was purged", restorable=False).restorable
