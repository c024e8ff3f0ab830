import csv
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from core.config import parse
from core.data import longtail
from core.errors import UserError
from core.stages.longtail import prepare
from core.stages.longtail.prepare_config import PrepareConfig
from tests.core.data import fake_ai_challenger
from tests.memory_run import MemoryRun


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    return fake_ai_challenger.make(tmp_path_factory.mktemp("pdr2018"))


@pytest.fixture
def run(tmp_path, monkeypatch) -> MemoryRun:
    monkeypatch.setenv("TAXON_CACHE", str(tmp_path / "cache"))
    return MemoryRun(tmp_path / "run")


@pytest.fixture
def root(tmp_path) -> Path:
    """Return a folder with three classes in class folders, every picture another one."""
    for value, place in enumerate(["train/rot/a", "train/rot/b", "train/rust/a", "val/rot/c", "val/rust/c", "test/rust/d"]):
        picture(tmp_path / "crops" / f"{place}.png", 20 + 9 * value)
    return tmp_path / "crops"


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (value, 0, 0)).save(path)


def folders(root: Path, **options) -> PrepareConfig:
    return PrepareConfig(**({f"{part}_dir": str(root / part) for part in longtail.PARTS} | options))


def annotated(crops, kind: str = "annotations", **options) -> PrepareConfig:
    return PrepareConfig(**{f"{part}_annotations": str(getattr(crops[part], kind)) for part in longtail.PARTS}, **options)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def load_prepared(out: Path, base: dict[str, Path], weights: bool = True):
    return longtail.load(
        *(str(base[part]) for part in longtail.PARTS),
        *(str(out / f"{part}_metadata.csv") for part in longtail.PARTS),
        str(out / "class_weights.csv") if weights else "",
    )


@pytest.mark.parametrize("kind", ["annotations", "listing"])
def test_annotations_become_metadata_that_train_can_read(crops, run, tmp_path, kind):
    report = prepare.run(annotated(crops, kind, output_dir=str(tmp_path / "out")), run)
    data = load_prepared(tmp_path / "out", {part: crops[part].folder for part in longtail.PARTS})
    assert data.digest == report["data_digest"] and len(data.class_names) == 61
    assert {key: len(attribute.names) for key, attribute in data.attributes.items()} == {"crop": 10, "disease": 28, "severity": 4}
    assert data.class_counts.tolist() == fake_ai_challenger.train_counts()
    written = rows(tmp_path / "out" / "train_metadata.csv")
    assert [int(row["label_61"]) for row in written] == list(crops["train"].labels)
    sick = next(row for row in written if row["label_61"] == "45")
    assert sick == {
        "image_name": "45_0.jpg",
        "image_path": "images/45_0.jpg",
        "label_61": "45",
        "label_name": "tomato_bacterial_spot_serious",
        "crop_type": "tomato",
        "crop_id": "9",
        "disease": "tomato_bacterial_spot",
        "disease_id": "19",
        "severity": "serious",
        "is_healthy": "0",
    }
    assert {row["is_healthy"] for row in written if row["severity"] == "healthy"} == {"1"}


def test_class_folders_and_their_metadata_are_the_same_data(root, run, tmp_path):
    report = prepare.run(folders(root, output_dir=str(tmp_path / "out")), run)
    from_folders = longtail.load(*(str(root / part) for part in longtail.PARTS), "", "", "", "")
    base = {part: root / part for part in longtail.PARTS}
    assert report["data_digest"] == from_folders.digest == load_prepared(tmp_path / "out", base, weights=False).digest
    weights = rows(tmp_path / "out" / "class_weights.csv")
    assert [(row["label"], row["class"], row["count"], float(row["weight"])) for row in weights] == [
        ("0", "rot", "2", 3 / (2 * 2)),
        ("1", "rust", "1", 3 / (2 * 1)),
    ]


def test_its_own_metadata_can_be_prepared_again(crops, run, tmp_path):
    first = prepare.run(annotated(crops, output_dir=str(tmp_path / "out")), run)
    given = {f"{part}_meta": str(tmp_path / "out" / f"{part}_metadata.csv") for part in longtail.PARTS}
    given |= {f"{part}_dir": str(crops[part].folder) for part in longtail.PARTS}
    again = prepare.run(PrepareConfig(**given, output_dir=str(tmp_path / "again")), run)
    assert again["files"] == first["files"] and again["data_digest"] == first["data_digest"]


def test_groups_of_the_metadata_are_kept(root, run, tmp_path):
    (root / "train" / "list.csv").write_text("image_path,label,group\nrot/a.png,rot,plant 1\nrot/b.png,rot,plant 1\nrust/a.png,rust,\n")
    prepare.run(PrepareConfig(train_meta=str(root / "train" / "list.csv"), output_dir=str(tmp_path / "out")), run)
    assert [row["group"] for row in rows(tmp_path / "out" / "train_metadata.csv")] == ["plant 1", "plant 1", ""]


def test_everything_is_an_artifact_with_figures_and_tags(crops, run):
    report = prepare.run(annotated(crops), run)
    names = ["class_weights.csv", "report.json", "test_metadata.csv", "train_metadata.csv", "val_metadata.csv"]
    assert run.files() == [f"metadata/{name}" for name in names]
    assert json.loads((run.place / "metadata" / "report.json").read_text()) == json.loads(json.dumps(report))
    ((values, step),) = run.history
    counts = fake_ai_challenger.train_counts()
    assert step == 0 and values["data/tail_classes"] == 15 and values["data/tail_images"] == sum(sorted(counts)[:15])
    assert values["data/imbalance_factor"] == max(counts) / min(counts) == 8 and values["data/duplicates"] == 0
    assert values["data/train_images"] == sum(counts) and values["data/val_images"] == 60 and values["data/classes"] == 61
    assert run.tagged["taxon.data"] == report["data"] == "AgriculturalDisease_trainingset"
    assert run.tagged["taxon.data_digest"] == report["data_digest"]
    assert [context for *_, context in run.datasets] == ["train", "val", "test"]
    assert not list(Path(run.place.parent / "cache" / "tmp").iterdir())


def test_the_report_counts_every_class_and_part_and_names_the_absent(crops, run, capsys):
    report = prepare.run(annotated(crops), run)
    of_45 = report["classes"][45]
    assert (of_45["label"], of_45["train"], of_45["val"], of_45["tail"]) == ("45", 1, 0, True)
    assert (of_45["crop"], of_45["severity"], report["classes"][44]["val"]) == ("tomato", "serious", 1)
    assert report["without_images"]["val"] == ["tomato_bacterial_spot_serious"]
    said = capsys.readouterr().out
    assert "61 classes, train" in said and "without images in val: tomato_bacterial_spot_serious" in said
    assert "imbalance factor 8.0" in said and "no image is in two parts" in said and "train with" not in said


def test_the_command_it_prints_names_files_that_load(root, run, tmp_path, capsys):
    report = prepare.run(folders(root, output_dir=str(tmp_path / "out")), run)
    said = capsys.readouterr().out
    options = dict(re.findall(r"-P (\w+)=(\S+)", said))
    assert set(options) == {"class_weights", *(f"{part}_{kind}" for part in longtail.PARTS for kind in ("dir", "meta"))}
    assert longtail.load(**options).digest == report["data_digest"]


def test_metadata_without_a_folder_is_relative_to_itself(root, run):
    lines = [f"{name}/{file}.png,{name}" for name, file in (("rot", "a"), ("rust", "a"))]
    (root / "train" / "list.csv").write_text("\n".join(["image_path,label", *lines]))
    report = prepare.run(PrepareConfig(train_meta=str(root / "train" / "list.csv"), val_dir=str(root / "val")), run)
    assert report["images"] == {"train": 2, "val": 2, "test": 0}
    assert "metadata/test_metadata.csv" not in run.files() and report["data"] == "crops"


def duplicated(root: Path) -> None:
    for place in ("val/rot/x.png", "test/rust/x.png"):
        (root / place).write_bytes((root / "train" / "rot" / "a.png").read_bytes())


def test_duplicates_are_reported_with_their_labels(root, run, capsys):
    duplicated(root)
    found = prepare.run(folders(root), run)["duplicates"]
    assert found["pairs"] == 3 and found["with_other_label"] == 2
    assert found["list"][0] == {"first": "train/rot/a.png", "second": "val/rot/x.png", "labels_differ": False}
    assert run.history[0][0]["data/duplicates"] == 3 and run.tagged["taxon.duplicates"] == "3"
    assert "images in two parts: 3 (2 with another label), the first is train/rot/a.png = val/rot/x.png" in capsys.readouterr().out


def test_duplicates_are_refused_on_request_and_nothing_is_written_but_the_report(root, run, tmp_path):
    duplicated(root)
    with pytest.raises(UserError, match=r"images in two parts: 3 .*allow_duplicates=true"):
        prepare.run(folders(root, allow_duplicates=False, output_dir=str(tmp_path / "out")), run)
    assert not (tmp_path / "out").exists()
    assert json.loads((run.place / "metadata" / "report.json").read_text())["duplicates"]["pairs"] == 3


def test_unreadable_images_stop_the_run_and_are_all_in_the_report(root, run, tmp_path):
    bad = [root / "train" / "rot" / f"bad{i}.png" for i in range(7)] + [root / "test" / "rust" / "bad.png"]
    for i, path in enumerate(bad):
        path.write_bytes(b"text" * (i % 2))
    with pytest.raises(UserError, match=r"8 of 14 files are not readable images: .*bad0\.png \(empty file\).* and 3 more") as error:
        prepare.run(folders(root, output_dir=str(tmp_path / "out")), run)
    assert "metadata/report.json" in str(error.value) and "\n" not in str(error.value)
    report = json.loads((run.place / "metadata" / "report.json").read_text())
    assert [path for path, _ in report["unreadable"]] == [str(path) for path in bad]
    assert not (tmp_path / "out").exists()


def test_foreign_files_stop_the_run_before_any_image_is_read(root, run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "class_weights.csv").write_text("mine")
    (root / "train" / "rot" / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="was not written by prepare_longtail"):
        prepare.run(folders(root, output_dir=str(tmp_path / "out")), run)
    assert run.files() == []


@pytest.mark.parametrize("part", longtail.PARTS)
def test_metadata_and_annotations_of_one_part_contradict(root, run, part):
    with pytest.raises(UserError, match=f"{part}_meta and {part}_annotations both"):
        prepare.run(folders(root, **{f"{part}_meta": "x.csv", f"{part}_annotations": "x.json"}), run)


@pytest.mark.parametrize("part", longtail.PARTS)
@pytest.mark.parametrize("kind", ["dir", "meta", "annotations"])
def test_every_option_that_names_data_is_read(root, run, part, kind):
    with pytest.raises(UserError, match="nowhere"):
        prepare.run(folders(root, **{f"{part}_{kind}": "nowhere"}), run)


def test_nothing_given_says_what_to_give(run):
    with pytest.raises(UserError, match="no training images: give train_dir"):
        prepare.run(PrepareConfig(), run)


def test_options_parse_from_the_command_line():
    config = parse(PrepareConfig, ["--train_dir=a", "--allow_duplicates=false"], "prepare_longtail")
    assert config == PrepareConfig(train_dir="a", allow_duplicates=False)
