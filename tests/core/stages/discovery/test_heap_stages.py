"""The stages one by one on a tiny heap, on a table of it, and without any label."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from core.clustering import n_classes, pseudo_labels
from core.stages.discovery import answer, cache, materials, rebuild, splits, ssddbc
from core.stages.discovery.config import CacheConfig, PipelineConfig, SplitConfig, SsddbcConfig
from core.training import recipes
from tests.core.stages import tiny
from tests.core.stages.tiny import refused

GRID = {"gpu": "cpu", "k_min": 3, "k_max": 3, "density_min": 50, "density_max": 50, "density_step": 10, "max_workers": 1}
KINDS = ("heap", "table", "unlabelled")
N_GIVEN, N = 15, 40


@pytest.fixture(scope="session")
def sources(tmp_path_factory, images) -> dict[str, dict[str, str]]:
    """Return the options that name 40 images of four classes: as a heap, as a table, and as a heap without labels.

    Five of each of bar, cross and dot are labelled, ring is unknown.
    """
    root = tmp_path_factory.mktemp("sources")
    rows = ["path;label;group;split"]
    for number, name in enumerate(tiny.CLASSES):
        for i, path in enumerate(sorted((images / "train" / name).iterdir())[:10]):
            known = name != "ring" and i < 5
            target = Path(f"labelled/{name}" if known else f"unlabelled/day {i % 3}") / f"{number}{i:02d}.png"
            for folder, below in (("heap", target), ("plain", Path("unlabelled") / target.name)):
                (root / folder / below).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, root / folder / below)
            rows.append(f"{target.as_posix()};{name if known else ''};;{'val' if known and i == 4 else ''}")
    (root / "heap" / "list.csv").write_text("\r\n".join(rows), "utf-8-sig")
    return {
        "heap": {"data_root": str(root / "heap"), "images": ""},
        "table": {"data_root": "data", "images": str(root / "heap" / "list.csv")},
        "unlabelled": {"data_root": str(root / "plain"), "images": ""},
    }


@pytest.fixture(scope="session", params=KINDS)
def trained(request, sources, tmp_path_factory, images):
    """Return (kind, options, summary, run) of a published training of two epochs; nobody has said `dataset`."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        place = tiny.Workplace(tmp_path_factory.mktemp(request.param), monkeypatch, images)
        summary, run = place.publish(**made(sources, request.param))
        return request.param, sources[request.param], summary, run


def made(sources, kind: str, **options) -> dict:
    return {"dataset": "auto", "novel_classes": "", "val_fraction": 0.2, **sources[kind], **options}


def counts(kind: str) -> dict[str, int]:
    labelled, held_out = (0, 0) if kind == "unlabelled" else (N_GIVEN - 3, 3)
    return {"labelled": labelled, "validation": held_out, "unlabelled": N - labelled - held_out, "test": 0}


def test_a_training_says_what_can_be_said_without_truth(trained):
    kind, _, summary, run = trained
    metrics = summary["metrics"]
    assert {"n_clusters", "selection/silhouette"} <= metrics.keys() and not any("v2" in name for name in metrics)
    assert ("val/accuracy_old" in metrics) == (kind != "unlabelled")
    assert (run.place / summary["checkpoint"]).is_file() and metrics["n_clusters"] >= (1 if kind == "unlabelled" else 3)


def test_features_of_a_heap(trained, place):
    kind, options, _summary, training = trained
    run = place.run()
    with run.ended:
        cache.run(CacheConfig(gpu="cpu", model_path=str(training.place), **options), run)
    facts = json.loads((run.place / "features/features.json").read_text())
    assert facts["counts"] == counts(kind)
    features = load_file(run.place / "features/features.safetensors")["features"]
    assert len(features) == N and np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)


def test_clusters_and_pseudo_labels_of_a_heap(trained, place, monkeypatch):
    kind, options, _summary, training = trained
    monkeypatch.setattr("core.plots.figure.save", lambda _figure, path: path.write_bytes(b""))
    run = place.run()
    summary = ssddbc.run(SsddbcConfig(**GRID, ckpt_path=str(training.place), **options), run)
    found = pseudo_labels.read(run.place / summary["pseudo_labels"])
    assert summary["metrics"]["pseudo/n_clusters"] >= 1 and len(found.labels) == N - counts(kind)["validation"]
    assert set(found.labels[found.core_mask].tolist()) <= set(range(int(summary["metrics"]["pseudo/n_clusters"])))
    assert not any("v2" in name for name in summary["metrics"])


def test_pseudo_labels_of_a_heap_have_as_many_classes_as_are_estimated(trained, place, monkeypatch):
    """Not as many as SSDDBC finds: one number in the clusters of an epoch, the pseudo labels, the answer and the model."""
    _kind, options, _summary, training = trained
    monkeypatch.setattr("core.plots.figure.save", lambda _figure, path: path.write_bytes(b""))
    for estimated in (5, 6):
        monkeypatch.setattr(n_classes, "estimate", lambda *_, n=estimated: n_classes.Count(n, n, n))
        run = place.run()
        summary = ssddbc.run(SsddbcConfig(**GRID, ckpt_path=str(training.place), current_epoch=estimated, **options), run)
        assert set(pseudo_labels.read(run.place / summary["pseudo_labels"]).targets) - {-1} == set(range(estimated))


def test_the_split_of_a_heap(sources, place):
    for kind in KINDS:
        run = place.run()
        (summary,) = splits.run(SplitConfig(**sources[kind], prop_train_labels=1.0, val_fraction=0.2), run).values()
        assert {name: summary[name] for name in counts(kind)} == counts(kind)
        (file,) = (run.place / "splits").glob("superclass_*.json")
        report = json.loads(file.read_text())
        assert report["class_names"] == ([] if kind == "unlabelled" else ["bar", "cross", "dot"]) and len(report["ids"]["unlabelled"]) >= 25


def test_a_heap_without_a_name_is_never_the_digits(place, tmp_path):
    (tmp_path / "other").mkdir()
    line = refused(lambda: place.config(dataset="auto", novel_classes="", data_root=str(tmp_path / "other")))
    assert "holds no data set that is known" in line and "unlabelled" in line
    assert "holds no data set" in refused(lambda: splits.run(SplitConfig(data_root=str(tmp_path / "other")), place.run()))


@pytest.mark.parametrize(("n_classes", "said"), [(2, "has 3 labelled classes"), (99, "images to sort; give a number from 3 to")])
def test_numbers_of_classes_that_cannot_be_are_refused(sources, place, n_classes, said):
    line = refused(lambda: place.publish(**made(sources, "heap", n_classes=n_classes)))
    assert f"n_classes = {n_classes}, but folder/heap has 3 labelled classes" in line and said in line


def test_a_number_of_classes_that_is_given_is_that_of_every_epoch(sources, place):
    summary, _run = place.publish(**made(sources, "heap", n_classes=7, epochs=1))
    assert [metrics["n_clusters"] for _epoch, metrics in summary["history"]] == [7.0, 7.0]


def test_unreadable_images_and_links_are_taken_as_every_stage_is_told(sources, tmp_path):
    shutil.copytree(sources["heap"]["data_root"], tmp_path / "heap")
    (tmp_path / "heap" / "unlabelled" / "broken.png").write_bytes(b"no image")

    def read(**options) -> int:
        return len(materials.read(recipes.resolve(PipelineConfig(data_root=str(tmp_path / "heap"), **options))).train)

    assert read() == read(bad_images="skip") == N
    assert "broken.png: not a readable image" in refused(lambda: read(bad_images="refuse"))
    shutil.copy(next(Path(sources["heap"]["data_root"]).rglob("*.png")), tmp_path / "far.png")
    (tmp_path / "heap" / "unlabelled" / "link.png").symlink_to(tmp_path / "far.png")
    assert "or give follow_links=true" in refused(read)
    assert read(follow_links=True) == N + 1


def test_selection_by_a_truth_that_nobody_knows_is_refused(sources, place):
    assert "select_by = oracle needs true classes" in refused(lambda: place.publish(**made(sources, "heap", select_by="oracle")))


def test_a_table_keeps_its_own_folder_for_the_stages_of_a_pipeline(tmp_path, monkeypatch):
    """The default data_root is nobody's: made a whole path, the table's relative paths would be taken below it."""
    monkeypatch.chdir(tmp_path)
    places = rebuild.places_of(PipelineConfig(images="list.csv"))
    assert (places["data_root"], places["images"]) == ("data", str(tmp_path / "list.csv"))
    given = rebuild.places_of(PipelineConfig(images="list.csv", data_root="photos"))
    assert given["data_root"] == str(tmp_path / "photos") and rebuild.places_of(PipelineConfig())["images"] == ""


def test_a_heap_of_copies_of_its_labelled_images_is_refused_with_the_reason(sources, place, tmp_path):
    labelled = Path(sources["heap"]["data_root"]) / "labelled"
    shutil.copytree(labelled, tmp_path / "heap" / "labelled")
    shutil.copytree(labelled / "bar", tmp_path / "heap" / "unlabelled")
    line = refused(lambda: place.publish(dataset="auto", novel_classes="", data_root=str(tmp_path / "heap")))
    assert line.startswith("every unlabelled image of folder/heap is a copy of a labelled one (5 of them): there is nothing to discover")


def test_no_automatic_name_is_a_class_s(sources, tmp_path):
    """Neither in the answer nor, as all take their names from it, in the gallery and the registered model."""
    shutil.copytree(sources["heap"]["data_root"], tmp_path / "heap")
    (tmp_path / "heap" / "labelled" / "bar").rename(tmp_path / "heap" / "labelled" / "novel 1")
    data, split, _truth = materials.posed(recipes.resolve(PipelineConfig(data_root=str(tmp_path / "heap"))))
    clusters = np.arange(len(data.train)) % 5
    found = SimpleNamespace(train=clusters, result=SimpleNamespace(centres=np.zeros((5, 2))))
    assert answer.names_of(data, split, found) == ("cross", "dot", "novel 1", "novel 2", "novel 3")
