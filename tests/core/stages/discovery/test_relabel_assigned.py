"""What `assign` has sorted and a person has named becomes a table, row by row; what is wrong is one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from core import digest
from core.data import image_table
from core.errors import UserError
from core.evaluation import answer_files
from core.evaluation.answer_files import FORMAT
from core.stages.discovery import relabel, relabel_assigned
from core.stages.discovery.config import RelabelConfig
from tests.core.stages.discovery.test_relabel import write_image
from tests.core.stages.tiny import refused
from tests.memory_run import MemoryRun

# name: (label it came with, part, cluster, position); clusters: 0 = bar, which is known, 1 and 2 are novel
IMAGES = {
    "a.png": ("", "new", 0, "core"),
    "b.png": ("", "new", 0, "outlier"),
    "c.png": ("", "new", 1, "core"),
    "d.png": ("", "new", 1, "border"),
    "e.png": ("", "new", 2, "core"),
    "f.png": ("dot", "labelled", 1, "core"),
    "g.png": ("", "unlabelled", 1, "core"),  # a copy of f
    "t.png": ("dot", "test", 1, "core"),
    "u.png": ("", "test", 1, "core"),
}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Return a folder with images in new/, the answer of an assign run on them, and clusters.json as a person gets it."""
    answer = tmp_path / "answer"
    answer.mkdir()
    for i, name in enumerate(IMAGES):
        write_image(tmp_path / "new" / name, i)
    shutil.copy(tmp_path / "new/f.png", tmp_path / "new/g.png")
    rows = [
        {"path": str(tmp_path / "new" / name), "id": name, "label": label, "part": part, "cluster": cluster, "position": position}
        for name, (label, part, cluster, position) in IMAGES.items()
    ]
    (answer / "assignments.csv").write_bytes(answer_files.table(answer_files.ASSIGNMENTS, rows))
    contents = [{"id": name, "sha256": digest.of_bytes((tmp_path / "new" / name).read_bytes())} for name in IMAGES]
    (answer / "contents.csv").write_bytes(answer_files.table(("id", "sha256"), contents))
    clusters = [{"cluster": i, "name": name, "known": i < 1} for i, name in enumerate(("bar", "novel 1", "novel 2"))]
    for file in (answer / "clusters.json", tmp_path / "clusters.json"):
        file.write_text(json.dumps({"format": FORMAT, "run": "r1", "digest": "d1", "clusters": clusters}))

    def params_of(run_id: str, entry_point: str, _user: str) -> dict[str, str]:
        if entry_point != "assign":
            raise UserError("run 'r1' is one of assign")
        return {"model": ""}

    def stored(uri: str, _what: str) -> Path:
        if not (path := answer / uri.removeprefix("runs:/r1/")).is_file():
            raise UserError(f"{uri} is not there")
        return path

    monkeypatch.setattr(relabel, "params_of", params_of)
    monkeypatch.setattr(relabel_assigned, "resolve", stored)
    return tmp_path


def relabelled(place: Path, changed: dict[int, dict[str, Any]], **options: Any) -> tuple[dict[str, Any], MemoryRun]:
    value = json.loads((place / "clusters.json").read_text())
    for cluster, change in changed.items():
        value["clusters"][cluster] |= change
    (place / "clusters.json").write_text(json.dumps(value))
    run = MemoryRun(place / "run")
    return relabel.run(RelabelConfig(clusters=str(place / "clusters.json"), **options), run), run


def labels(run: MemoryRun) -> dict[str, str]:
    return {Path(row["path"]).stem: row["label"] for row in answer_files.rows_of(run.place / "relabelled" / "images.csv")}


@pytest.mark.parametrize(
    ("changed", "take", "expected"),
    [
        ({1: {"name": "ring"}}, "all", dict(a="bar", b="", c="ring", d="ring", e="", f="dot", g="dot", t="dot", u="")),
        ({1: {"name": "ring"}}, "core", dict(a="bar", b="", c="ring", d="", e="", f="dot", g="dot", t="dot", u="")),
        ({1: {"name": "dot"}, 2: {"merge": 1}}, "all", dict(a="bar", b="", c="dot", d="dot", e="dot", f="dot", g="dot", t="dot", u="")),
        ({0: {"drop": True}}, "all", dict(a="", b="", c="", d="", e="", f="dot", g="dot", t="dot", u="")),
    ],
)
def test_named_categories_are_labelled(place, changed, take, expected):
    assert labels(relabelled(place, changed, take=take)[1]) == expected


def test_the_table_is_one_that_the_next_pipeline_reads(place, capsys):
    summary, run = relabelled(place, {1: {"name": "ring"}}, output=str(place / "round 2"))
    assert (summary["classes"], summary["unlabelled"], summary["test"]) == ({"bar": 1, "dot": 2, "ring": 2}, 2, 2)
    data = image_table.load(str(place / "round 2" / "images.csv"), "data")
    assert data.name == "folder/round 2" and data.class_names == ("bar", "dot", "ring") and int(data.given.sum()) == 5
    assert len(data.test) == 2 and (run.place / "relabelled" / "images.csv").read_bytes() == (place / "round 2/images.csv").read_bytes()
    said = capsys.readouterr().out
    assert "5 images labelled, 2 unlabelled, 2 for testing" in said and "-e pseudo_pipeline -P 'images=" in said


def test_images_that_have_changed_are_named_and_nothing_is_written(place):
    (place / "new/a.png").unlink()
    write_image(place / "new/c.png", 77)
    line = refused(lambda: relabelled(place, {}, output=str(place / "out")))
    assert line == "the images are no longer those of run r1 (missing: a.png; changed: c.png): put them back, or run assign again"
    assert not (place / "out").exists() and not (place / "run").exists()


def test_what_cannot_be_carried_out_is_one_line(place):
    line = refused(lambda: relabelled(place, {1: {"split": True, "names": ["x", "y"]}}))
    assert "splits cluster 1, but `assign` finds no halves" in line
    (place / "answer/contents.csv").write_bytes(answer_files.table(("id", "sha256"), [{"id": "z.png", "sha256": "0"}]))
    assert "do not belong together" in refused(lambda: relabelled(place, {1: {"split": False, "names": ["", ""]}}))
    (place / "answer/contents.csv").unlink()
    assert "run r1 has no answer" in refused(lambda: relabelled(place, {}))


def test_what_is_held_out_stays_so_with_its_copies_and_groups_are_kept(place):
    rows = answer_files.rows_of(place / "answer/assignments.csv")
    for row in rows:
        row |= {"part": "val" if row["id"] == "f.png" else row["part"], "group": "day 1" if row["id"] in ("a.png", "t.png") else ""}
    (place / "answer/assignments.csv").write_bytes(answer_files.table(answer_files.ASSIGNED, rows))
    _, run = relabelled(place, {})
    made = {Path(row["path"]).stem: (row["split"], row["group"]) for row in answer_files.rows_of(run.place / "relabelled" / "images.csv")}
    assert {stem for stem, (split, _) in made.items() if split == "val"} == {"f", "g"}
    assert {stem for stem, (split, _) in made.items() if split == "test"} == {"t", "u"}
    assert {stem: group for stem, (_, group) in made.items() if group} == {"a": "day 1", "t": "day 1"}


def test_no_group_is_held_out_in_part(place, capsys):
    """The copy of a held-out image is of a group that trains, and so is another held-out image by its own group."""
    rows = answer_files.rows_of(place / "answer/assignments.csv")
    said = {"f.png": ("val", "x"), "g.png": ("new", "day 1"), "a.png": ("new", "day 1"), "c.png": ("val", "x"), "e.png": ("val", "")}
    for row in rows:
        part, group = said.get(row["id"], (row["part"], ""))
        row |= {"part": part, "group": group, "label": "dot" if part == "val" else row["label"]}
    (place / "answer/assignments.csv").write_bytes(answer_files.table(answer_files.ASSIGNED, rows))
    _, run = relabelled(place, {})
    table = run.place / "relabelled" / "images.csv"
    assert [Path(row["path"]).stem for row in answer_files.rows_of(table) if row["split"] == "val"] == ["e"]
    assert "2 held-out images (split = val) or copies of them are in groups with training images" in capsys.readouterr().err
    assert int(image_table.load(str(table), "data").held_out.sum()) == 1
