"""The clustering stage: features of a checkpoint, the SSDDBC grid on the training images, pseudo labels, heat maps."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from core import digest
from core.clustering import grid, pseudo_labels
from core.clustering.matching import change_rate
from core.clustering.pseudo_labels import PseudoLabels
from core.errors import UserError
from core.evaluation import discovery
from core.evaluation.gcd import accuracy
from core.plots import figure, heatmap
from core.stages import cache, checks, feature_files, inputs, rebuild
from core.stages.config import SsddbcConfig
from core.stages.feature_files import SPLITS, FeatureFile

ENTRY_POINT = "offline_ssddbc_superclass"
BACKGROUNDS = ("all", "score")  # of the heat maps drawn at every refresh
MORE_BACKGROUNDS = ("old", "new", "n_clusters")  # with debug_cluster_heatmap


def run(config: SsddbcConfig, run: Any) -> dict[str, Any]:
    """Run `offline_ssddbc_superclass`: extract (or take) features, search the grid, publish pseudo labels and pictures."""
    from core.tracking import stage

    checks.check_grid(config)
    trained = rebuild.open_checkpoint(config.ckpt_path, "ckpt_path", config)
    key = ssddbc_key(config, trained)
    folder = stage.work_folder(key)
    run.tags({stage.KEY_TAG: key})
    run.dataset(trained.data.name, trained.data.digest, trained.config.data_root, "clustering")
    run.started()
    features = _features(config, trained, folder)
    previous = _previous(config, trained)
    found, cells = _search(config, trained, features)
    epoch = trained.state.epoch if config.current_epoch < 0 else config.current_epoch
    pseudo = pseudo_labels.build(
        features.features[_used(features)], features.labels[_used(features)], found.best, previous, _about(trained, features, found, epoch)
    )
    pseudo = dataclasses.replace(pseudo, indices=_used(features), ids=np.asarray(features.ids, dtype=np.str_)[_used(features)])
    metrics = _metrics(trained, pseudo, previous)
    name = pseudo_labels.file_name(trained.data.name.split("/")[-1], f"epoch_{epoch}", found.best.k, found.best.density_percentile)
    _write(folder, name, pseudo, cells, found, config.debug_cluster_heatmap)
    run.metrics(metrics, epoch)
    run.forward(metrics, epoch)
    summary = {"epoch": epoch, "pseudo_labels": f"pseudo_labels/{name}", "metrics": metrics, "best_params": pseudo.best_params}
    stage.publish(run, folder, summary)
    shutil.rmtree(folder, ignore_errors=True)
    return summary


def ssddbc_key(config: SsddbcConfig, trained: rebuild.Trained) -> str:
    """Return the stage key of a clustering."""
    from core.stages.materials import environment
    from core.tracking.stage import stage_key
    from core.training import precision

    device = precision.pick_device(config.gpu)
    found = {"checkpoint": digest.of_file(trained.path), "data": trained.data.digest, "split": trained.split.digest}
    if config.previous_pseudo_labels:
        found["previous"] = digest.of_file(inputs.file_at(config.previous_pseudo_labels, "previous_pseudo_labels", "*.npz"))
    if config.skip_feature_extraction:
        found["features"] = digest.of_file(inputs.file_at(config.features_path, "features_path", "features.safetensors"))
    number_format = precision.resolve_precision(trained.config.precision, device)
    return stage_key(ENTRY_POINT, inputs.parameters(config), found, environment(trained.config, device, number_format))


def _features(config: SsddbcConfig, trained: rebuild.Trained, folder: Path) -> FeatureFile:
    """Return the checkpoint's features: those given, or extracted now into the run's artifacts."""
    if config.skip_feature_extraction:
        if not config.features_path:
            raise UserError(
                "skip_feature_extraction needs features_path; give the features that cache_features wrote (runs:/<id>/features)"
            )
        place = inputs.file_at(config.features_path, "features_path", "features.safetensors").parent
    else:
        place = folder / "features"
        model, m = trained.model()
        cache.extract(trained, model, m, place, use_l2=True)
    features = feature_files.read(place)
    if features.about["data_digest"] != trained.data.digest or features.about["split_digest"] != trained.split.digest:
        raise UserError(f"features in '{place}' are of another data set or split than the checkpoint; extract them from it")
    return features


def _used(features: FeatureFile) -> np.ndarray:
    """Return the training indices that take part: labelled and unlabelled, never held-out, never test images."""
    return np.flatnonzero(np.isin(features.split, (SPLITS.index("labelled"), SPLITS.index("unlabelled"))))


def _previous(config: SsddbcConfig, trained: rebuild.Trained) -> PseudoLabels | None:
    if not config.previous_pseudo_labels:
        return None
    path = inputs.file_at(config.previous_pseudo_labels, "previous_pseudo_labels", "*.npz")
    previous = pseudo_labels.read(path)
    pseudo_labels.check_origin(previous, trained.data.digest, trained.split.digest, str(path))
    return previous


def _search(config: SsddbcConfig, trained: rebuild.Trained, features: FeatureFile) -> tuple[grid.Grid, list[dict[str, Any]]]:
    """Search the grid; return it and its cells as results_grid.json lists them, diagnostics last."""
    used = _used(features)
    labelled = features.split[used] == SPLITS.index("labelled")
    ks = [k for k in range(config.k_min, config.k_max + 1) if k < len(used)]
    if not ks:
        raise UserError(f"k_min = {config.k_min} neighbours do not exist among {len(used)} images; lower k_min")
    percentiles = range(config.density_min, config.density_max + 1, config.density_step)
    found = grid.search(
        pseudo_labels.centred(features.features[used]), features.labels[used], labelled, ks, percentiles, config.max_workers or None
    )
    truth = trained.data.train.labels[used][~labelled]
    cells = []
    for ((k, percentile), cell), partition in zip(found.cells.items(), found.partitions, strict=True):
        scores = accuracy(truth, partition[~labelled], trained.data.known_classes)
        numbers = {"score": cell.score, "cross_entropy": cell.cross_entropy, "silhouette": cell.silhouette}
        counts = {"n_clusters": cell.n_clusters, "n_core": cell.n_core}
        cells.append(
            {"k": k, "density_percentile": percentile, **numbers, **counts, "all": scores.all, "old": scores.old, "new": scores.new}
        )
    return found, cells


def _about(trained: rebuild.Trained, features: FeatureFile, found: grid.Grid, epoch: int) -> dict[str, Any]:
    """Return the pseudo labels' metadata: where they come from."""
    return {
        "data": trained.data.name,
        "data_digest": trained.data.digest,
        "split_digest": trained.split.digest,
        "seed": trained.split.seed,
        "epoch": epoch,
        "score": found.best.score,
        "features_digest": features.digest,
        "weights_digest": features.about["weights_digest"],
    }


def _metrics(trained: rebuild.Trained, pseudo: PseudoLabels, previous: PseudoLabels | None) -> dict[str, float]:
    """Return what the parent's curves show of a refresh; `pseudo/diagnostic_*` use truth and steer nothing."""
    truth = trained.data.train.labels[pseudo.indices]
    unlabelled = ~np.isin(pseudo.indices, trained.split.labelled)
    metrics = {
        "pseudo/n_clusters": float(len(np.unique(pseudo.labels))),
        "pseudo/core_ratio": float(pseudo.core_mask[unlabelled].mean()),
        "pseudo/agreed_ratio": float(pseudo.agreed_mask[unlabelled].mean()),
        "pseudo/score": float(pseudo.metadata["score"]),
        "pseudo/k": float(pseudo.best_params["k"]),
        "pseudo/density_percentile": float(pseudo.best_params["density_percentile"]),
    }
    if previous is not None:
        metrics["pseudo/label_change_rate"] = change_rate(previous.labels, pseudo.labels, unlabelled)
    for name, mask in (("all", unlabelled), ("core", unlabelled & pseudo.core_mask), ("agreed", unlabelled & pseudo.agreed_mask)):
        metrics |= discovery.named(accuracy(truth[mask], pseudo.labels[mask], trained.data.known_classes), f"pseudo/diagnostic_{name}_v2")
    return metrics


def _write(folder: Path, name: str, pseudo: PseudoLabels, cells: list[dict[str, Any]], found: grid.Grid, every_background: bool) -> None:
    """Write pseudo labels, results_grid.json and the heat maps."""
    for part in ("pseudo_labels", "heatmaps"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    pseudo_labels.write(folder / "pseudo_labels" / name, pseudo)
    keyed = {f"k{cell['k']}_dp{cell['density_percentile']}": cell for cell in cells}
    (folder / "heatmaps" / "results_grid.json").write_text(
        json.dumps({"cells": keyed, "best": pseudo.best_params, "diagnostics": ["all", "old", "new"]}, indent=1) + "\n"
    )
    best = (found.best.k, found.best.density_percentile)
    for background in (*BACKGROUNDS, *(MORE_BACKGROUNDS if every_background else ())):
        figure.save(heatmap.grid_heatmap(cells, background, best), folder / "heatmaps" / f"{background}.png")
