"""New images sorted by a registered model: as it is served, in one pass, with a page."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from core.errors import UserError
from core.evaluation import answer_files
from core.serving.discovery import DiscoveryPredictor
from core.stages.discovery import assign
from core.stages.discovery.assign_config import AssignConfig
from core.tracking import versions
from core.tracking.patience import Client
from entrypoints import assign as entry_point
from entrypoints import relabel
from tests.core.conftest import client, store_template, tracking_env  # noqa: F401  (fixtures)
from tests.core.plots.test_category_page import data_of
from tests.core.stages import registered, tiny
from tests.core.stages.registered import NAME
from tests.memory_run import MemoryRun


@pytest.fixture(scope="module")
def place(tmp_path_factory, store_template):  # noqa: F811
    """Return a folder with a store that holds one version, and images in glyphs/."""
    folder = tmp_path_factory.mktemp("assign")
    tiny.make_images(folder / "glyphs")
    shutil.copy(store_template, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("TAXON_CACHE", str(folder / "cache"))
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        MlflowClient().create_experiment("taxon", artifact_location=f"file://{folder}/artifacts")
        assert registered.make(folder / "1", folder / "glyphs") == "1"
        yield folder


def assigned(place: Path, **options: Any) -> tuple[dict[str, Any], MemoryRun]:
    run = MemoryRun(place / "runs" / str(len(list((place / "runs").glob("*")))) if (place / "runs").is_dir() else place / "runs" / "0")
    run.place.mkdir(parents=True)
    given = {"model": f"models:/{NAME}/1", "data_root": str(place / "glyphs"), "gpu": "cpu", "threads": 1}
    return assign.run(AssignConfig(**given | options), run), run


def rows_of(run: MemoryRun, name: str = "assignments.csv") -> list[dict[str, str]]:
    return answer_files.rows_of(run.place / name)


@pytest.fixture(scope="module")
def whole(place) -> tuple[dict[str, Any], MemoryRun]:
    return assigned(place)


def test_the_answers_are_those_that_the_model_serves(place, whole):
    rows = rows_of(whole[1])
    assert len(rows) == 4 * (tiny.TRAIN + tiny.TEST) == whole[0]["images"]
    served = DiscoveryPredictor(place / "1" / "data").predict({"image": [row["path"] for row in rows]})
    for row, answer in zip(rows, served, strict=True):
        assert (row["name"], int(row["cluster"]), row["known"] == "true") == (answer["class"], answer["cluster"], answer["known"])
        assert abs(float(row["confidence"]) - answer["confidence"]) < 2e-6
    assert list(rows[0]) == [*answer_files.ASSIGNMENTS, "group"]
    assert {row["position"] for row in rows} <= {"core", "border", "outlier"} and {row["part"] for row in rows} == {"new"}


def test_neither_batches_nor_threads_change_a_row(place, whole):
    for options in ({"batch_size": 7, "num_workers": 0}, {"batch_size": 1, "num_workers": 3}):
        rows = rows_of(assigned(place, **options)[1])
        for row, other in zip(rows, rows_of(whole[1]), strict=True):
            numbers = ("confidence", "margin")
            assert {k: v for k, v in row.items() if k not in numbers} == {k: v for k, v in other.items() if k not in numbers}
            assert all(abs(float(row[k]) - float(other[k])) < 2e-6 for k in numbers)


def test_the_page_shows_a_sample_and_says_the_sizes_of_all(place):
    summary, run = assigned(place, shown=20)
    data = data_of((run.place / "report.html").read_text())
    assert data["total"] == 80 and 4 <= len(data["images"]["id"]) <= 24 and data["run"] == run.run_id
    head = {words: (value, meaning) for words, value, meaning in data["facts"]}
    assert head["images"] == ("80", f"{len(data['images']['id'])} of them are shown") and "near-duplicates" not in head
    assert {c["name"]: c["size"] for c in data["categories"]} == summary["categories"] and sum(summary["categories"].values()) == 80
    rows = {row["id"]: row for row in rows_of(run)}
    for name, cluster, share in zip(*(data["images"][key] for key in ("id", "cluster", "confidence")), strict=True):
        assert rows[name]["cluster"] == str(cluster) and abs(float(rows[name]["confidence"]) - share) < 1e-5
    kept = json.loads((run.place / "clusters.json").read_text())
    assert kept["digest"] == data["digest"] and [c["size"] for c in kept["clusters"]] == [c["size"] for c in data["categories"]]


def test_what_cannot_be_read_is_left_out_and_listed(place, tmp_path):
    shutil.copytree(place / "glyphs" / "test", tmp_path / "heap")
    (tmp_path / "heap" / "bar" / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "heap" / "empty.png").touch()
    Image.fromarray(np.full((40, 9, 3), 200, np.uint8)).convert("CMYK").save(tmp_path / "heap" / "odd.jpg")
    summary, run = assigned(place, data_root=str(tmp_path / "heap"), output=str(tmp_path / "out" / "here"))
    assert (summary["images"], summary["skipped"]) == (4 * tiny.TEST + 1, 2)
    assert {Path(row["path"]).name: row["reason"] for row in rows_of(run, "skipped.csv")}["empty.png"] == "empty file"
    assert (tmp_path / "out" / "here" / "assignments.csv").read_bytes() == (run.place / "assignments.csv").read_bytes()
    with pytest.raises(UserError, match="2 of 23 files"):
        assigned(place, data_root=str(tmp_path / "heap"), bad_images="refuse")


def test_one_image_and_none_that_can_be_read(place, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="none of the 1 images"):
        assigned(place, data_root=str(tmp_path / "a"))
    shutil.copy(next((place / "glyphs").rglob("*.png")), tmp_path / "a" / "y.png")
    assert assigned(place, data_root=str(tmp_path / "a"))[0]["images"] == 1


def test_a_table_is_assigned_in_its_order(place, tmp_path):
    chosen = sorted((place / "glyphs" / "train").rglob("*.png"))[::-7]
    (tmp_path / "t.csv").write_text("label;path\n" + "".join(f"x;{path}\n" for path in chosen), encoding="utf-8-sig")
    rows = rows_of(assigned(place, data_root="", images=str(tmp_path / "t.csv"))[1])
    assert [row["path"] for row in rows] == [str(path) for path in chosen] and {row["label"] for row in rows} == {"x"}


def test_images_far_from_their_centre_are_outliers(place, whole, monkeypatch):
    before = DiscoveryPredictor.__init__

    def with_radii(self, folder):
        before(self, folder)
        self.radii = np.array([0.0, np.inf, np.inf, np.inf])

    monkeypatch.setattr(DiscoveryPredictor, "__init__", with_radii)
    summary, run = assigned(place)
    for row in rows_of(run):
        assert (row["position"] == "outlier") == (row["cluster"] == "0")
    strange = {row["id"] for row in rows_of(run) if row["cluster"] == "0"}
    assert {row["id"] for row in rows_of(run, "outliers.csv")} == strange and strange
    assert summary["core_share"] < whole[0]["core_share"]


def test_a_model_is_found_by_name_number_alias_or_run(place):
    client = Client()  # noqa: F811
    (only,) = versions.all_versions(client, NAME)
    wanted = (f"models:/{NAME}/1", f"{NAME}/1", NAME, f"models:/{NAME}", f"models:/{NAME}@challenger", f"runs:/{only.run_id}", only.run_id)
    assert [versions.meant(client, one) for one in wanted] == [only] * len(wanted)
    said = {
        f"models:/{NAME}/7": "has no version 7",
        f"models:/{NAME}@champion": "no version of",
        "models:/taxon-discovery-glyph@champion": "did you mean",
        "f" * 32: "has no run",
        "": "model is empty",
    }
    for one, line in said.items():
        assert line in tiny.refused(lambda one=one: versions.meant(client, one))


def test_the_entry_point_assigns_and_keeps_the_files_on_its_run(place, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = [f"--model={NAME}", f"--data_root={place / 'glyphs' / 'test'}", "--gpu=cpu", f"--output={tmp_path / 'out'}"]
    assert entry_point.main(words) == 0
    assert "20 images: " in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"assignments.csv", "clusters.csv", "clusters.json", "contents.csv", "outliers.csv", "report.html", "skipped.csv"}
    (found,) = MlflowClient().search_runs(["1"], "tags.`taxon.entry_point` = 'assign'")
    assert found.data.metrics["assigned/images"] == 20 and found.data.tags["taxon.model"] == f"models:/{NAME}/1"
    assert entry_point.main(["--model=nothing", f"--data_root={place}"]) == 2
    assert entry_point.main([f"--model={NAME}"]) == 2 and "give data_root=" in capsys.readouterr().err


def test_names_for_what_was_assigned_are_labels_of_the_next_pipeline(place, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert entry_point.main([f"--model={NAME}", f"--data_root={place / 'glyphs' / 'test'}", "--gpu=cpu", "--output=out"]) == 0
    value = json.loads(Path("out/clusters.json").read_text())
    value["clusters"][-1]["name"] = "hoop"
    Path("mine.json").write_text(json.dumps(value))
    assert relabel.main(["--clusters=mine.json", "--output=named"]) == 0
    assigned_rows, rows = answer_files.rows_of("out/assignments.csv"), answer_files.rows_of("named/images.csv")
    names = {str(one["cluster"]): one["name"] for one in value["clusters"]}
    wanted = ["" if row["position"] == "outlier" else names[row["cluster"]] for row in assigned_rows]
    assert [row["label"] for row in rows] == wanted and "hoop" in wanted
    assert [row["path"] for row in rows] == [row["path"] for row in assigned_rows]
    assert relabel.main(["--clusters=mine.json", "--output=named"]) == 2 and "is there already" in capsys.readouterr().err


def test_what_a_table_tests_on_holds_out_and_groups_stays_so_when_it_is_relabelled(place, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for i, path in enumerate(sorted((place / "glyphs" / "test").rglob("*.png"))[:4]):
        shutil.copy(path, tmp_path / "in" / f"{i}.png")
    (tmp_path / "in/t.csv").write_text("path,label,split,group\n0.png,oak,test,g1\n1.png,oak,train,g2\n2.png,,,\n3.png,elm,val,g 3\n")
    assert entry_point.main([f"--model={NAME}", "--images=in/t.csv", "--gpu=cpu", "--output=out"]) == 0
    assert relabel.main(["--clusters=out/clusters.json", "--output=named"]) == 0
    rows = {Path(row["path"]).stem: row for row in answer_files.rows_of("named/images.csv")}
    assert {stem: row["split"] for stem, row in rows.items()} == {"0": "test", "1": "train", "2": "train", "3": "val"}
    assert {stem: row["group"] for stem, row in rows.items()} == {"0": "g1", "1": "g2", "2": "", "3": "g 3"}
    assert [rows[stem]["label"] for stem in "013"] == ["oak", "oak", "elm"]


def test_what_a_person_has_decided_is_never_written_over(place, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = [f"--model={NAME}", f"--data_root={place / 'glyphs' / 'test'}", "--gpu=cpu", "--output=out"]
    assert entry_point.main(words) == 0
    Path("out/clusters.json").write_text("hours of naming")
    before = {path: path.read_bytes() for path in Path("out").iterdir()}
    monkeypatch.setattr(assign, "opened", lambda *_: pytest.fail("work was begun"))
    capsys.readouterr()
    assert entry_point.main(words) == 2
    assert "output = 'out' is there already: give a new folder, or remove it" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == before


def test_an_output_appears_whole_or_not_at_all(place, monkeypatch, tmp_path):
    def stopped(source: Path, target: Path, **_: Any) -> None:
        shutil.copy(source / "clusters.json", target)
        raise KeyboardInterrupt

    monkeypatch.setattr(assign.shutil, "copytree", stopped)
    with pytest.raises(KeyboardInterrupt):
        assigned(place, data_root=str(place / "glyphs" / "test"), output=str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_links_that_lead_out_of_the_folder_are_followed_where_that_is_asked_for(place, tmp_path):
    (tmp_path / "in").mkdir()
    first, second = sorted((place / "glyphs" / "test").rglob("*.png"))[:2]
    shutil.copy(first, tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").symlink_to(second)
    assert "leads out of" in tiny.refused(lambda: assigned(place, data_root=str(tmp_path / "in")))
    assert assigned(place, data_root=str(tmp_path / "in"), follow_links=True)[0]["images"] == 2


def test_another_seed_shows_another_sample(place):
    shown = [data_of((assigned(place, shown=20, seed=seed)[1].place / "report.html").read_text())["images"]["id"] for seed in (1, 1, 2)]
    assert shown[0] == shown[1] != shown[2]


def test_the_machine_is_used_as_asked(place, monkeypatch):
    asked, ahead, settle = [], assign.ahead, assign.settle

    def followed(build, items, num_workers):
        batches = list(items)
        asked.append((num_workers, [len(batch) for batch in batches]))
        yield from map(build, batches)

    monkeypatch.setattr(assign, "ahead", followed)
    monkeypatch.setattr(assign, "settle", lambda *given: asked.append(given) or settle(*given))
    assigned(place, data_root=str(place / "glyphs" / "test"), batch_size=8, num_workers=3, threads=1)
    assert asked == [("cpu", 1), (3, [8, 8, 4])] and ahead


def test_what_is_asked_wrongly_is_said_before_anything_is_computed(place, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert "is there already: give a new folder" in tiny.refused(lambda: assigned(place, output=str(tmp_path / "file")))
    assert "model is empty" in tiny.refused(lambda: assigned(place, model=""))
    monkeypatch.setattr(assign.served, "check", lambda _data: "core.serving.classifier")
    assert "is no model of category discovery" in tiny.refused(lambda: assigned(place))


PEAK = """
import resource, sys
from pathlib import Path
from core.stages.discovery import assign
from core.stages.discovery.assign_config import AssignConfig
from tests.memory_run import MemoryRun
place = Path(sys.argv[2]); place.mkdir()
assign.run(AssignConfig(model=sys.argv[3], data_root=sys.argv[1], gpu="cpu", threads=1, shown=200), MemoryRun(place))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_four_times_as_many_images_need_no_more_memory(place, tmp_path):
    Image.fromarray(np.full((300, 300, 3), 90, np.uint8)).save(tmp_path / "one.bmp")
    peaks = []
    for n in (250, 1000):  # images of 0.27 MB: were they kept, the second run would need 200 MB more
        folder = tmp_path / f"heap{n}"
        folder.mkdir()
        for i in range(n):
            os.link(tmp_path / "one.bmp", folder / f"{i:05d}.bmp")
        words = [sys.executable, "-c", PEAK, str(folder), str(tmp_path / f"run{n}"), NAME]
        done = subprocess.run(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True)
        with (tmp_path / f"run{n}" / "assignments.csv").open(encoding="utf-8-sig") as file:
            assert sum(1 for _ in csv.DictReader(file)) == n
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 25, peaks
