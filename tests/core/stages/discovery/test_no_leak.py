"""No truth leaks, on real images: a table with the truth, without, and with a shuffled one give the same bits (spec/heap.md)."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core import digest
from core.data import cifar100, digits
from core.data.images import DiscoveryData
from tests.benchmarks.features import DATA_ROOT
from tests.core.conftest import store_template  # noqa: F401  (fixture)
from tests.core.stages.discovery.short import discover, store_in

pytestmark = pytest.mark.slow

TRUTHS = ("without", "true", "shuffled")
EACH, LABELLED, TESTED = 40, 20, 10  # images of a class, labelled ones of each known class, test images of a class
EQUAL = ("assignments.csv", "clusters.csv", "contents.csv", "suggest.csv", "model/model.safetensors", "model/model.json")


def trees() -> DiscoveryData:
    if not any((DATA_ROOT / "data").glob("cifar-100-binary*")):
        pytest.skip(f"no CIFAR-100 in {DATA_ROOT}/data")
    return cifar100.load_superclass(DATA_ROOT / "data", "trees", download=False)


def write_images(data: DiscoveryData, folder: Path) -> list[dict[str, str]]:
    """Write some images of every class as PNG files; return a row each: the known classes' first ones are labelled."""
    rows = []
    for part, images, many in (("train", data.train, EACH), ("test", data.test, TESTED)):
        for label, name in enumerate(data.class_names):
            for i, at in enumerate(np.flatnonzero(images.labels == label)[:many]):
                path = folder / part / f"{at:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(images.source.load(np.array([at]))[0]).save(path)
                told = part == "test" or (label in data.known_classes and i < LABELLED)
                rows.append({"path": str(path), "label": name if told else "", "truth": "" if told else name, "split": part})
    return rows


def write_table(rows: list[dict[str, str]], truth: str, folder: Path) -> Path:
    """Write the table in one of TRUTHS; its name, and so that of the data, is the same for all of them."""
    said = [row["truth"] for row in rows]
    hidden = [i for i, name in enumerate(said) if name]
    for i, j in zip(hidden, np.random.default_rng(0).permutation(hidden), strict=True):
        said[i] = {"without": "", "true": rows[i]["truth"], "shuffled": rows[j]["truth"]}[truth]
    (folder / truth).mkdir(parents=True)
    with (folder / truth / "some.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ("path", "label", "truth", "split"))
        writer.writeheader()
        writer.writerows(row | {"truth": name} for row, name in zip(rows, said, strict=True))
    return folder / truth / "some.csv"


@pytest.fixture(scope="module", params=[digits.load, trees], ids=["digits", "trees"])
def found(request, store_template, tmp_path_factory) -> dict[str, Path]:  # noqa: F811
    """Return the folder of the run of each truth."""
    load: Callable[[], DiscoveryData] = request.param
    place = tmp_path_factory.mktemp("no_leak")
    rows = write_images(load(), place / "images")
    with pytest.MonkeyPatch.context() as patch:
        store_in(place, store_template, patch)
        return {
            truth: discover(place, truth, images=str(write_table(rows, truth, place / "tables")), batch_size=64, export="coco")
            for truth in TRUTHS
        }


@pytest.mark.parametrize("truth", TRUTHS[1:])
def test_weights_clusters_answer_and_model_are_equal_to_a_bit(found, truth):
    for name in EQUAL:
        assert digest.of_file(found[truth] / name) == digest.of_file(found["without"] / name), name
    clusters = [json.loads((found[which] / "clusters.json").read_text())["clusters"] for which in ("without", truth)]
    assert clusters[0] == clusters[1] and len(clusters[0]) > 1
    said = [json.loads((found[which] / "summary.json").read_text()) for which in ("without", truth)]
    assert said[0]["weights_digest"] == said[1]["weights_digest"]


def test_the_truth_is_in_the_figures_and_a_wrong_one_makes_them_worse(found):
    figures = {which: json.loads((found[which] / "summary.json").read_text())["table"]["selected model"] for which in TRUTHS}
    assert "unlabelled/v2_all" not in figures["without"]
    assert figures["true"]["unlabelled/v2_all"] > figures["shuffled"]["unlabelled/v2_all"] > 0
