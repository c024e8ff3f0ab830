"""prepare_posts through the real stage, on a folder of tiny posts."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest

from core.config import fields_of, parse
from core.data import post_splits
from core.errors import UserError
from core.stages.posts import prepare
from core.stages.posts.config_tools import PreparePostsConfig
from tests.core.data import fake_posts
from tests.memory_run import MemoryRun


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("TAXON_CACHE", str(tmp_path / "cache"))
    made = fake_posts.write(tmp_path / "data_root", n=60, n_predict=5)
    (made / "data" / "2.jpg").write_bytes((made / "data" / "1.jpg").read_bytes())
    (made / "data" / "61.txt").write_text("Post number 3")
    (made / "data" / "4.txt").write_bytes("\u5fc3\u60c5".encode("gb18030"))
    (made / "data" / "5.txt").write_text("")
    return made


def prepared(root: Path, name: str = "run", **options):
    run = MemoryRun(root.parent / name)
    return prepare.run(PreparePostsConfig(data_root=str(root), **options), run), run


def guids(run: MemoryRun, name: str) -> list[str]:
    with open(run.place / "posts" / f"{name}.csv", newline="", encoding="utf-8") as file:
        return [row["guid"] for row in csv.DictReader(file)]


def test_the_files_partition_the_posts_and_keep_their_order(root, capsys):
    report, run = prepared(root)
    assert sorted(path.name for path in (run.place / "posts").iterdir()) == [
        "predict.csv",
        "report.json",
        "test.csv",
        "train.csv",
        "val.csv",
    ]
    parts = {name: guids(run, name) for name in ("train", "val", "test")}
    assert sorted(int(guid) for part in parts.values() for guid in part) == list(range(1, 61))
    assert all(part == sorted(part, key=int) for part in parts.values())
    assert guids(run, "predict") == ["61", "62", "63", "64", "65"]
    read = post_splits.read_csv(run.place / "posts" / "train.csv", root)
    assert read.class_names == ("negative", "neutral", "positive") and read.image_paths[0].parent == root / "data"
    assert "train" in capsys.readouterr().out and report["posts"]["train"] == len(parts["train"]) == 48


def test_the_report_says_what_the_data_are_like(root):
    report, run = prepared(root)
    assert report == json.loads((run.place / "posts" / "report.json").read_text(encoding="utf-8"))
    assert report["posts"] == {"labelled": 60, "predict": 5, "test": 6, "train": 48, "val": 6}
    assert report["by_class"]["val"] == {"negative": 2, "neutral": 2, "positive": 2}
    assert report["class_shares"]["train"]["neutral"] == pytest.approx(1 / 3)
    assert [len(files) for files in report["guessed_encodings"]["labelled"].values()] == [1]
    assert report["encodings"]["labelled"] == {"utf-8": 59, "gb18030": 1, "latin-1": 0}
    assert report["empty_texts"] == {"labelled": 1, "predict": 0}
    duplicates = report["duplicates"]
    assert (duplicates["groups"], duplicates["posts"], duplicates["label_conflicts"]) == (1, 2, 1)
    assert duplicates["groups_by"] == {"image": 1, "similar image": 1, "text": 0}
    (one,) = duplicates["list"]
    assert one["guids"] == ["1", "2"] and one["tags"] == ["negative", "neutral"] and one["by"] == ["image", "similar image"]
    assert one["guids"][0] in guids(run, one["part"]) and one["guids"][1] in guids(run, one["part"])
    assert report["predict_also_labelled"] == {"text": 1}
    assert run.datasets[0][1] == report["data_digest"]


@pytest.mark.parametrize("change", [{"seed": 2}, {"val_fraction": 0.2}, {"test_fraction": 0.3}])
def test_an_option_changes_the_split(root, change):
    before, after = prepared(root)[0], prepared(root, "other", **change)[0]
    assert before["split_digest"] != after["split_digest"] and before["data_digest"] == after["data_digest"]
    if "seed" not in change:
        assert before["posts"] != after["posts"]


def test_the_same_options_write_the_same_bytes(root):
    _, one = prepared(root)
    _, two = prepared(root, "again")
    for path in (one.place / "posts").iterdir():
        assert path.read_bytes() == (two.place / "posts" / path.name).read_bytes()


def test_index_files_have_the_names_that_are_given(root):
    (root / "train.txt").rename(root / "labels.tsv")
    (root / "test_without_label.txt").rename(root / "unknown.txt")
    report, run = prepared(root, train_file="labels.tsv", test_file="unknown.txt")
    assert report["posts"]["predict"] == 5
    report, run = prepared(root, "without", train_file="labels.tsv", test_file="")
    assert "predict" not in report["posts"] and not (run.place / "posts" / "predict.csv").exists()


def test_the_output_folder_gets_the_same_files(root, tmp_path):
    _, run = prepared(root, output_dir=str(tmp_path / "out" / "splits"))
    made = sorted(path.name for path in (tmp_path / "out" / "splits").iterdir())
    assert made == sorted(path.name for path in (run.place / "posts").iterdir())
    assert (tmp_path / "out" / "splits" / "train.csv").read_bytes() == (run.place / "posts" / "train.csv").read_bytes()


def test_mistakes_are_one_line_and_come_before_any_work(root, tmp_path):
    (tmp_path / "file").write_text("")
    for options, message in (
        ({"val_fraction": 0.7, "test_fraction": 0.3}, "leaves nothing to train on"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"output_dir": str(tmp_path / "file" / "out")}, "output_dir .* cannot be made"),
        ({"train_file": "test_without_label.txt"}, "has no tag at all"),
        ({"train_file": "absent.txt"}, "absent.txt cannot be read"),
    ):
        with pytest.raises(UserError, match=message) as error:
            prepared(root, "never", **options)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "never").exists()


def test_nothing_is_left_in_the_cache(root, tmp_path):
    prepared(root)
    assert not list((tmp_path / "cache" / "tmp").iterdir())


def test_the_configuration_is_complete():
    config = parse(PreparePostsConfig, ["--data_root=x", "--seed=3"], "prepare_posts")
    assert (config.data_root, config.seed, config.val_fraction, config.test_fraction) == ("x", 3, 0.1, 0.1)
    assert all(doc for *_, doc in fields_of(PreparePostsConfig)) and dataclasses.is_dataclass(config)
