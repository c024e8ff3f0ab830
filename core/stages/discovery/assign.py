"""Sorting new images into the categories of a registered model, in one pass: what is in memory does not grow with their number."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from core import cores, digest
from core.clustering.kmeans import assign
from core.data import image_stream
from core.data.decoding import read_rgb
from core.data.image_stream import ImageStream, Listed
from core.data.images import ArrayImages, UnreadableImages, one_line
from core.data.loader import ahead
from core.data.views import ViewSpec, evaluation_view, resize_all
from core.errors import UserError
from core.evaluation import answer_files, answering, confidence, positions
from core.evaluation.answer import ALONE, POSITIONS, Answer, Category
from core.evaluation.reservoir import Reservoir
from core.plots import category_page
from core.progress import bar
from core.serving.discovery import DiscoveryPredictor
from core.serving.images import DRAFT
from core.stages.discovery import new_folder
from core.stages.discovery.assign_config import AssignConfig
from core.stages.discovery.checks import refuse_assign
from core.stages.machine import settle
from core.tracking import served, versions
from core.tracking.patience import Client
from core.tracking.recorder import Recorder
from core.tracking.store import scratch
from core.tracking.versions import Version

ENTRY_POINT = "assign"
MODULE = "core.serving.discovery"
BATCH = {"cpu": 32}  # larger ones leave the caches of a processor
BATCH_OF_A_GPU = 256
DECIMALS = 6  # as the pipeline's own assignments.csv has it


def run(config: AssignConfig, run: Recorder) -> dict[str, Any]:
    """Run `assign`; return how many images went where."""
    refuse_assign(config)
    output = new_folder.asked(config.output)
    device = settle(config.gpu, config.threads or cores.usable())
    follow = config.follow_links
    images = image_stream.of_table(config.images, config.data_root, follow) if config.images else None
    images = images or image_stream.of_folder(config.data_root, follow)
    place = scratch(ENTRY_POINT)
    try:
        version, predictor = opened(config.model, place / "model")
        if config.bad_images == "refuse":
            refuse_unreadable(images, predictor.spec, config.num_workers)
        run.tags({"taxon.model": version.uri})
        run.dataset(images.where, images.digest, config.images or config.data_root, "assigned")
        run.started()
        (place / "answer").mkdir()
        summary = Assignment(config, predictor.to(device), images, place / "answer").work(run.run_id, str(version))
        run.folder(place / "answer")
        if output is not None:
            with new_folder.appearing(output) as made:
                shutil.copytree(place / "answer", made, dirs_exist_ok=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    summary = {"model": version.uri, **summary}
    run.metrics({f"assigned/{name}": float(summary[name]) for name in ("images", "skipped", "images_per_second")}, 0)
    run.json(summary, "assign.json")
    return summary


def opened(model: str, place: Path) -> tuple[Version, DiscoveryPredictor]:
    """Return the version that the option means and its predictor, files verified; UserError for what is no model of discovery."""
    version = versions.meant(Client(), model)
    folder = versions.fetch(version, place)
    (data,) = (folder / "data").iterdir()
    if served.check(data) != MODULE:
        raise UserError(f"model = '{model}': {version} is no model of category discovery; give one of taxon-discovery-<data>")
    return version, DiscoveryPredictor(data)


@dataclass(frozen=True, eq=False)
class Read:
    """A batch: the images that could be read, sha256 of each file, pixels (B, 3, R, R) and views (B, 3, S, S); the others and why."""

    images: list[Listed]
    contents: list[str]
    pixels: torch.Tensor
    views: torch.Tensor
    bad: list[tuple[Path, str]]


def read(images: Sequence[Listed], spec: ViewSpec) -> Read:
    """Return a batch, its images decoded and resized as a request's are."""
    kept, contents, pixels, bad = [], [], [], []
    for one in images:
        try:
            content = one.path.read_bytes()
            if not content:
                raise ValueError("empty file")
            image = np.asarray(read_rgb(content, (DRAFT * spec.resize, DRAFT * spec.resize)))
        except Exception as error:  # Pillow raises almost anything on damaged files
            bad.append((one.path, one_line(error)))
            continue
        kept.append(one)
        contents.append(digest.of_bytes(content))
        pixels.append(resize_all(ArrayImages(image[None]), spec).batch(np.array([0])))
    side = spec.resize
    joined = torch.cat(pixels) if pixels else torch.zeros(0, 3, side, side, dtype=torch.uint8)
    return Read(kept, contents, joined, evaluation_view(joined, spec) if pixels else torch.zeros(0), bad)


def refuse_unreadable(images: ImageStream, spec: ViewSpec, num_workers: int) -> None:
    """Raise UnreadableImages with all images that cannot be read."""
    batches = ahead(partial(read, spec=spec), batched(images, BATCH["cpu"]), num_workers)
    total = -(-images.count // BATCH["cpu"])
    bad = [one for batch in bar(batches, "checking images", total=total) for one in batch.bad]
    if bad:
        raise UnreadableImages(bad, images.count)


def batched(images: ImageStream, size: int) -> Iterator[list[Listed]]:
    """Yield the images, `size` at a time."""
    left = iter(images)
    while batch := list(itertools.islice(left, size)):
        yield batch


@dataclass(frozen=True, eq=False)
class Shown:
    """An image of the page: its row of assignments.csv, sha256, features (d,) and pixels (H, W, 3)."""

    row: dict[str, Any]
    content: str
    features: np.ndarray
    pixels: np.ndarray


class Assignment:
    """One pass over the images: rows go to the files as they come, a sample and sums stay."""

    def __init__(self, config: AssignConfig, predictor: DiscoveryPredictor, images: ImageStream, folder: Path):
        self.config, self.predictor, self.images, self.folder = config, predictor, images, folder
        n = len(predictor.clusters)
        self.sample: Reservoir[Shown] = Reservoir(config.shown, n, config.seed)
        self.sizes, self.sure, self.near = np.zeros(n, np.int64), np.zeros(n), np.zeros(n)
        self.standing = np.zeros(len(POSITIONS), np.int64)
        self.skipped, self.first_bad = 0, ("", "")
        self.seen = hashlib.sha256()
        self.seconds = 0.0

    @property
    def batch_size(self) -> int:
        """Images of a forward pass."""
        if self.config.batch_size == "auto":
            return BATCH.get(self.predictor.device.type, BATCH_OF_A_GPU)
        return self.config.batch_size

    def work(self, run_id: str, model: str) -> dict[str, Any]:
        """Write the tables of images, then clusters.csv, clusters.json and report.html; return what was found."""
        self.stream()
        if not self.sizes.sum():
            path, reason = self.first_bad
            raise UserError(f"none of the {self.images.count} images of {self.images.where} can be read; the first: {path} ({reason})")
        answer, pixels = self.answer()
        (self.folder / "clusters.csv").write_bytes(answer_files.table(answer_files.CLUSTERS, answer_files.clusters(answer)))
        (self.folder / "clusters.json").write_bytes(answer_files.clusters_json(answer, run_id))

        def load(rows: np.ndarray) -> list[np.ndarray]:
            return [pixels[row] for row in rows]

        title = f"{self.images.where}, by {model}"
        category_page.write(self.folder / "report.html", answer, load, run_id, title, self.config.shown + len(self.sizes))
        return self.say()

    def stream(self) -> None:
        """Assign every image, in order."""
        start = time.perf_counter()
        batches = ahead(partial(read, spec=self.predictor.spec), batched(self.images, self.batch_size), self.config.num_workers)
        tables = {"assignments.csv": answer_files.ASSIGNED, "outliers.csv": answer_files.OUTLIERS}
        tables |= {"contents.csv": CONTENTS, "skipped.csv": SKIPPED}
        files: dict[str, IO[bytes]] = {name: (self.folder / name).open("wb") for name in tables}
        try:
            for name, columns in tables.items():
                files[name].write(answer_files.table(columns, ()))
            with bar((), "assigning", total=self.images.count) as progress:
                for batch in batches:
                    self._take(batch, files)
                    progress.update(len(batch.images) + len(batch.bad))
        finally:
            batches.close()
            for file in files.values():
                file.close()
        self.seconds = time.perf_counter() - start

    def _take(self, batch: Read, files: dict[str, IO[bytes]]) -> None:
        """Assign a batch, write its rows, keep what the page may need."""
        if batch.bad:
            self.first_bad = self.first_bad if self.skipped else (str(batch.bad[0][0]), batch.bad[0][1])
            self.skipped += len(batch.bad)
            bad = [{"path": str(path), "reason": reason} for path, reason in batch.bad]
            files["skipped.csv"].write(answer_files.lines(SKIPPED, bad))
        if not batch.images:
            return
        features = self.predictor.features(batch.views)
        rows, distances = self.rows(batch, features)
        files["assignments.csv"].write(answer_files.lines(answer_files.ASSIGNED, rows))
        strange = [row for row in rows if row["position"] == "outlier"]
        files["outliers.csv"].write(answer_files.lines(answer_files.OUTLIERS, strange))
        contents = [{"id": row["id"], "sha256": content} for row, content in zip(rows, batch.contents, strict=True)]
        files["contents.csv"].write(answer_files.lines(CONTENTS, contents))
        for i, row in enumerate(rows):
            self.seen.update(f"{row['id']}\0{batch.contents[i]}\0{row['cluster']}\0".encode("utf-8", "backslashreplace"))
            self.sizes[row["cluster"]] += 1
            self.sure[row["cluster"]] += row["confidence"]
            self.near[row["cluster"]] += 1 - distances[i]
            self.standing[POSITIONS.index(row["position"])] += 1
            self.sample.offer(row["cluster"], float(distances[i]), partial(_shown, row, batch, features, i))

    def rows(self, batch: Read, features: np.ndarray) -> tuple[list[dict[str, Any]], np.ndarray]:
        """Return the rows of assignments.csv of a batch, and how far each image is from its centre (B,)."""
        predictor = self.predictor
        clusters = assign(features, predictor.centres)
        standing = confidence.standing(features, predictor.centres, clusters, predictor.temperature)
        shares, margins = (np.round(values, DECIMALS) for values in standing)
        distances = positions.cosine_distances(features, predictor.centres, clusters)
        placed = positions.positions(margins, shares, np.maximum(distances - predictor.radii[clusters], 0.0))
        rows = []
        for i, one in enumerate(batch.images):
            said = predictor.clusters[clusters[i]]
            rows.append(
                {
                    "path": str(one.path),
                    "id": one.id,
                    "cluster": int(clusters[i]),
                    "name": said["name"],
                    "known": bool(said["known"]),
                    "confidence": float(shares[i]),
                    "margin": float(margins[i]),
                    "position": POSITIONS[placed[i]],
                    "duplicate_group": ALONE,
                    "part": one.part,
                    "label": one.label,
                    "group": one.group,
                }
            )
        return rows, distances

    def answer(self) -> tuple[Answer, list[np.ndarray]]:
        """Return the answer over the sample, its categories' sizes and the facts over all images, and the sample's pixels."""
        shown, predictor = self.sample.items(), self.predictor
        rows = [one.row for one in shown]
        columns = {name: tuple(str(row[key]) for row in rows) for name, key in COLUMNS.items()}
        alone = np.full(len(rows), ALONE, np.int64)
        made = answering.make(
            answering.Rows(**columns, contents=tuple(one.content for one in shown), duplicates=alone),
            np.stack([one.features for one in shown]),
            np.array([row["cluster"] for row in rows], np.int64),
            predictor.centres,
            [one["name"] for one in predictor.clusters],
            sum(bool(one["known"]) for one in predictor.clusters),
            self.config.seed,
            self.facts(),
            predictor.temperature,
        ).answer
        answer = dataclasses.replace(
            made,
            positions=np.array([POSITIONS.index(row["position"]) for row in rows], np.int64),
            halves=np.zeros(len(rows), np.int64),  # what nobody clustered has none
            categories=tuple(map(self.category, made.categories)),
            digest=self.seen.hexdigest(),
        )
        return answer, [one.pixels for one in shown]

    def category(self, of_sample: Category) -> Category:
        """Return a category as it is over all images."""
        cluster = of_sample.cluster
        known, n = bool(self.predictor.clusters[cluster]["known"]), int(self.sizes[cluster])
        sure, near = (round(float(sums[cluster] / max(1, n)), DECIMALS) for sums in (self.sure, self.near))
        return dataclasses.replace(of_sample, known=known, size=n, confidence=sure, cohesion=near)

    def facts(self) -> dict[str, Any]:
        """Return what is said of all images, not of the sample."""
        n = int(self.sizes.sum())
        return {
            "images": n,
            "skipped": self.skipped,
            "duplicate_groups": None,
            **{f"{name}_share": round(float(self.standing[i] / n), DECIMALS) for i, name in enumerate(POSITIONS)},
            "outliers": int(self.standing[POSITIONS.index("outlier")]),
            "calibrated": self.predictor.calibrated,
            "calibration": "calibrated when the model was trained" if self.predictor.calibrated else "not calibrated",
        }

    def say(self) -> dict[str, Any]:
        """Print and return how many images went where."""
        n, told = int(self.sizes.sum()), self.facts()
        named = {one["name"]: int(self.sizes[i]) for i, one in enumerate(self.predictor.clusters)}
        rate = round(n / max(self.seconds, 1e-9), 1)
        known = sum(int(self.sizes[i]) for i, one in enumerate(self.predictor.clusters) if one["known"])
        bad = f"; {self.skipped} could not be read (skipped.csv)" if self.skipped else ""
        print(f"{n} images: {known} of known categories, {n - known} of novel ones; {rate} a second{bad}")
        print(", ".join(f"{name} {size}" for name, size in named.items()))
        return {"images": n, "skipped": self.skipped, "categories": named, "core_share": told["core_share"], "images_per_second": rate}


CONTENTS, SKIPPED = ("id", "sha256"), ("path", "reason")
COLUMNS = {"ids": "id", "paths": "path", "labels": "label", "parts": "part"}


def _shown(row: dict[str, Any], batch: Read, features: np.ndarray, i: int) -> Shown:
    """Return what the page needs of an image, no larger than a tile."""
    pixels = np.ascontiguousarray(batch.pixels[i].permute(1, 2, 0).numpy())
    if max(pixels.shape[:2]) > category_page.TILE:
        pixels = np.asarray(category_page.tile(pixels))
    return Shown(row, batch.contents[i], features[i].copy(), pixels)
