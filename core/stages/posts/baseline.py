"""Is one classifier of posts better than another? Both on the same test posts, which neither was trained on or selected by."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from core.config import check_limits
from core.data import post_splits, texts
from core.data.posts import Posts
from core.errors import UserError
from core.evaluation import compare
from core.evaluation.compare import Interval, McNemar
from core.plots import figure
from core.plots.figure import KNOWN_COLOUR, NOVEL_COLOUR
from core.stages.posts import model, results
from core.stages.posts.config_tools import BaselineConfig
from core.tracking.recorder import Recorder

ENTRY_POINT = "compare_with_baseline"
FOLDER = "comparison"
METRICS = ("accuracy", "macro_f1", "macro_precision", "macro_recall", "balanced_accuracy")
BETTER, WORSE, UNDECIDED = "better", "worse", "no difference shown"
# What a training run keeps of its own test part; which that was can be checked there.
RECORD = Path("evaluation") / "test" / "predictions.csv"


def run(config: BaselineConfig, run: Recorder) -> dict[str, Any]:
    """Write comparison/comparison.json, predictions.csv and comparison.png; return the report."""
    given = {name: getattr(config, name) for name in ("weights", "baseline_weights")}
    _check(config, given)
    with results.made_in(run, FOLDER, config.output_dir) as (folder, publish):
        posts = results.read_part(config, "test")
        for name, uri in given.items():
            require_same_test(posts, uri, name)
        run.dataset("posts/test", posts.digest, config.data_root, "test")
        found = {name: probabilities_of(uri, posts, name) for name, uri in given.items()}
        report = judge(posts.truth, found["baseline_weights"], found["weights"], config, post_splits.groups_of(posts))
        report |= {"posts": len(posts), "data_digest": posts.digest, "compared": given}
        write(folder, posts, found, report)
        publish(report)
    run.metrics(report["metrics"], 0)
    print(summary_of(report))
    return report


def _check(config: BaselineConfig, given: dict[str, str]) -> None:
    for name, uri in given.items():
        if not uri:
            raise UserError(f"{name} is empty; give a run of optimize_clip, e.g. runs:/<id>")
    check_limits(config)


def require_same_test(posts: Posts, uri: str, option: str) -> None:
    """Raise UserError unless the run behind `uri` held out exactly these test posts, with these labels.

    Its training refused posts that are in its test part too: so equal test parts are parts that it never saw.
    """
    from core.tracking.uri import resolve

    path = resolve(uri, option)
    record = next((folder / RECORD for folder in (path, *path.parents[:2]) if (folder / RECORD).is_file()), None)
    if record is None:
        raise UserError(
            f"{option} = '{uri}' keeps no {RECORD}: whether it was trained on the test posts cannot be told; give a run of "
            "optimize_clip that had this test part"
        )
    theirs = {row["guid"]: row["true"] for row in texts.dict_rows(record.read_text(encoding="utf-8"))}
    ours = dict(zip(posts.guids, posts.tags, strict=True))
    if theirs.keys() != ours.keys():
        strange = sorted(theirs.keys() ^ ours.keys())
        raise UserError(
            f"{option} = '{uri}' held out other test posts ({len(strange)} differ: {results.named(strange)}), so it may have been trained "
            "on these; compare models of one split"
        )
    relabelled = sorted(guid for guid in ours if ours[guid] != theirs[guid])
    if relabelled:
        raise UserError(f"{option} = '{uri}' knew test posts {results.named(relabelled)} by other labels; compare models of one split")


def probabilities_of(uri: str, posts: Posts, option: str) -> np.ndarray:
    """Return (N, C) of the classifier behind a URI; UserError where its classes are not those of the posts, or it has learnt from them."""
    predictor = model.open_predictor(uri)
    results.require_fair(predictor, posts, "test", option, uri)
    if tuple(predictor.class_names) != posts.class_names:
        raise UserError(f"'{uri}' tells {', '.join(predictor.class_names)} apart, the test posts are {', '.join(posts.class_names)}")
    return predictor.probabilities(posts.texts, model.pictures(predictor, posts))


def judge(
    labels: np.ndarray, baseline: np.ndarray, candidate: np.ndarray, config: BaselineConfig, groups: np.ndarray | None = None
) -> dict[str, Any]:
    """Return scores, paired differences and the verdict on probabilities (N, C) of two classifiers for labels (N,).

    Posts of one number in `groups` (N,) are resampled together and are one trial of McNemar's test.
    """
    settings: dict[str, Any] = {"n": config.resamples, "seed": config.seed, "level": config.level, "groups": groups}
    scores, differences = {}, {}
    for name in METRICS:
        pair = {"baseline": baseline, "candidate": candidate}
        scores[name] = {who: asdict(compare.bootstrap_interval(labels, found, name, **settings)) for who, found in pair.items()}
        differences[name] = compare.paired_bootstrap(labels, baseline, candidate, name, **settings)
    test = compare.mcnemar(labels, baseline, candidate, groups)
    (corrected,) = compare.holm([test.p_value])
    found = verdict(config.metric, differences, test, 1 - config.level)
    metrics = {f"comparison/{name}_difference": difference.value for name, difference in differences.items()}
    return {
        "metric": config.metric,
        "verdict": found,
        "scores": scores,
        "differences": {name: asdict(difference) for name, difference in differences.items()},
        "mcnemar": asdict(test) | {"p_holm": corrected, "comparisons": 1},
        "groups": len(labels) if groups is None else len(np.unique(groups)),
        "metrics": metrics | {"comparison/mcnemar_p": test.p_value},
    }


def verdict(metric: str, differences: dict[str, Interval], test: McNemar, alpha: float) -> str:
    """Return 'better' or 'worse' only where it is shown, else 'no difference shown'.

    Shown means: the paired interval of `metric` leaves out 0, and McNemar's test does not say the opposite of the accuracy; for the
    accuracy itself it has to say the same. That no difference is shown does not mean that there is none.
    """
    difference = differences[metric]
    sign = 1 if difference.low > 0 else -1 if difference.high < 0 else 0
    by_test = (int(np.sign(test.only_b - test.only_a))) if test.p_value < alpha else 0
    contradicted = by_test == -sign or (metric == "accuracy" and by_test == 0)
    if not sign or contradicted:
        return UNDECIDED
    return BETTER if sign > 0 else WORSE


def write(folder: Path, posts: Posts, found: dict[str, np.ndarray], report: dict[str, Any]) -> None:
    """Write comparison.json, predictions.csv and comparison.png."""
    (folder / "comparison.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    names = {name: [posts.class_names[c] for c in rows.argmax(axis=1)] for name, rows in found.items()}
    with open(folder / "predictions.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["guid", "true", "baseline", "candidate"])
        writer.writerows(zip(posts.guids, posts.tags, names["baseline_weights"], names["weights"], strict=True))
    figure.save(draw(report), folder / "comparison.png")


def draw(report: dict[str, Any]) -> Figure:
    """Draw the scores of both with intervals, and the paired differences beside them."""
    drawn = Figure(figsize=(12.0, 3.4), layout="constrained")
    left, right = drawn.subplots(1, 2)
    for place, name in enumerate(METRICS):
        for who, shift, colour in (("baseline", -0.16, KNOWN_COLOUR), ("candidate", 0.16, NOVEL_COLOUR)):
            score = report["scores"][name][who]
            left.errorbar(place + shift, score["value"], yerr=_spread(score), fmt="o", color=colour, capsize=3, label=who)
        difference = report["differences"][name]
        right.errorbar(place, difference["value"], yerr=_spread(difference), fmt="o", color="#262626", capsize=3)
    left.legend(*(items[:2] for items in left.get_legend_handles_labels()), fontsize=8, frameon=False)
    right.axhline(0.0, color="#737373", linestyle="--", linewidth=1)
    left.set_title(f"on {report['posts']} test posts, with intervals", fontsize=10)
    right.set_title(f"candidate - baseline, paired\n{report['metric'].replace('_', ' ')}: {report['verdict']}", fontsize=10)
    for axes in (left, right):
        axes.set_xticks(range(len(METRICS)), [name.replace("_", " ") for name in METRICS], fontsize=9)
        axes.set_xlim(-0.5, len(METRICS) - 0.5)
        axes.spines[["top", "right"]].set_visible(False)
    return drawn


def _spread(score: dict[str, float]) -> list[list[float]]:
    """Return how far an interval reaches below and above its value (a percentile interval need not hold it)."""
    return [[max(score["value"] - score["low"], 0.0)], [max(score["high"] - score["value"], 0.0)]]


def summary_of(report: dict[str, Any]) -> str:
    """Return the lines that are printed: both scores, the paired difference, McNemar, the verdict."""
    lines = [f"{report['posts']} test posts{'baseline':>22s}{'candidate':>24s}{'difference (paired)':>28s}"]
    for name in METRICS:
        pair = [report["scores"][name][who] for who in ("baseline", "candidate")]
        cells = "".join(f"{s['value']:.3f} [{s['low']:.3f}, {s['high']:.3f}]".rjust(24) for s in pair)
        d = report["differences"][name]
        lines.append(f"{name:18s}{cells}" + f"{d['value']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]".rjust(28))
    test = report["mcnemar"]
    lines.append(
        f"McNemar over {report['groups']} groups of posts: right by the baseline alone {test['only_a']}, by the candidate alone "
        f"{test['only_b']}, p = {test['p_value']:.3g} (Holm over {test['comparisons']} comparison {test['p_holm']:.3g})"
    )
    said = UNDECIDED if report["verdict"] == UNDECIDED else f"the candidate is {report['verdict']}"
    lines.append(f"{report['metric'].replace('_', ' ')}: {said}")
    return "\n".join(lines)
