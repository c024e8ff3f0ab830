"""The loop whole: discover, name what was found, train with the names, sort new images; against a training with true labels.

    python -m tests.benchmarks.bench_loop --data digits
    python -m tests.benchmarks.bench_loop --data trees -- --model_name=mobilenetv2_100 --weights=<...> --image_size=96 --total_epochs=15
    python -m tests.benchmarks.bench_loop --data leaves --take=core -- ...

The training images become a heap (80 % of each known class labelled), the test images new ones. Of coffee leaves 200 of three classes are
labelled, 624 of five make the heap, and the new ones are those of the validation folder. The person is played by the truth: each
novel category is called what most of its core images are, and categories of one name are merged; nothing else of the truth is used.
`true labels` is the same last training where each label that relabel gave is the image's true one.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment

from core.data import cifar100, digits
from core.data.images import DiscoveryData, ImageSet
from core.evaluation.answer_files import rows_of
from tests.benchmarks.features import DATA_ROOT

ROOT = Path(__file__).resolve().parents[2]
LABELLED = 0.8
LEAVES = {  # labelled and unlabelled images of each class
    "coffee_rust": (100, 60),
    "coffee_miner": (60, 60),
    "coffee_phoma": (40, 60),
    "coffee_cercospora": (0, 265),
    "coffee_health": (0, 179),
}
RUN = re.compile(r"^run ([0-9a-f]{32}); best model: epoch \d+, (\S+)$", re.MULTILINE)
Row = dict[str, str]


@dataclass
class Place:
    """A store of its own, the options of the trainings, and the truth of every image by its file name."""

    folder: Path
    words: list[str]
    truth: dict[str, str]

    def run(self, entry_point: str, *words: str) -> str:
        """Run an entry point in `folder`, where its artifacts come to lie; return what it printed."""
        env = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{self.folder}/mlflow.db", "TAXON_CACHE": str(self.folder / "cache")}
        command = [sys.executable, "-m", f"entrypoints.{entry_point}", *words]
        done = subprocess.run(command, cwd=self.folder, env=env | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        return done.stdout

    def discover(self, *words: str) -> tuple[Path, str]:
        """Run a pipeline; return the folder of its artifacts and its model."""
        found = RUN.search(self.run("pseudo_pipeline", *words, *self.words))
        if found is None:
            raise SystemExit("the pipeline names no registered model")
        return next(self.folder.glob(f"mlruns/*/{found[1]}/artifacts")), found[2]

    def sorted_by(self, model: str, name: str) -> list[Row]:
        """Return the rows of the new images as a model sorts them."""
        output = self.folder / name
        self.run("assign", f"--model={model}", f"--data_root={self.folder}/new", f"--output={output}", "--threads=1")
        return rows_of(output / "assignments.csv")


def write(images: ImageSet, names: tuple[str, ...], part: str, where: Callable[[int], str], folder: Path) -> dict[str, str]:
    """Write images as files into the folders that `where` says; return the class of each by its file name."""
    for i in range(len(images)):
        path = folder / where(i) / f"{part}{i:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.source.load(np.array([i]))[0]).save(path)
    return {f"{part}{i:05d}.png": names[images.labels[i]] for i in range(len(images))}


def load(name: str) -> DiscoveryData:
    """Return the digits, or a superclass of CIFAR-100."""
    return digits.load() if name == "digits" else cifar100.load_superclass(DATA_ROOT / "data", name, download=False)


def make(data: DiscoveryData, folder: Path, seed: int) -> dict[str, str]:
    """Write the heap and the new images; return the truth."""
    rng = np.random.default_rng(seed)
    drawn = rng.random(len(data.train)) < LABELLED
    labelled = drawn & np.isin(data.train.labels, sorted(data.known_classes))

    def where(i: int) -> str:
        return f"heap/labelled/{data.class_names[data.train.labels[i]]}" if labelled[i] else "heap/unlabelled"

    truth = write(data.train, data.class_names, "a", where, folder)
    return truth | write(data.test, data.class_names, "b", lambda _i: "new", folder)


def make_leaves(folder: Path, seed: int) -> dict[str, str]:
    """Copy coffee leaves, the first ones of each class, into the heap and the new images, under numbers; return the truth."""
    copies = []
    for name, (labelled, unlabelled) in LEAVES.items():
        files = sorted((DATA_ROOT / "data/crop_disease/train" / name).iterdir())[: labelled + unlabelled]
        places = [f"heap/labelled/{name}"] * labelled + ["heap/unlabelled"] * (len(files) - labelled)
        new = sorted((DATA_ROOT / "data/crop_disease/val" / name).iterdir())
        copies += [(name, *copy) for copy in zip([*files, *new], [*places, *["new"] * len(new)], strict=True)]
    truth = {}
    for number, (name, file, place) in zip(np.random.default_rng(seed).permutation(len(copies)), copies, strict=True):
        (folder / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / place / f"{number:05d}{file.suffix}")
        truth[f"{number:05d}{file.suffix}"] = name
    return truth


def name_all(saved: dict[str, Any], rows: list[Row], truth: dict[str, str]) -> dict[str, Any]:
    """Return clusters.json with each novel category called what most of its core images are, and those of one name merged."""
    used = {entry["name"]: entry["cluster"] for entry in saved["clusters"] if entry["known"]}
    for entry in saved["clusters"]:
        if entry["known"]:
            continue
        members = [row for row in rows if int(row["cluster"]) == entry["cluster"]]
        core = [row for row in members if row["position"] == "core"] or members
        name = Counter(truth[Path(row["path"]).name] for row in core).most_common(1)[0][0]
        if name in used:
            entry["merge"] = used[name]
        else:
            entry["name"], used[name] = name, entry["cluster"]
    return saved


def by_name(rows: list[Row], truth: dict[str, str]) -> float:
    """Return the share of images whose category is called what they are."""
    return float(np.mean([row["name"] == truth[Path(row["path"]).name] for row in rows]))


def matched(rows: list[Row], truth: dict[str, str]) -> float:
    """Return that share under the best matching of categories to classes."""
    names, classes = sorted({row["name"] for row in rows}), sorted(set(truth.values()))
    table = np.zeros((len(names), len(classes)))
    for row in rows:
        table[names.index(row["name"]), classes.index(truth[Path(row["path"]).name])] += 1
    return float(table[linear_sum_assignment(-table)].sum() / table.sum())


def with_true_labels(rows: list[Row], truth: dict[str, str], folder: Path) -> Path:
    """Write the table of relabel with the true label wherever it has one."""
    folder.mkdir()
    with (folder / "images.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"label": truth[Path(row["path"]).name] if row["label"] else ""} for row in rows)
    return folder / "images.csv"


def loop(place: Place, seed: int, take: str) -> dict[str, str]:
    """Go through the loop once; return what there is to say of it."""
    found, model = place.discover(f"--data_root={place.folder}/heap", f"--seed={seed}")
    rows = rows_of(found / "assignments.csv")
    named = place.folder / "clusters.json"
    named.write_text(json.dumps(name_all(json.loads((found / "clusters.json").read_text()), rows, place.truth)))
    heap = [row for row in rows if row["part"] == "unlabelled"]
    said = {
        "categories": str(len({row["cluster"] for row in rows})),
        "unlabelled images, best matching": f"{matched(heap, place.truth):.3f}",
    }
    said["new images, best matching"] = f"{matched(place.sorted_by(model, 'first'), place.truth):.3f}"
    place.run("relabel", f"--clusters={named}", f"--output={place.folder}/named", f"--take={take}")
    table = rows_of(place.folder / "named" / "images.csv")
    given = {Path(row["path"]).name for row in rows if row["label"]}
    made = [row for row in table if row["label"] and Path(row["path"]).name not in given]
    right = np.mean([row["label"] == place.truth[Path(row["path"]).name] for row in made])
    said["labels that relabel adds"] = f"{len(made)} of {len(heap)}, {right:.3f} right"
    _, model = place.discover(f"--images={place.folder}/named/images.csv", f"--seed={seed}")
    said["new images, by name"] = f"{by_name(place.sorted_by(model, 'second'), place.truth):.3f}"
    true = with_true_labels(table, place.truth, place.folder / "true")
    _, model = place.discover(f"--images={true}", f"--seed={seed}")
    said["new images, by name, true labels"] = f"{by_name(place.sorted_by(model, 'third'), place.truth):.3f}"
    return said


def main() -> None:
    """Go through the loop and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, leaves, or a superclass of CIFAR-100")
    parser.add_argument("--take", default="all", help="which images relabel gives the category's label: all or core")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True, help="a new folder for images, runs and answers")
    parser.add_argument("words", nargs="*", help="options of pseudo_pipeline, after --")
    asked = parser.parse_args()
    folder = asked.folder.absolute()
    folder.mkdir(parents=True)
    truth = make_leaves(folder, asked.seed) if asked.data == "leaves" else make(load(asked.data), folder, asked.seed)
    said = loop(Place(folder, [*asked.words, "--compare_without=false"], truth), asked.seed, asked.take)
    print(f"| {asked.data}, seed {asked.seed} | |\n|---|---|")
    for name, value in said.items():
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
