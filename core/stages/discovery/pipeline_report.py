"""What a person finds on a pipeline's page: the comparison, curves, heat maps, the gallery of categories, the registered best model."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from core.clustering.n_classes import wanted
from core.data.problem import NOBODY_SAID
from core.evaluation import answering, discovery
from core.evaluation import features as features_module
from core.plots import class_count, confusion, figure, gallery
from core.stages import after, execute, inputs
from core.stages.discovery import answer as answers
from core.stages.discovery import exports, materials, rebuild
from core.stages.discovery.config import CacheConfig
from core.stages.discovery.register import Served, register, test_digest
from core.tracking import stage as stages
from core.tracking.recorder import Recorder
from core.tracking.run import command_line
from core.tracking.store import scratch

ACCURACIES = ("all", "old", "new")
SELECTED = "selected model"  # row of the table
MIXED = "trainings and the selected model answer by their classifier, frozen features, which have none, by k-means"
WAYS = {"kmeans": "k-means", "classifier": "its classifier"}  # of giving an answer, by the names of `answers_by`


def publish(pipeline: Any, without: Any) -> dict[str, Any]:
    """Store figures and summary on the pipeline's run; then draw, register the best model, note and print the result.

    Where an earlier run of the same stages has stored its figures, what is left of the rest is done there.
    """
    run = pipeline.run_
    key = pipeline.key(without)
    job = execute.Job(key, lambda opened, unfinished: _Report(pipeline, without, opened).publish(key, unfinished))
    return execute.command(job, run, reuse=False)


class _Report:
    """The best model of a pipeline, as a served one computes, its clusters and figures; and what a person is to find of them on `run`."""

    def __init__(self, pipeline: Any, without: Any, run: Recorder) -> None:
        self.pipeline, self.run = pipeline, run
        chosen, checkpoint, best = pipeline.best()
        places: dict[str, Any] = rebuild.places_of(pipeline.config)
        now = CacheConfig(gpu=pipeline.config.gpu, **places)
        self.trained = rebuild.open_checkpoint(str(checkpoint), "best checkpoint", now, pipeline.loaded)
        self.model, m = self.trained.model()
        self.spec = m.spec
        m = dataclasses.replace(m, number_format="fp32")
        train, test = (features_module.normalise(extractor.extract(self.model)) for extractor in m.extractors())
        self.features, self.tested = train, test
        data, split, config = pipeline.data, pipeline.split, pipeline.config
        used, n_known = len(split.labelled) + len(split.unlabelled), answers.n_labelled(data, split)
        self.count = discovery.count_classes(data, split, train, config.seed)
        by = self._ways(n := wanted(materials.n_clusters(config, data, split, train, self.count), n_known, 1.0, used))
        self.by = preferred({way: figures for way, (_found, figures) in by.items()}, config.answers_by, config.over_cluster)
        # Figures compare at one number of classes; more clusters, for a person to merge, are the answer's and the registered model's.
        self.judged, figures = by[self.by]
        if self.by == "kmeans" and len(self.judged.result.centres) != n:
            self.judged, figures = self._kmeans(n)
        self.n_classes = len(self.judged.result.centres)
        self.n_clusters = wanted(self.n_classes, n_known, config.over_cluster, used)
        self.clusters, self.served = (self.judged, figures) if self.n_clusters == self.n_classes else self._kmeans(self.n_clusters)
        rows = {f"selected model, by {WAYS[way]}": its for way, (_found, its) in by.items() if len(by) > 1}
        self.summary = _summary(pipeline, without, chosen, checkpoint, best, {**rows, SELECTED: figures}, self.by)

    def _ways(self, n: int) -> dict[str, tuple[discovery.Clustering, dict[str, float]]]:
        """Return the answers that the model can give, by the option's names: `n` clusters, and its classifier's where it has one.

        A classifier's number of classes was settled before its training; clusters are compared with it at that number.
        """
        data, split, prototypes = self.pipeline.data, self.pipeline.split, self.model.prototypes
        if prototypes is None:
            return {"kmeans": self._kmeans(n)}
        answered = self._judged(discovery.classify(data, split, self.features, self.tested, prototypes))
        return {"kmeans": self._kmeans(len(prototypes)), "classifier": answered}

    def _kmeans(self, n: int) -> tuple[discovery.Clustering, dict[str, float]]:
        """Return `n` clusters of the images, and their figures."""
        pipeline = self.pipeline
        seed = pipeline.config.seed
        return self._judged(discovery.cluster(pipeline.data, pipeline.split, self.features, self.tested, n, seed))

    def _judged(self, found: discovery.Clustering) -> tuple[discovery.Clustering, dict[str, float]]:
        """Return the answers with novel classes by size, and their figures."""
        pipeline, config = self.pipeline, self.pipeline.config
        data, split = pipeline.data, pipeline.split
        found = discovery.largest_first(found, answers.n_labelled(data, split))
        figures = discovery.report(pipeline.truth, split, found, tuple(config.eval_funcs.split(",")))
        figures |= discovery.label_free(data, split, found, self.features)
        return found, figures | {"n_clusters": float(len(found.result.centres))}

    def publish(self, key: str, unfinished: after.Unfinished | None) -> dict[str, Any]:
        """Store the figures and do what comes after; return the summary."""
        pipeline, summary, folder = self.pipeline, self.summary, scratch("pipeline")
        self.run.metrics(summary["best_metrics"], summary["epoch"])
        tags = {
            stages.KEY_TAG: key,
            "taxon.weights_digest": summary["weights_digest"],
            "taxon.data": pipeline.data.name,
            "taxon.select_by": pipeline.config.select_by,
        }
        asked = {after.REGISTRATION: self._register} if pipeline.config.register else {}
        exported = {"export": lambda _summary: self._export(folder)} if exports.kinds(pipeline.config.export) else {}
        each = {"answer": lambda _summary: self._write(folder), **exported, "pictures": lambda _summary: self._draw(folder), **asked}
        steps = after.Steps(each, lambda found: _say(pipeline, self.run, found, self.over), exported if pipeline.config.export_to else ())
        try:
            return after.settle(after.published(self.run, folder, summary, tags, steps, unfinished), steps)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _draw(self, folder: Path) -> None:
        """Draw the curves, the heat maps of every refresh, the gallery of discovered categories and the confusion."""
        pipeline = self.pipeline
        history = pipeline.trainings[-1].summary["history"] + _refreshes(pipeline)
        inputs.draw_curves(history, folder / "plots" / "curves.png", _epochs(pipeline))
        for clustering in pipeline.clusterings:
            target = folder / "heatmaps" / f"epoch_{clustering.summary['epoch']:04d}"
            shutil.copytree(clustering.folder / "heatmaps", target)
        _pictures(pipeline, self.clusters, self.judged, self.features, folder / "plots")
        if self.count.curve:
            figure.save(class_count.class_count(self.count, pipeline.data.n_declared), folder / "plots" / "n_classes.png")

    @property
    def over(self) -> str:
        """What is to be said of an answer whose clusters are more, or fewer, than the classes; '' where they are as many."""
        if self.n_clusters == self.n_classes:
            return ""
        factor = self.pipeline.config.over_cluster
        return f"{self.n_clusters} clusters for {self.n_classes} classes, for a person to merge (over_cluster = {factor:g})"

    @cached_property
    def made(self) -> answering.Made:
        """The answer, and what a served model needs to give it."""
        pipeline = self.pipeline
        facts = answers.counted(self.count, pipeline.config.n_classes, pipeline.data.n_declared, self.by == "classifier")
        if self.over:
            facts |= {"n_classes": self.n_classes, "number_of_classes": f"{facts['number_of_classes']}: {self.over}"}
        return answers.made(pipeline.data, pipeline.split, self.clusters, self.features, pipeline.config.seed, facts)

    def _write(self, folder: Path) -> None:
        """Write the answer's files and its page."""
        pipeline = self.pipeline
        answers.write(self.made, folder, self.run.run_id, pipeline.data, pipeline.config.suggest)

    def _export(self, folder: Path) -> None:
        """Write the answer for other tools, into the user's folder or among the artifacts."""
        pipeline, source = self.pipeline, self.pipeline.data.train.source
        given = pipeline.config.export_to
        for kind in exports.kinds(pipeline.config.export):
            if given:
                exports.export(kind, self.made.answer, exports.place_of(given, kind), source, pipeline.export_key)
            else:
                exports.export(kind, self.made.answer, folder / "export" / kind, source)

    def _register(self, _summary: dict[str, Any]) -> dict[str, str]:
        figures = self.served
        digest = test_digest(self.pipeline.data, self.pipeline.truth)
        answer = self.made.answer
        radii = self.made.radii.tolist()
        clusters = [{"name": one.name, "known": one.known, "radius": radii[one.cluster]} for one in answer.categories]
        served = Served(clusters, self.made.temperature, figures, digest, bool(answer.facts["calibrated"]))
        return {"model": register(self.run, self.trained, self.model, self.spec, self.clusters, served)}


def preferred(figures: dict[str, dict[str, float]], asked: str, over_cluster: float = 1.0) -> str:
    """Return by what the answer is given, as `discovery.preferred`; clusters for a person to merge are k-means'."""
    return discovery.preferred(figures, "kmeans" if asked == "auto" and over_cluster != 1 else asked)


def _summary(
    pipeline: Any, without: Any, chosen: Any, checkpoint: Path, best: dict[str, Any], selected: dict[str, dict[str, float]], by: str
) -> dict[str, Any]:
    """Return the pipeline's result as JSON-ready values; `selected` are the rows of the selected model, the registered one's last.

    Trainings show the figures of the way `by` which the answer is given: rows compare like with like.
    """
    last = pipeline.trainings[-1].summary
    trainings = {"before pseudo labels": pipeline.trainings[0].summary, "after pseudo labels": last}
    if without is not None:
        trainings["same epochs without"] = without.summary
    table = {row: discovery.of_answer(of["metrics"], by) for row, of in trainings.items()}
    table = {"frozen features": last["history"][0][1], **table, **selected}
    kept = ("unlabelled/", "test/", "val/", "baseline/", "n_clusters", "estimated_k", "selection/", "centred/", discovery.BY_CLASSIFIER)
    table = {row: {k: v for k, v in values.items() if k.startswith(kept)} for row, values in table.items()}
    # Without the baselines, which have curves of their own: a page of two runs shows few metrics at once.
    shown = {f"best/{name}": value for name, value in table[SELECTED].items() if not name.startswith("baseline/")}
    return {
        "table": table,
        "epoch": pipeline.config.total_epochs,
        "best_metrics": shown | {"best/epoch": best["epoch"]},
        "best": best,
        "best_checkpoint": f"runs:/{chosen.run_id}/checkpoints/{checkpoint.name}",
        "weights_digest": last["weights_digest"],
        "answers_by": by,
        "stages": [finished.run_id for finished in (*pipeline.trainings, *pipeline.clusterings)],
    }


def judged(summary: dict[str, Any]) -> bool:
    """Say whether true classes are known by which the result can be judged."""
    return any(f"{where}/v2_all" in summary["table"][SELECTED] for where in ("unlabelled", "test"))


def _epochs(pipeline: Any) -> tuple[int, ...]:
    return tuple(clustering.summary["epoch"] for clustering in pipeline.clusterings)


def _refreshes(pipeline: Any) -> list[list[Any]]:
    return [[clustering.summary["epoch"], clustering.summary["metrics"]] for clustering in pipeline.clusterings]


def _pictures(pipeline: Any, found: discovery.Clustering, judged: discovery.Clustering, train: np.ndarray, folder: Path) -> None:
    """Draw the gallery of discovered categories, which are the answer's, and the confusion of the clusters that the figures are of.

    train: (N, d) normalised features of the training images.
    """
    data, split, truth = pipeline.loaded
    names, n_known = answers.names_of(data, split, found), answers.n_labelled(data, split)
    groups = []
    for cluster in np.unique(found.train[split.unlabelled]):
        members = split.unlabelled[found.train[split.unlabelled] == cluster]
        local = gallery.most_central(train[members], np.zeros(len(members), np.int64), 0)
        classes = truth.train[members[truth.train[members] != NOBODY_SAID]]
        images = np.stack([figure_image(image) for image in data.train.source.load(members[local])])
        purity = float(np.bincount(classes).max() / len(classes)) if len(classes) else None
        groups.append(gallery.GalleryGroup(names[cluster], images, bool(cluster < n_known), purity, len(members)))
    folder.mkdir(parents=True, exist_ok=True)
    figure.save(gallery.gallery(groups), folder / "gallery.png")
    told = split.unlabelled[truth.train[split.unlabelled] != NOBODY_SAID]
    if len(told):
        classes = dict(enumerate(truth.class_names))
        picture = confusion.confusion(truth.train[told], judged.train[told], classes, truth.known_classes)
        figure.save(picture, folder / "confusion.png")


def figure_image(image: np.ndarray, side: int = 64) -> np.ndarray:
    """Return an image as a thumbnail (side, side, 3) uint8, for galleries of images of many sizes."""
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def short(metrics: dict[str, float]) -> str:
    """Return the figures of one stage for a terminal line."""
    if "unlabelled/v2_all" in metrics:
        return "unlabelled All/Old/New " + numbers(metrics, "unlabelled/v2")
    if "selection/silhouette" in metrics:
        return untold(metrics)
    return f"{metrics['pseudo/n_clusters']:.0f} clusters, {metrics['pseudo/core_ratio']:.0%} core, score {metrics['pseudo/score']:.3f}"


def of_ceiling(metrics: dict[str, float]) -> str:
    """Return the figures of a stage that has learnt the classes of the unlabelled images, and has test images alone to show for it."""
    return "classifier, test All/Old/New " + numbers(metrics, f"{discovery.BY_CLASSIFIER}test/v2")


def untold(metrics: dict[str, float]) -> str:
    """Return what can be said of a training or a model where nobody knows the true classes."""
    held_out = f", held-out known images {metrics['val/accuracy_old']:.3f} right" if "val/accuracy_old" in metrics else ""
    return f"{metrics['n_clusters']:.0f} classes, silhouette {metrics['selection/silhouette']:.3f}{held_out}"


def numbers(metrics: dict[str, float], prefix: str) -> str:
    """Return `0.812/0.900/0.655`, with n/a where a part does not apply."""
    return "/".join(f"{metrics[f'{prefix}_{part}']:.3f}" if f"{prefix}_{part}" in metrics else "n/a" for part in ACCURACIES)


def markdown(summary: dict[str, Any], rows: Collection[str] = ()) -> str:
    """Return the result as a Markdown table, of those of `rows` that it has, in their order, where some are named."""
    table = {row: summary["table"][row] for row in rows or summary["table"] if row in summary["table"]}
    if not judged(summary):
        lines = ["| without true classes | |", "|---|---|"]
        return "\n".join(lines + [f"| {row} | {untold(values)} |" for row, values in table.items()])
    lines = ["| v2 accuracy, All/Old/New | unlabelled training images | test images |", "|---|---|---|"]
    lines += [f"| {row} | {numbers(values, 'unlabelled/v2')} | {numbers(values, 'test/v2')} |" for row, values in table.items()]
    return "\n".join(lines)


def _say(pipeline: Any, run: Recorder, summary: dict[str, Any], over: str = "") -> str:
    """Print the result; return it as the run's description. `over` says that the answer has more clusters than classes."""
    if judged(summary):
        print(f"\n{pipeline.data.name}: v2 accuracy All/Old/New      unlabelled train          test")
        for row, values in summary["table"].items():
            print(f"  {row:24s} {numbers(values, 'unlabelled/v2'):>26s} {numbers(values, 'test/v2'):>20s}")
    else:
        print(f"\n{pipeline.data.name}: nobody knows the true classes")
        for row, values in summary["table"].items():
            print(f"  {row:24s} {untold(values)}")
    mixed = judged(summary) and summary["answers_by"] == "classifier"
    if mixed:
        print(f"  {MIXED}")
    if over:
        print(f"  the answer and the registered model have {over}; the figures are at {summary['best_metrics']['best/n_clusters']:.0f}")
    if len([row for row in summary["table"] if row.startswith(SELECTED)]) > 1:
        print(f"  the answer and the registered model are given by {WAYS[summary['answers_by']]} (answers_by)")
    print(f"run {run.run_id}; best model: epoch {summary['best']['epoch']}, {summary.get('model', summary['best_checkpoint'])}")
    print(f"look at it: {run.page}")
    sys.stdout.flush()
    pictures = "`plots/gallery.png`, `plots/curves.png`, `heatmaps/`"
    more = f"The answer and the registered model have {over}; the figures are at the number of classes.\n\n" if over else ""
    more = f"{MIXED[0].upper()}{MIXED[1:]}.\n\n{more}" if mixed else more
    # A page shows four lines of its description: what came out, what it is to be compared with, where it came from.
    compared = "same epochs without" if "same epochs without" in summary["table"] else "before pseudo labels"
    short = markdown(summary, (SELECTED, compared, "frozen features"))
    found = f"{short}\n\nPictures: {pictures}. Best: epoch {summary['best']['epoch']}.\n"
    return f"{found}\n{more}{markdown(summary)}\n\nRepeat: `{command_line('pseudo_pipeline')}`"
