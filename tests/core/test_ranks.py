"""Variables of another launch do not make a process wait for others, or work without a run."""

from __future__ import annotations

import os

import pytest

from core import ranks
from core.errors import UserError

WHOLE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def _none_set(monkeypatch):
    for name in (*ranks.NUMBERS, *ranks.ADDRESS):
        monkeypatch.setenv(name, "")  # so that whatever the test leaves is taken back
        monkeypatch.delenv(name)


def settled(monkeypatch, **given: str) -> dict[str, str]:
    """Return which of torchrun's variables are left."""
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    ranks.settle()
    return {name: os.environ[name] for name in (*ranks.NUMBERS, *ranks.ADDRESS) if name in os.environ}


@pytest.mark.parametrize("given", [{}, WHOLE, {"RANK": "0", "WORLD_SIZE": "1"}, {"LOCAL_RANK": "1"}])
def test_a_launch_is_left_as_it_is(monkeypatch, capsys, given):
    assert settled(monkeypatch, **given) == given
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "given",
    [
        {"RANK": "1"},
        {"WORLD_SIZE": "4"},
        {"RANK": "3", "WORLD_SIZE": "1"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "first", "WORLD_SIZE": "2"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "0"},
        {"LOCAL_RANK": "x"},
    ],
)
def test_what_is_left_over_is_said_and_removed(monkeypatch, capsys, given):
    assert settled(monkeypatch, **given) == {}
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "left over" in said and all(f"{name}={value}" in said for name, value in given.items())


@pytest.mark.parametrize("missing", ["MASTER_ADDR", "MASTER_PORT"])
def test_processes_that_cannot_find_each_other_are_refused(monkeypatch, missing):
    with pytest.raises(UserError, match=f"WORLD_SIZE = 2, but {missing} .*torchrun.*unset RANK and WORLD_SIZE"):
        settled(monkeypatch, **{name: value for name, value in WHOLE.items() if name != missing})
