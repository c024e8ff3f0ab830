"""A folder that a user names is refused before any work, or is there as a whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.stages.discovery import new_folder
from tests.core.stages.tiny import refused


def test_a_place_where_nothing_is_or_an_empty_folder_may_be_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    assert new_folder.asked("") is None
    assert [new_folder.asked(one) for one in ("a/b", "empty")] == [tmp_path / "a/b", tmp_path / "empty"]
    assert sorted(os.listdir()) == ["a", "empty"] and not os.listdir("a")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("file", "is there already: give a new folder, or remove it"),
        ("full", "is there already: give a new folder, or remove it"),
        ("to_empty", "is a link: give a new folder, or the place where it leads"),
        ("to_nothing", "is a link: give a new folder, or the place where it leads"),
        ("file/below", "cannot be made (File exists): give a folder that can"),
        ("/proc/here", "cannot be made (No such file or directory): give a folder that can"),
        ("/proc", "is where a disk begins: give a new folder in it"),
        ("n" * 300, "cannot be a folder (File name too long): give another one"),
        ("a\0b", "cannot be a folder (embedded null byte): give another one"),
        ("~nosuchuser/x", "cannot be a folder (Could not determine home directory.): give another one"),
    ],
)
def test_what_cannot_be_made_is_one_line_and_changes_nothing(tmp_path, monkeypatch, given, says):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("full/in").mkdir(parents=True)
    Path("empty").mkdir()
    Path("to_empty").symlink_to("empty")
    Path("to_nothing").symlink_to("nothing")
    before = sorted(tmp_path.rglob("*"))
    line = refused(lambda: new_folder.asked(given, "place"))
    assert line.startswith("place = '") and line.endswith(says) and "\n" not in line and len(line) < 200
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_appears_whole_with_the_rights_of_any_new_one(tmp_path):
    (tmp_path / "out").mkdir()
    with new_folder.appearing(tmp_path / "out") as made:
        (made / "a").touch()
        assert not os.listdir(tmp_path / "out") and made.name.startswith(".out-")
    (tmp_path / "plain").mkdir()
    assert os.listdir(tmp_path / "out") == ["a"] and (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ["out", "plain"]


def test_what_somebody_else_made_meanwhile_stays(tmp_path):
    def fill() -> None:
        with new_folder.appearing(tmp_path / "🌳") as made:
            (made / "a").touch()
            (tmp_path / "🌳").mkdir()
            (tmp_path / "🌳" / "mine").touch()

    assert "was made by somebody else meanwhile (Directory not empty): give a new folder" in refused(fill)
    assert os.listdir(tmp_path) == ["🌳"] and os.listdir(tmp_path / "🌳") == ["mine"]
