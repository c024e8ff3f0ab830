"""Names in an error's line, the user's folder, and files that appear whole or not at all."""

from __future__ import annotations

import pytest

from core.errors import UserError
from core.stages.posts import results


def test_the_first_five_are_named_and_the_rest_counted():
    assert results.named(["a", "b"]) == "a, b"
    assert results.named([str(i) for i in range(7)]) == "0, 1, 2, 3, 4 and 2 more"


def test_the_users_folder_is_made_before_anything_else(tmp_path):
    assert results.require_folder("") is None
    assert results.require_folder(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b" and (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        results.require_folder(str(tmp_path / "file"))


def test_a_tree_is_copied_without_a_trace_of_the_way(tmp_path):
    (tmp_path / "from" / "deep").mkdir(parents=True)
    (tmp_path / "from" / "deep" / "x.csv").write_text("1")
    results.copy_tree(tmp_path / "from", tmp_path / "to")
    assert [path.relative_to(tmp_path / "to").as_posix() for path in (tmp_path / "to").rglob("*") if path.is_file()] == ["deep/x.csv"]
