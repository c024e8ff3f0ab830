"""What a person finds on the page of a posts pipeline: the figures of every model, the verdict, the pictures, the predictions."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from core.stages import after, execute
from core.stages.posts import results
from core.tracking import stage as stages
from core.tracking.recorder import Recorder
from core.tracking.run import command_line
from core.tracking.store import scratch

MODELS = {
    **{"train": "trained", "retrain": "retrained on bad cases", "reference": "n-gram reference"},
    **{"blend": "blend with n-grams", "towers": "towers alone"},
}
SCORES = ("accuracy", "macro_f1")
# Stage: its pictures.
PICTURES = {
    "train": ("plots/curves.png", "evaluation/test/confusion.png", "evaluation/test/reliability.png"),
    "head variants": ("comparison/bars.png",),
    "cleaning rules": ("comparison/bars.png",),
    "robustness": ("robustness/robustness.png",),
    "mine": ("bad_cases/bad_cases.png", "bad_cases/oof_reliability.png"),
    "retrain": ("plots/curves.png", "evaluation/test/confusion.png", "evaluation/test/reliability.png"),
    "compare with baseline": ("comparison/comparison.png",),
    "error analysis": ("error_analysis/error_rates.png",),
}


def publish(pipeline: Any) -> dict[str, Any]:
    """Store summary and predictions on the pipeline's run; then its pictures and its description; print the result; return the summary.

    Where an earlier run of the same stages has stored its summary, what is left of the rest is done there.
    """
    run, key = pipeline.run_, pipeline.key()
    job = execute.Job(key, lambda opened, unfinished: _publish(pipeline, opened, key, unfinished))
    return execute.command(job, run, reuse=False)


def _publish(pipeline: Any, run: Recorder, key: str, unfinished: after.Unfinished | None) -> dict[str, Any]:
    summary, folder = summarise(pipeline), scratch("posts-pipeline")
    if unfinished is not None:  # what has been made before belongs into output_dir too
        for name in unfinished.finished.manifest:
            _copy(unfinished.finished.folder / name, folder / name)
    run.metrics(summary["best_metrics"], 0)

    def pictures(_summary: Any) -> None:
        for name, found in PICTURES.items():
            for picture in found if name in pipeline.made else ():
                source = pipeline.made[name].folder / picture
                if source.is_file():
                    _copy(source, folder / "plots" / f"{name.replace(' ', '_')}_{source.name}")

    def copies(_summary: Any) -> None:
        target = results.require_folder(pipeline.config.output_dir)
        if target is not None:
            results.copy_tree(folder, target)

    copied = {"output_dir": copies} if pipeline.config.output_dir else {}
    steps = after.Steps({"pictures": pictures, **copied}, lambda found: _say(pipeline, run, found), always=tuple(copied))
    try:
        _copy(pipeline.made["predict"].folder / "predictions" / "test_with_label.txt", folder / "predictions" / "test_with_label.txt")
        return after.settle(after.published(run, folder, summary, {stages.KEY_TAG: key}, steps, unfinished), steps)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def summarise(pipeline: Any) -> dict[str, Any]:
    """Return the pipeline's result as JSON-ready values."""
    made = {name: finished.summary for name, finished in pipeline.made.items()}
    models = {name: _scores(made[name]["best_metrics"]) for name in MODELS if name in made}
    merged, compared = made["merge"], made["compare with baseline"]
    shown = {
        f"{name}/{part}_{score}": values[0]
        for name, parts in models.items()
        for part, found in parts.items()
        for score, values in found.items()
    }
    return {
        "epoch": 0,
        "best_metrics": shown,
        "models": models,
        "chosen": next(name for name in models if made["predict"]["weights"].endswith(pipeline.made[name].run_id)),
        "verdict": compared["verdict"],
        "metric": compared["metric"],
        "difference": compared["differences"][compared["metric"]],
        "mcnemar_p": compared["mcnemar"]["p_value"],
        "comparisons": {name: made[name]["rows"] for name in ("head variants", "cleaning rules") if name in made},
        "robustness": made["robustness"]["summary"],
        "bad_cases": {name: made["mine"][name] for name in ("posts", "bad_cases", "wrong", "only_low_confidence")},
        "train_aug": {"by_origin": merged["by_origin"], "dropped": merged["dropped"]},
        "predicted": made["predict"]["tags"],
        "stages": {name: finished.run_id for name, finished in pipeline.made.items()},
    }


def _scores(metrics: dict[str, float]) -> dict[str, dict[str, list[float]]]:
    """Return part -> score -> [value, low, high]."""
    return {
        part: {name: [metrics[f"best/{part}/{name}{end}"] for end in ("", "_low", "_high")] for name in SCORES} for part in ("val", "test")
    }


def markdown(summary: dict[str, Any]) -> str:
    """Return the result as the run's description."""
    lines = ["| model | validation accuracy | validation macro-F1 | test accuracy | test macro-F1 |", "|---|---|---|---|---|"]
    for name, parts in summary["models"].items():
        mark = " (predicts)" if name == summary["chosen"] else ""
        cells = [_cell(parts[part][score]) for part in ("val", "test") for score in SCORES]
        lines.append(f"| {MODELS[name]}{mark} | " + " | ".join(cells) + " |")
    for title, rows in summary["comparisons"].items():
        lines += ["", f"| {title} | accuracy | macro-F1 |", "|---|---|---|"]
        lines += [f"| {row['name']} | {_cell(row['accuracy'])} | {_cell(row['macro_f1'])} |" for row in rows]
    return "\n".join([*lines, "", verdict(summary)])


def verdict(summary: dict[str, Any]) -> str:
    """Return what hardening did, in one sentence."""
    d = summary["difference"]
    said = {"better": "better", "worse": "worse", "no difference shown": "no difference shown"}[summary["verdict"]]
    return (
        f"Retrained against trained, on the untouched test posts, {summary['metric'].replace('_', ' ')}: {said} "
        f"({d['value']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}], McNemar p = {summary['mcnemar_p']:.3g})."
    )


def _cell(values: list[float]) -> str:
    return f"{values[0]:.3f} ({values[1]:.3f}-{values[2]:.3f})"


def _say(pipeline: Any, run: Recorder, summary: dict[str, Any]) -> str:
    """Print the result; return it as the run's description."""
    print(f"\n{'':28s}{'validation accuracy, macro-F1':>44s}{'test accuracy, macro-F1':>44s}")
    for name, parts in summary["models"].items():
        mark = "*" if name == summary["chosen"] else " "
        print(
            f"{mark} {MODELS[name]:26s}"
            + "".join("".join(f"{_cell(parts[part][score]):>22s}" for score in SCORES) for part in ("val", "test"))
        )
    print(f"{verdict(summary)}\n* predicts: " + ", ".join(f"{tag} {count}" for tag, count in summary["predicted"].items()))
    print(f"run {run.run_id}; look at it: {run.page}")
    sys.stdout.flush()
    command = command_line("posts_pipeline")
    return f"{markdown(summary)}\n\nPictures: `plots/`. Predictions: `predictions/`.\nRepeat: `{command}`"
