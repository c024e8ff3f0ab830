"""A file of configurations: each is trained as a child run of its own, and they are compared."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core import config as configuration
from core import digest
from core.data import texts
from core.data.post_splits import group
from core.evaluation import compare
from core.stages import after, execute, keys
from core.stages.clip import checks, cross_validation, evaluate, train
from core.stages.clip.config import TrainClipConfig
from core.tracking import stage as stages
from core.tracking.recorder import Recorder
from core.tracking.store import scratch

SUMMARY = "multi_config_summary"


def run_configurations(config: TrainClipConfig, run: Recorder | None) -> dict[str, Any]:
    """Train every configuration of the file as a child run, compare them, return the summary ({} on ranks other than 0)."""
    configs = configuration.configurations_of(config, train.ENTRY_POINT, checks.check_training)
    names = names_of(configs)
    if run is not None:
        run.options(configuration.canonical(config))
        run.started()
    tags = {"taxon.seed": str(config.seed)}
    children = [cross_validation.child(one, name, begin, tags, run) for name, one in zip(names, configs, strict=True)]
    finished = execute.all_below(children, run, ("core.models.open_clip_alone",))
    return _publish(run, names, configs, finished) if run is not None else {}


def train_one(config: TrainClipConfig, run: Recorder | None) -> dict[str, Any]:
    """Train one configuration: all its folds where it has any."""
    return cross_validation.cross_validate(config, run) if config.use_cv and not config.fold else train.train(config, run)


def names_of(configs: Sequence[TrainClipConfig]) -> list[str]:
    """Return a name for each configuration: its number and the options in which they differ."""
    differing = [f.name for f in dataclasses.fields(TrainClipConfig) if len({getattr(one, f.name) for one in configs}) > 1]
    said = [" ".join(f"{name}={str(getattr(one, name)).lower()}" for name in differing) for one in configs]
    return [f"{number} {text}".strip()[:200] for number, text in enumerate(said, start=1)]


def begin(config: TrainClipConfig) -> execute.Job:
    """Return the job of one configuration: a training, or all folds, which are reused one by one."""
    if config.use_cv and not config.fold:
        return execute.Job("", lambda run, _unfinished: cross_validation.cross_validate(config, run))
    return train.begin(config)


def _publish(
    run: Recorder, names: Sequence[str], configs: Sequence[TrainClipConfig], finished: Sequence[stages.Finished]
) -> dict[str, Any]:
    shown = {name: _lines(found.summary) for name, found in zip(names, finished, strict=True)}
    summary = {
        "configurations": [
            {"name": name, "run_id": found.run_id, "config": configuration.canonical(one), "lines": shown[name]}
            for name, one, found in zip(names, configs, finished, strict=True)
        ],
        "against_first": _against_first(names, finished, configs[0].seed),
    }
    made = digest.of_json({found.run_id: found.manifest for found in finished})
    key = keys.of_stage("multi_config", configs[0], {"data": made, "names": digest.of_json(list(names))})

    def note(found: dict[str, Any]) -> str:
        print(_table(shown, found["against_first"]))
        return _note(shown, found["against_first"])

    def work(opened: Recorder, unfinished: after.Unfinished | None) -> dict[str, Any]:
        folder, steps = scratch("configurations"), after.Steps({}, note)
        try:
            (folder / f"{SUMMARY}.json").write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")
            return after.settle(after.published(opened, folder, summary, {stages.KEY_TAG: key}, steps, unfinished), steps)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return execute.command(execute.Job(key, work), run, reuse=False)


def _table(shown: dict[str, dict[str, list[str]]], compared: dict[str, dict[str, list[float]]]) -> str:
    lines = ["configuration".ljust(20) + "".join(f"{title.replace('_', ' '):>20s}" for title in evaluate.SHOWN)]
    for name, of in shown.items():
        lines += [name, *(f"  {title}".ljust(20) + "".join(f"{cell:>20s}" for cell in cells) for title, cells in of.items())]
    return "\n".join([*lines, *(f"{name}, against the first: {said}" for name, said in _differences(compared).items())])


def _lines(summary: dict[str, Any]) -> dict[str, list[str]]:
    if "mean" in summary:
        return cross_validation.lines(summary)
    metrics = summary["best_metrics"]
    part = "test" if evaluate.rows(metrics, "test") else "val"
    return {title: [f"{value:.3f}" for value in values] for title, values in evaluate.rows(metrics, part).items()}


def _against_first(names: Sequence[str], finished: Sequence[stages.Finished], seed: int) -> dict[str, dict[str, list[float]]]:
    """Return, of cross-validations of the same images, metric -> [difference to the first, low, high] and McNemar's p value.

    `mcnemar_p_holm` is p corrected for all the configurations that are compared. Images that either calls a group are one trial.
    """
    tables = [_predictions(found.folder / cross_validation.PREDICTIONS) for found in finished]
    compared: dict[str, dict[str, list[float]]] = {}
    for name, rows in zip(names[1:], tables[1:], strict=True):
        if not tables[0] or rows.keys() != tables[0].keys():
            continue
        ids = sorted(rows)
        index = {label: i for i, label in enumerate(sorted({row[c] for t in (tables[0], rows) for row in t.values() for c in (0, 1)}))}
        labels, first, other = (np.array([index[t[i][c]] for i in ids]) for t, c in ((rows, 0), (tables[0], 1), (rows, 1)))
        groups = group(len(ids), {who: [t[i][2] for i in ids] for who, t in (("first", tables[0]), ("other", rows))})
        gains = {metric: compare.paired_bootstrap(labels, first, other, metric, seed=seed, groups=groups) for metric in compare.METRICS}
        compared[name] = {metric: [gain.value, gain.low, gain.high] for metric, gain in gains.items()}
        compared[name]["mcnemar_p"] = [compare.mcnemar(labels, first, other, groups).p_value]
    corrected = compare.holm([found["mcnemar_p"][0] for found in compared.values()])
    for found, p_value in zip(compared.values(), corrected, strict=True):
        found["mcnemar_p_holm"] = [p_value]
    return compared


def _predictions(path: Path) -> dict[str, tuple[str, str, str]]:
    """Return image -> (true, predicted, group or ''); {} where the run was no cross-validation."""
    if not path.is_file():
        return {}
    return {
        row["image"]: (row["true"], row["predicted"], row.get("group") or "") for row in texts.dict_rows(path.read_text(encoding="utf-8"))
    }


def _differences(compared: dict[str, dict[str, list[float]]]) -> dict[str, str]:
    def said(found: dict[str, list[float]]) -> str:
        cells = [f"{m.replace('_', ' ')} {found[m][0]:+.3f} ({found[m][1]:+.3f} to {found[m][2]:+.3f})" for m in compare.METRICS]
        return ", ".join(cells) + f", McNemar p {found['mcnemar_p'][0]:.3f} (Holm {found['mcnemar_p_holm'][0]:.3f})"

    return {name: said(found) for name, found in compared.items()}


def _note(shown: dict[str, dict[str, list[str]]], compared: dict[str, dict[str, list[float]]]) -> str:
    head = ["| configuration | model | " + " | ".join(evaluate.SHOWN) + " |", "|---|---|" + "---|" * len(evaluate.SHOWN)]
    rows = [f"| {name} | {title} | {' | '.join(cells)} |" for name, of in shown.items() for title, cells in of.items()]
    first = [f"- {name} against the first: {said}" for name, said in _differences(compared).items()]
    return "\n".join([*head, *rows, "", *first])
