"""The clustering stage: features of a checkpoint, the SSDDBC grid on the training images, pseudo labels, heat maps."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from core.clustering import grid, pseudo_labels, roles, ssddbc
from core.clustering.matching import change_rate
from core.clustering.pseudo_labels import Points, PseudoLabels
from core.data.problem import NOBODY_SAID, Truth
from core.data.splits import Split
from core.errors import UserError
from core.evaluation import discovery
from core.evaluation.gcd import accuracy
from core.plots import figure, heatmap
from core.stages import after, execute, inputs, keys
from core.stages.discovery import cache, checks, feature_files, materials, rebuild
from core.stages.discovery.config import SsddbcConfig
from core.stages.discovery.feature_files import SPLITS, FeatureFile
from core.stages.discovery.stages import OFFLINE_SSDDBC_SUPERCLASS
from core.tracking.recorder import Recorder
from core.training import precision
from core.training.state import weights_digest

ENTRY_POINT = OFFLINE_SSDDBC_SUPERCLASS.name
BACKGROUNDS = ("all", "score")  # of the heat maps drawn at every refresh
RESULTS = "results_grid.json"
MORE_BACKGROUNDS = ("old", "new", "n_clusters")  # with debug_cluster_heatmap
WITHOUT_TRUTH = ("score", "n_clusters")


def run(config: SsddbcConfig, run: Recorder) -> dict[str, Any]:
    """Run `offline_ssddbc_superclass`: extract (or take) features, search the grid, publish pseudo labels, draw the heat maps."""
    return execute.command(begin(config), run, reuse=False)


def begin(config: SsddbcConfig) -> execute.Job:
    """Check the options and open the checkpoint; the key of its clustering says whether that has been done before."""
    from core.tracking import stage

    trained, truth, key = _opened(config)

    def work(opened: Recorder, unfinished: after.Unfinished | None) -> dict[str, Any]:
        folder = stage.work_folder(key)
        opened.dataset(trained.data.name, trained.data.digest, trained.config.data_root, "clustering")
        opened.started()
        summary = _pseudo_labels(config, opened, trained, truth, folder) if unfinished is None else unfinished.finished.summary
        grid_file = (folder if unfinished is None else unfinished.finished.folder) / "heatmaps" / RESULTS
        steps = after.Steps({"pictures": lambda _summary: _draw(config, grid_file, folder / "heatmaps")}, _note)
        found = after.settle(after.published(opened, folder, summary, {stage.KEY_TAG: key}, steps, unfinished), steps)
        shutil.rmtree(folder, ignore_errors=True)
        return found

    return execute.Job(key, work)


def _opened(config: SsddbcConfig) -> tuple[rebuild.Trained, Truth, str]:
    """Check the options; return the checkpoint to cluster, the truth for its figures, and the stage key."""
    checks.check_grid(config)
    if config.skip_feature_extraction and not config.features_path:
        raise UserError("skip_feature_extraction needs features_path; give the features that cache_features wrote (runs:/<id>/features)")
    trained, truth = rebuild.open_for_report(config.ckpt_path, "ckpt_path", config)
    if trained.config.labels == "all":
        raise UserError(f"ckpt_path = '{config.ckpt_path}' was trained on every true class (labels = all): its clusters would tell them")
    return trained, truth, ssddbc_key(config, trained, truth)


def _pseudo_labels(config: SsddbcConfig, run: Recorder, trained: rebuild.Trained, truth: Truth, folder: Path) -> dict[str, Any]:
    """Write pseudo labels and the grid's results into `folder`; return the summary."""
    features = _features(config, trained, folder)
    previous = _previous(config, trained)
    epoch = trained.state.epoch if config.current_epoch < 0 else config.current_epoch
    points, found = _search(config, trained, features)
    params, chosen = _choose(config, points, found)
    about = _about(trained, features, chosen.score, epoch)
    pseudo = pseudo_labels.build(
        points, chosen, params, previous, config.split_novel, about, n_classes=_n_classes(config, trained, features)
    )
    metrics = _metrics(trained, pseudo, previous) | _diagnostics(truth, trained.split, pseudo)
    name = pseudo_labels.file_name(trained.data.name.split("/")[-1], f"epoch_{epoch}", params["k"], params["density_percentile"])
    _write(folder, name, pseudo, _cells(found, points, truth))
    run.metrics(metrics, epoch)
    run.forward(metrics, epoch)
    return {"epoch": epoch, "pseudo_labels": f"pseudo_labels/{name}", "metrics": metrics, "best_params": pseudo.best_params}


def _note(summary: dict[str, Any]) -> str:
    """Return the description shown at the top of the run's page, as Markdown."""
    metrics, best = summary["metrics"], summary["best_params"]
    return (
        f"Epoch {summary['epoch']}: {metrics['pseudo/n_clusters']:.0f} clusters, {metrics['pseudo/n_novel']:.0f} of them novel, in cell "
        f"k = {best['k']}, density percentile {best['density_percentile']} (score {metrics['pseudo/score']:.3f}); "
        f"{metrics['pseudo/core_ratio']:.0%} of the unlabelled images are core points. Pseudo labels: `{summary['pseudo_labels']}`."
    )


def ssddbc_key(config: SsddbcConfig, trained: rebuild.Trained, truth: Truth) -> str:
    """Return the stage key of a clustering: the checkpoint says all that the options of data, model and machine could."""
    device = precision.pick_device(config.gpu)
    config = dataclasses.replace(config, current_epoch=trained.state.epoch if config.current_epoch < 0 else config.current_epoch)
    found = trained.digests | {"truth": truth.digest}
    return keys.of_stage(ENTRY_POINT, config, found, device, precision.resolve_precision(trained.config.precision, device))


def _features(config: SsddbcConfig, trained: rebuild.Trained, folder: Path) -> FeatureFile:
    """Return the checkpoint's features: those given, or extracted now into the run's artifacts."""
    if config.skip_feature_extraction:
        place = inputs.file_at(config.features_path, "features_path", "features.safetensors").parent
    else:
        place = folder / "features"
        model, m = trained.model()
        cache.extract(trained, model, m, place, config, use_l2=True)
    features = feature_files.read(place)
    _require_own(features, trained, place)
    return features


def _require_own(features: FeatureFile, trained: rebuild.Trained, place: Path) -> None:
    """Raise UserError unless the features are the checkpoint's own of this data and split, of unit length as this stage extracts them."""
    about, facts = features.about, trained.facts
    wanted = {
        "another data set or split than the checkpoint": {"data_digest": trained.data.digest, "split_digest": trained.split.digest},
        "another checkpoint": {"weights_digest": weights_digest(trained.state.model), "trunk_digest": facts["trunk_digest"]},
    }
    for what, digests in wanted.items():
        if any(about.get(name) != value for name, value in digests.items()):
            raise UserError(f"features in '{place}' are of {what}; extract them from it (cache_features), or give the one they are of")
    size = about.get("transform", {}).get("image_size")
    if size != trained.config.image_size:
        raise UserError(f"features in '{place}' are of images of {size} pixels, not {trained.config.image_size}; extract them again")
    if not about.get("l2_normalised"):
        raise UserError(f"features in '{place}' are not normalised (use_l2 = false); extract them with use_l2 = true")


def _used(features: FeatureFile, at_most: int, seed: int) -> np.ndarray:
    """Return the training indices that take part: labelled and unlabelled, never held-out, never test images.

    Of more than `at_most`, a sample: labelled and unlabelled ones at one rate, so that the labelled share stays what it was.
    """
    used = np.flatnonzero(np.isin(features.split, (SPLITS.index("labelled"), SPLITS.index("unlabelled"))))
    if len(used) <= at_most:
        return used
    return np.sort(np.random.default_rng([seed, len(used)]).choice(used, at_most, replace=False))


def _previous(config: SsddbcConfig, trained: rebuild.Trained) -> PseudoLabels | None:
    if not config.previous_pseudo_labels:
        return None
    path = inputs.file_at(config.previous_pseudo_labels, "previous_pseudo_labels", "*.npz")
    previous = pseudo_labels.read(path)
    pseudo_labels.check_origin(previous, trained.data.digest, trained.split.digest, str(path))
    return previous


def _search(config: SsddbcConfig, trained: rebuild.Trained, features: FeatureFile) -> tuple[Points, grid.Grid]:
    """Search the grid; return its points and the grid."""
    used = _used(features, config.cluster_sample, trained.split.seed)
    ids = np.asarray(features.ids, dtype=np.str_)[used]
    points = Points(used, ids, features.features[used], features.labels[used], trained.split.labelled_share)
    labelled = points.labels >= 0
    ks = [k for k in range(config.k_min, config.k_max + 1) if k < len(used)]
    if not ks:
        raise UserError(f"k_min = {config.k_min} neighbours do not exist among {len(used)} images; lower k_min")
    percentiles = range(config.density_min, config.density_max + 1, config.density_step)
    found = grid.search(pseudo_labels.centred(points.features), points.labels, labelled, ks, percentiles, config.max_workers or None)
    return points, found


def _n_classes(config: SsddbcConfig, trained: rebuild.Trained, features: FeatureFile) -> int | None:
    """Return how many targets to make: what was asked for, or the estimate; None where the number is declared: the field's protocol.

    A declared number is that of the truth, which would steer the training; SSDDBC finds its own.
    """
    if config.n_classes == "auto" and trained.data.n_declared is not None:
        return None
    asked = dataclasses.replace(trained.config, n_classes=config.n_classes)
    return materials.n_clusters(asked, trained.data, trained.split, features.features)


def _cells(found: grid.Grid, points: Points, truth: Truth) -> list[dict[str, Any]]:
    """Return the cells as results_grid.json lists them; accuracies come last, null where no true class is known."""
    judged = (points.labels < 0) & (truth.train[points.indices] != NOBODY_SAID)
    classes, cells = truth.train[points.indices[judged]], []
    for ((k, percentile), cell), partition in zip(found.cells.items(), found.partitions, strict=True):
        scores = accuracy(classes, partition[judged], truth.known_classes)
        numbers = {"score": cell.score, "cross_entropy": cell.cross_entropy, "silhouette": cell.silhouette}
        counts = {"n_clusters": cell.n_clusters, "n_core": cell.n_core}
        cells.append(
            {"k": k, "density_percentile": percentile, **numbers, **counts, "all": scores.all, "old": scores.old, "new": scores.new}
        )
    return cells


def _choose(config: SsddbcConfig, points: Points, found: grid.Grid) -> tuple[dict[str, Any], Any]:
    """Return the chosen cell's parameters and result, by its score alone or by what it recovers."""
    if config.cell_choice == "score":
        return {"k": found.best.k, "density_percentile": found.best.density_percentile}, found.best
    keys = list(found.cells)
    eligible = [not cell.degenerate and percentile < 100 for (_k, percentile), cell in found.cells.items()]
    codes = points.codes
    scores = [cell.score for cell in found.cells.values()]
    k, percentile = keys[roles.choose_cell(list(found.partitions), scores, eligible, codes, int(codes.max()) + 1, points.share)]
    chosen = ssddbc.cluster(pseudo_labels.centred(points.features), points.labels, points.labels >= 0, k, percentile)
    return {"k": k, "density_percentile": percentile}, chosen


def _about(trained: rebuild.Trained, features: FeatureFile, score: float, epoch: int) -> dict[str, Any]:
    """Return the pseudo labels' metadata: where they come from."""
    return {
        "data": trained.data.name,
        "data_digest": trained.data.digest,
        "split_digest": trained.split.digest,
        "seed": trained.split.seed,
        "epoch": epoch,
        "score": score,
        "features_digest": features.digest,
        "weights_digest": features.about["weights_digest"],
    }


def _metrics(trained: rebuild.Trained, pseudo: PseudoLabels, previous: PseudoLabels | None) -> dict[str, float]:
    """Return what the parent's curves show of a refresh."""
    unlabelled = ~np.isin(pseudo.indices, trained.split.labelled)
    metrics = {
        "pseudo/n_clusters": float(len(np.unique(pseudo.labels))),
        "pseudo/core_ratio": float(pseudo.core_mask[unlabelled].mean()),
        "pseudo/n_novel": float(pseudo.metadata["n_novel"]),
        "pseudo/target_ratio": float(pseudo.taking_part("core")[unlabelled].mean()),
        "pseudo/agreed_ratio": float(pseudo.agreed_mask[unlabelled].mean()),
        "pseudo/score": float(pseudo.metadata["score"]),
        "pseudo/k": float(pseudo.best_params["k"]),
        "pseudo/density_percentile": float(pseudo.best_params["density_percentile"]),
    }
    if previous is not None:
        metrics["pseudo/label_change_rate"] = change_rate(previous.labels, pseudo.labels, unlabelled)
    return metrics


def _diagnostics(truth: Truth, split: Split, pseudo: PseudoLabels) -> dict[str, float]:
    """Return the accuracies of a refresh on the unlabelled images whose class is known; they steer nothing.

    The accuracies of some points are under the best assignment of these alone. Their purity, the share that is right under the one
    assignment of all unlabelled images that have such a target, is what kinds of points are compared by: by margin and density as many
    take part as there are core points (`pseudo/target_ratio`).
    """
    classes, labelled = truth.train[pseudo.indices], np.isin(pseudo.indices, split.labelled)
    judged = ~labelled & (classes != NOBODY_SAID)
    metrics = discovery.named(accuracy(classes[judged], pseudo.labels[judged], truth.known_classes), "pseudo/diagnostic_ssddbc_v2")
    n_core = int((pseudo.taking_part("core") & ~labelled).sum())
    for points in ("core", "margin", "density", "agreed", "all"):
        targets = pseudo.targets_of(points)
        aimed = ~labelled & (targets >= 0)
        part = judged & pseudo.taking_part(points, n_core / max(int(aimed.sum()), 1), labelled)
        metrics |= discovery.named(accuracy(classes[part], targets[part], truth.known_classes), f"pseudo/diagnostic_{points}_v2")
        if part.any():
            matched = accuracy(classes[judged & aimed], targets[judged & aimed], truth.known_classes).assignment
            right = [matched.get(target) == true for target, true in zip(targets[part].tolist(), classes[part].tolist(), strict=True)]
            metrics[f"pseudo/diagnostic_{points}_purity"] = float(np.mean(right))
    return metrics


def _write(folder: Path, name: str, pseudo: PseudoLabels, cells: list[dict[str, Any]]) -> None:
    """Write pseudo labels and the grid's results."""
    for part in ("pseudo_labels", "heatmaps"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    pseudo_labels.write(folder / "pseudo_labels" / name, pseudo)
    keyed = {f"k{cell['k']}_dp{cell['density_percentile']}": cell for cell in cells}
    (folder / "heatmaps" / RESULTS).write_text(
        json.dumps({"cells": keyed, "best": pseudo.best_params, "diagnostics": ["all", "old", "new"]}, indent=1) + "\n"
    )


def _draw(config: SsddbcConfig, results: Path, folder: Path) -> None:
    """Draw the heat maps of a grid's results into `folder`."""
    told = json.loads(results.read_text())
    cells, best = list(told["cells"].values()), (told["best"]["k"], told["best"]["density_percentile"])
    asked = (*BACKGROUNDS, *(MORE_BACKGROUNDS if config.debug_cluster_heatmap else ()))
    for background in asked if cells[0]["all"] is not None else WITHOUT_TRUTH:
        figure.save(heatmap.grid_heatmap(cells, background, best), folder / f"{background}.png")
