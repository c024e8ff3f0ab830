"""What a person decides about an answer becomes a table that reads back with those labels; what is wrong is one line."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from core import config, digest
from core.data import digits, image_table
from core.errors import UserError
from core.evaluation import answer_files
from core.evaluation.answer_files import FORMAT
from core.stages.discovery import pipeline, relabel
from core.stages.discovery.config import DataOptions, PipelineConfig, RelabelConfig
from core.tracking import run as tracking
from core.tracking.uri import local_artifacts
from tests.core.stages.test_registered_figures import InProcess
from tests.core.stages.tiny import refused
from tests.memory_run import MemoryRun

# id below the heap: (label, cluster, half, position, group of near-duplicates); clusters: 0 = bar, 1 = cross, 2 and 3 are novel
IMAGES = {
    "labelled/bar/a.png": ("bar", 0, 0, "core", ""),
    "labelled/bar/b.png": ("bar", 2, 0, "core", "7"),
    "labelled/cross/c.png": ("cross", 1, 0, "outlier", ""),
    "unlabelled/day/d.png": ("", 0, 0, "border", ""),
    "unlabelled/day/e.png": ("", 2, 0, "core", "7"),
    "unlabelled/f.png": ("", 2, 1, "border", ""),
    "unlabelled/g.png": ("", 2, 0, "outlier", "3"),
    "unlabelled/h.png": ("", 3, 0, "core", "3"),
    "unlabelled/i.png": ("", 3, 1, "core", ""),
}


def write_image(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Return a folder with a heap, the answer of a run on it, and clusters.json as a person gets it."""
    root, answer = tmp_path / "heap", tmp_path / "answer"
    answer.mkdir()
    for i, name in enumerate([*IMAGES, "test/bar/t.png", "test/other/u.png"]):
        write_image(root / name, i)
    rows = [
        {"id": name, "cluster": cluster, "half": half, "position": position, "duplicate_group": group, "label": label}
        for name, (label, cluster, half, position, group) in IMAGES.items()
    ]
    (answer / "assignments.csv").write_bytes(answer_files.table(answer_files.ASSIGNMENTS, rows))
    contents = [{"id": name, "sha256": digest.of_bytes((root / name).read_bytes())} for name in IMAGES]
    (answer / "contents.csv").write_bytes(answer_files.table(("id", "sha256"), contents))
    names = ("bar", "cross", "novel 1", "novel 2")
    clusters = [{"cluster": i, "name": name, "known": i < 2, "merge": None, "split": False, "drop": False} for i, name in enumerate(names)]
    (answer / "clusters.json").write_text(json.dumps({"format": FORMAT, "run": "r1", "digest": "d1", "clusters": clusters}))
    shutil.copy(answer / "clusters.json", tmp_path / "clusters.json")
    params = {"resolved.dataset": "folder", "resolved.data_root": str(root), "resolved.images": "", "resolved.follow_links": "False"}
    monkeypatch.setattr(relabel, "params_of", lambda run_id, *_: params)

    def stored(uri, what):
        path = tmp_path / "answer" / uri.removeprefix("runs:/r1/")
        if not path.is_file():
            raise UserError(f"{uri} is not there")
        return path

    monkeypatch.setattr(relabel, "resolve", stored)
    return tmp_path


def decide(place: Path, **changed) -> str:
    """Let a person change entries c0 to c3; return the file."""
    path = place / "clusters.json"
    value = json.loads(path.read_text())
    for name, change in changed.items():
        value["clusters"][int(name[1:])] |= change
    path.write_text(json.dumps(value))
    return str(path)


def table(path: Path) -> list[dict[str, str]]:
    assert path.read_bytes().startswith(b"\xef\xbb\xbfpath,label,group,split\r\n")
    return answer_files.rows_of(path)


def labelled(place: Path, rows: list[dict[str, str]]) -> dict[str, str]:
    return {Path(row["path"]).stem: row["label"] for row in rows}


def relabelled(place: Path, take="all", **changed) -> list[dict[str, str]]:
    run = MemoryRun(place / "run")
    relabel.run(RelabelConfig(clusters=decide(place, **changed), take=take), run)
    return table(run.place / "relabelled" / "images.csv")


def test_named_categories_are_labelled_and_nothing_else_but_what_people_labelled(place, capsys):
    rows = relabelled(place, c2={"name": "ring"})
    assert labelled(place, rows) == dict(a="bar", b="bar", c="cross", d="bar", e="ring", f="ring", g="", h="", i="", t="bar", u="other")
    assert all(Path(row["path"]).is_absolute() and Path(row["path"]).is_file() for row in rows)
    assert [row["split"] for row in rows] == ["train"] * 9 + ["test"] * 2
    groups = {Path(row["path"]).stem: row["group"] for row in rows if row["group"]}
    assert groups["b"] == groups["e"] != groups["g"] == groups["h"] and len(groups) == 4
    said = capsys.readouterr().out
    assert "6 images labelled, 3 unlabelled, 2 for testing" in said and "mlflow run . -e pseudo_pipeline -P images=" in said


@pytest.mark.parametrize(
    ("take", "changed", "expected"),
    [
        ("core", {"c2": {"name": "ring"}}, dict(e="ring", f="", d="", b="bar", c="cross")),
        ("all", {"c2": {"split": True, "names": ["x", "y"]}}, dict(e="x", f="y", g="", b="bar")),
        ("all", {"c2": {"name": "ring"}, "c3": {"merge": 2}}, dict(e="ring", h="ring", i="ring", g="")),
        ("all", {"c2": {"drop": True}, "c3": {"name": "cross"}}, dict(e="", f="", h="cross", b="bar")),
        ("all", {"c0": {"name": "rod"}}, dict(a="rod", b="rod", d="rod", t="rod", c="cross")),
        ("all", {"c0": {"drop": True}}, dict(a="bar", b="bar", d="")),
    ],
)
def test_what_is_taken_and_decided(place, take, changed, expected):
    found = labelled(place, relabelled(place, take, **changed))
    assert {stem: found[stem] for stem in expected} == expected


def test_the_table_reads_back_as_it_was_meant(place):
    run, output = MemoryRun(place / "run"), place / "new" / "round 2"
    summary = relabel.run(RelabelConfig(clusters=decide(place, c2={"name": '=ring, "big"'}), output=str(output)), run)
    data = image_table.load(str(output / "images.csv"), "")
    known = {data.class_names[c] for c in data.known_classes}
    assert known == {"bar", "cross", '=ring, "big"'} and int(data.given.sum()) == 6 and len(data.test) == 2
    assert summary["classes"] == {'=ring, "big"': 2, "bar": 3, "cross": 1} and summary["unlabelled"] == 3
    assert json.loads((run.place / "relabelled" / "summary.json").read_text())["run"] == "r1"
    assert sorted(path.name for path in output.iterdir()) == ["images.csv"] and [one.name for one in (place / "new").iterdir()] == [
        "round 2"
    ]


def test_a_class_in_another_spelling_stays_one_class(place):
    """Its folder and an older answer hold blanks that the name which a person sees does not."""
    (place / "heap/labelled/bar").rename(place / "heap/labelled/red  bar")
    for file in ("answer/assignments.csv", "answer/contents.csv", "answer/clusters.json", "clusters.json"):
        text = (place / file).read_text().replace("labelled/bar/", "labelled/red  bar/")
        (place / file).write_text(text.replace(",bar", ",red  bar").replace('"bar"', '"red  bar"'))
    found = labelled(place, relabelled(place, c2={"name": "red bar"}))
    assert [found[stem] for stem in "abde"] == ["red bar"] * 4 and "red  bar" in (place / "answer/assignments.csv").read_text()


def test_no_group_is_held_out_in_part(place, capsys):
    """What people hold out stays so with its copies, but for what looks like an image that trains."""
    data = relabel._data("r1", config.of_params(DataOptions, relabel.params_of("r1"), "pseudo_pipeline"))
    held = np.isin(np.arange(len(data.train)), [0, 1, 2])
    found = relabel.answer_of("r1")
    found.contents["unlabelled/i.png"] = found.contents["labelled/bar/a.png"]
    decided = relabel.decisions.decide(found.clusters, found.clusters, "c", {"bar", "cross"})
    made = relabel.rows(dataclasses.replace(data, held_out=held), found, decided, "all")
    assert {Path(row["path"]).stem: row["split"] for row in made if row["split"] == "val"} == dict(a="val", c="val", i="val")
    said = "1 held-out images (split = val) look like training images, such as labelled/bar/b.png: all train now"
    assert said in capsys.readouterr().err


def test_images_of_one_content_have_one_label(place):
    shutil.copy(place / "heap/labelled/bar/a.png", place / "heap/unlabelled/i.png")  # a copy that was clustered elsewhere
    rows = answer_files.rows_of(place / "answer/contents.csv")
    for row in rows:
        row["sha256"] = digest.of_bytes((place / "heap" / row["id"]).read_bytes())
    (place / "answer/contents.csv").write_bytes(answer_files.table(("id", "sha256"), rows))
    assert labelled(place, relabelled(place, c3={"name": "ring"}))["i"] == "bar"


def changed_heap(place: Path, how: str) -> None:
    heap = place / "heap"
    if how == "missing":
        (heap / "unlabelled/f.png").unlink()
    elif how == "changed":
        write_image(heap / "unlabelled/f.png", 99)
    elif how == "damaged":
        (heap / "unlabelled/f.png").write_bytes(b"no image")
    elif how == "new":
        write_image(heap / "unlabelled/new.png", 99)
    elif how == "moved":
        (heap / "labelled/bar/b.png").rename(heap / "labelled/cross/b.png")
    else:
        shutil.rmtree(heap)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "missing: unlabelled/f.png): put them back"),
        ("changed", "changed: unlabelled/f.png): put them back"),
        ("damaged", "missing: unlabelled/f.png): put them back"),
        ("new", "new: unlabelled/new.png): put them back"),
        ("moved", "missing: labelled/bar/b.png; new: labelled/cross/b.png"),
        ("gone", "the images of run r1 cannot be read again: "),
    ],
)
def test_a_heap_that_has_changed_is_refused_and_nothing_written(place, how, says):
    changed_heap(place, how)
    run, output = MemoryRun(place / "run"), place / "output"
    assert says in refused(lambda: relabel.run(RelabelConfig(clusters=decide(place, c2={"name": "ring"}), output=str(output)), run))
    assert not output.exists() and not run.place.exists()


def of_a_table(place: Path, monkeypatch, **more: str) -> Path:
    """Let the run be one of a table: 0 and 1 are bars, 2 and 3 nobody knows, 4 is for testing; return the table."""
    root, answer = place / "heap", place / "answer"
    for i in range(6):
        write_image(root / f"{i}.png", i)
    table = root / "t.csv"
    table.write_text("path,label,split\n0.png,bar,\n1.png,bar,\n2.png,,\n3.png,,\n4.png,bar,test\n")
    said = {"0.png": "bar", "1.png": "bar", "2.png": "", "3.png": ""}
    rows = [{"id": name, "cluster": 0, "half": 0, "position": "core", "label": label} for name, label in said.items()]
    (answer / "assignments.csv").write_bytes(answer_files.table(answer_files.ASSIGNMENTS, rows))
    contents = [{"id": f"{i}.png", "sha256": digest.of_bytes((root / f"{i}.png").read_bytes())} for i in range(5)]
    stored = [one | {"part": "test" if one["id"] == "4.png" else "train"} for one in contents]
    (answer / "contents.csv").write_bytes(answer_files.table(answer_files.CONTENTS, stored))
    (answer / "older.csv").write_bytes(answer_files.table(("id", "sha256"), contents[:4]))
    params = {"resolved.dataset": "folder", "resolved.images": str(table), "resolved.follow_links": "False"} | more
    monkeypatch.setattr(relabel, "params_of", lambda run_id, *_: params)
    return table


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("1.png,bar", "1.png,", "(labelled otherwise: 1.png)"),
        ("1.png,bar", "1.png,cross", "(labelled otherwise: 1.png)"),
        ("2.png,", "2.png,fir", "(labelled otherwise: 2.png)"),
        ("4.png,bar,test", "5.png,bar,test", "(missing for testing: 4.png; new for testing: 5.png)"),
        ("4.png,bar,test\n", "", "(missing for testing: 4.png)"),
        ("1.png,bar,\n", "1.png,bar,test\n", "(missing: 1.png; new for testing: 1.png)"),
    ],
)
def test_a_table_that_was_edited_is_refused(place, monkeypatch, old, new, says):
    table = of_a_table(place, monkeypatch)
    assert labelled(place, relabelled(place)) == {"0": "bar", "1": "bar", "2": "bar", "3": "bar", "4": "bar"}
    table.write_text(table.read_text().replace(old, new))
    assert refused(lambda: relabelled(place)) == (
        f"the images are no longer those of run r1 {says}: put them back, or run pseudo_pipeline again"
    )


def test_an_image_for_testing_that_has_another_content_is_refused(place, monkeypatch):
    of_a_table(place, monkeypatch)
    write_image(place / "heap/4.png", 44)
    assert "run r1 (changed for testing: 4.png): put" in refused(lambda: relabelled(place))


def test_an_older_run_that_has_stored_no_test_images_is_still_relabelled(place, monkeypatch):
    table = of_a_table(place, monkeypatch)
    (place / "answer/older.csv").replace(place / "answer/contents.csv")
    table.write_text(table.read_text().replace("4.png,bar,test", "5.png,bar,test"))
    assert labelled(place, relabelled(place))["5"] == "bar"


@pytest.mark.parametrize("drawn", [{"resolved.labels_per_class": "1"}, {"resolved.prop_train_labels": "0.5"}])
def test_a_run_that_drew_some_of_the_labels_knows_nothing_of_the_others(place, monkeypatch, drawn):
    table = of_a_table(place, monkeypatch, **drawn)
    rows = answer_files.rows_of(place / "answer/assignments.csv")
    rows[1]["label"] = ""
    (place / "answer/assignments.csv").write_bytes(answer_files.table(answer_files.ASSIGNMENTS, rows))
    assert labelled(place, relabelled(place))["1"] == "bar"
    table.write_text(table.read_text().replace("0.png,bar", "0.png,"))
    assert "(labelled otherwise: 0.png)" in refused(lambda: relabelled(place))


def test_of_many_changes_a_few_are_named(place):
    for i in range(5):
        write_image(place / "heap/unlabelled" / f"n{i}.png", 50 + i)
    assert "n0.png, unlabelled/n1.png, unlabelled/n2.png and 2 more)" in refused(lambda: relabelled(place))


def test_a_run_without_an_answer_and_places_that_are_wrong_are_refused(place):
    run = MemoryRun(place / "run")
    assert "clusters is empty" in refused(lambda: relabel.run(RelabelConfig(), run))
    clusters = decide(place)
    assert "is there already" in refused(lambda: relabel.run(RelabelConfig(clusters=clusters, output=str(place / "heap")), run))
    assert "does not exist" in refused(lambda: relabel.run(RelabelConfig(clusters=str(place / "none.json")), run))
    (place / "answer" / "contents.csv").unlink()
    assert "run r1 has no answer" in refused(lambda: relabel.run(RelabelConfig(clusters=clusters), run))
    assert not run.place.exists()


def test_the_run_that_is_named_goes_before_the_one_in_the_file(place):
    path = Path(decide(place, c2={"name": "ring"}))
    path.write_text(path.read_text().replace('"run": "r1"', '"run": "gone"'))
    summary = relabel.run(RelabelConfig(clusters=str(path), run="runs:/r1/"), MemoryRun(place / "run"))
    assert summary["run"] == "r1" and summary["classes"]["ring"] == 2


def test_decisions_of_another_answer_or_about_one_name_twice_write_nothing(place):
    run, path = MemoryRun(place / "run"), Path(decide(place, c2={"name": "ring"}, c3={"name": "ring"}))
    assert "uses the name 'ring' twice" in refused(lambda: relabel.run(RelabelConfig(clusters=str(path)), run))
    path.write_text(path.read_text().replace('"digest": "d1"', '"digest": "d2"'))
    assert "belongs to another answer than that of run r1" in refused(lambda: relabel.run(RelabelConfig(clusters=str(path)), run))
    assert not run.place.exists()


def test_a_run_of_something_else_and_a_folder_that_cannot_be_made_are_refused(place, monkeypatch):
    clusters = decide(place, c2={"name": "ring"})
    (place / "file").touch()
    asked = RelabelConfig(clusters=clusters, output=str(place / "file" / "out"))
    assert "cannot be made" in refused(lambda: relabel.run(asked, MemoryRun(place / "run")))

    def other(run_id: str, entry_point: str, user: str) -> dict[str, str]:
        raise UserError(f"run '{run_id}' is one of main, and {user} takes a {entry_point} run; give the id of one")

    monkeypatch.setattr(relabel, "params_of", other)
    line = refused(lambda: relabel.run(RelabelConfig(clusters=clusters), MemoryRun(place / "run")))
    assert line == "run 'r1' is one of main, and relabel takes a pseudo_pipeline run; give the id of one"


def test_an_output_that_fails_leaves_nothing(place, monkeypatch):
    monkeypatch.setattr(relabel, "_csv", lambda table: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        relabel.run(RelabelConfig(clusters=decide(place), output=str(place / "new" / "out")), MemoryRun(place / "run"))
    assert list((place / "new").iterdir()) == []


def test_an_output_that_cannot_be_made_is_refused_before_anything_is_stored(place):
    (place / "link").symlink_to(place / "nowhere")
    run = MemoryRun(place / "run")
    for output in (str(place / "link"), "/proc/out", "o" * 300, "~nosuchuser/x"):
        line = refused(lambda output=output: relabel.run(RelabelConfig(clusters=decide(place), output=output), run))
        assert line.startswith("output = '")
    assert not run.place.exists() and (place / "link").is_symlink()


@pytest.mark.parametrize(
    ("near", "given", "expected"),
    [
        (["", "", ""], None, ["", "", ""]),
        (["0", "", "0"], None, ["group 1", "", "group 1"]),
        (["0", "1", "0", "1", ""], [5, 5, 6, 7, 8], ["group 1"] * 4 + [""]),
        (["", "", ""], [2, 2, 9], ["group 1", "group 1", ""]),
        ([], None, []),
    ],
)
def test_near_duplicates_and_the_user_s_groups_are_joined(near, given, expected):
    assert relabel.grouped(near, None if given is None else np.array(given)) == expected


def test_the_next_command_keeps_the_network():
    params = {"resolved.model_name": "small_cnn", "resolved.image_size": "8", "resolved.weights": "/a b/w"}
    said = relabel.next_command("/x/images.csv", params)
    assert said.endswith("-P images=/x/images.csv -P model_name=small_cnn -P image_size=8 -P 'weights=/a b/w'")
    plain = {"resolved.model_name": "vit_base_patch16_224.dino", "resolved.image_size": "224"}
    assert relabel.next_command("i.csv", plain) == "mlflow run . -e pseudo_pipeline -P images=i.csv"


@pytest.mark.slow
def test_naming_the_digits_categories_and_reading_them_back(client, tracking_env, monkeypatch, capsys):
    """Each category is named by what most of its images are; the labels of the table are as right as the clustering."""
    monkeypatch.setattr(pipeline, "StageServer", InProcess)
    monkeypatch.setattr("core.plots.category_page.write", lambda *_: None)
    grid = {"k_min": 3, "k_max": 3, "density_min": 50, "density_max": 50, "max_workers": 1, "n_classes": 10, "threads": 1}
    options = {"stage1_epochs": 1, "update_interval": 1, "total_epochs": 2, "compare_without": False, "gpu": "cpu", "register": False}
    with tracking.open_run("pseudo_pipeline", "digits") as run:
        pipeline.run(PipelineConfig(**grid, **options), run)
    artifacts = local_artifacts(MlflowClient().get_run(run.run_id).info.artifact_uri)
    data = digits.load()
    truth = dict(zip(data.train.ids, (data.class_names[label] for label in data.train.labels), strict=True))
    rows = answer_files.rows_of(artifacts / "assignments.csv")
    value, majority = json.loads((artifacts / "clusters.json").read_text()), {}
    for entry in value["clusters"]:
        members = [truth[row["id"]] for row in rows if int(row["cluster"]) == entry["cluster"]]
        majority[entry["cluster"]] = Counter(members).most_common(1)[0][0]
        first = next((c for c, name in majority.items() if name == majority[entry["cluster"]] and c != entry["cluster"]), None)
        entry |= {"merge": first} if first is not None else {"name": majority[entry["cluster"]]}
    (tracking_env / "clusters.json").write_text(json.dumps(value))
    with tracking.open_run("relabel", "names") as named:
        relabel.run(RelabelConfig(clusters="clusters.json", output="round2"), named)
    read = image_table.load("round2/images.csv", "")
    made = {Path(one).stem: c for one, c in zip(read.train.ids, read.train.labels, strict=True)}
    said = {row["id"]: read.class_names[made[row["id"].split("/")[1]]] for row in rows if made[row["id"].split("/")[1]] >= 0}
    named_rows = [row for row in rows if not row["label"] and row["id"] in said]
    right = np.mean([said[row["id"]] == truth[row["id"]] for row in named_rows])
    assert right == np.mean([majority[int(row["cluster"])] == truth[row["id"]] for row in named_rows]) and right > 0.5
    assert all(said[row["id"]] == row["label"] for row in rows if row["label"])
    assert len(read.test) == 450 and all(row["id"] in said for row in rows if row["position"] != "outlier")
    pixels = data.train.source.load(np.arange(3))
    assert np.array_equal(np.stack(read.train.source.load(np.arange(3))), pixels)
    assert f"-P images={tracking_env}/round2/images.csv -P model_name=small_cnn -P image_size=8" in capsys.readouterr().out
    (first, *_) = client.list_artifacts(named.run_id, "relabelled")
    assert first.path == "relabelled/images.csv"
