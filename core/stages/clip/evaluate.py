"""How a SuperCLIP result is shown: the trained model and the lines beside it."""

from __future__ import annotations

from collections.abc import Mapping

from core.data.classification import ClassificationData
from core.stages.clip.baselines import SHOWN
from core.stages.clip.few_shot import SHOTS

LINES = {
    **{"trained": "best", "WiSE-FT": "wise_ft", "linear probe": "linear_probe"},
    **{f"probe of {k} image{'s' if k > 1 else ''} a class": f"few_shot_{k}" for k in SHOTS},
    **{"zero-shot": "zero_shot", "unseen classes": "unseen"},
}


def rows(metrics: Mapping[str, float], part: str) -> dict[str, list[float]]:
    """Return title -> the SHOWN metrics of every line that a part has."""
    return {
        title: [metrics[f"{line}/{part}/{name}"] for name in SHOWN]
        for title, line in LINES.items()
        if f"{line}/{part}/{SHOWN[0]}" in metrics
    }


def table(name: str, metrics: Mapping[str, float], epoch: int) -> str:
    """Return what a training prints at its end."""
    lines = [f"{name}: best epoch {epoch}".ljust(36) + "".join(f"{title.replace('_', ' '):>20s}" for title in SHOWN)]
    for part in ("val", "test"):
        for title, values in rows(metrics, part).items():
            lines.append(f"  {part} {title}".ljust(36) + "".join(f"{value:>20.3f}" for value in values))
    return "\n".join(lines)


def note(data: ClassificationData, metrics: Mapping[str, float], epoch: int, model: str) -> str:
    """Return the description shown at the top of the run's page, as Markdown."""
    lines = ["| part | model | " + " | ".join(title.replace("_", " ") for title in SHOWN) + " |", "|---|---|" + "---|" * len(SHOWN)]
    for part in ("val", "test"):
        lines += [f"| {part} | {title} | {' | '.join(f'{v:.3f}' for v in values)} |" for title, values in rows(metrics, part).items()]
    counts = data.class_counts
    about = f"**{data.name}**: {len(data.train)} training images, {len(counts)} classes, {counts.max()} down to {counts.min()} images."
    pictures = "Pictures: `evaluation/` (per_class.png, confusion.png, reliability.png, worst_mistakes.png), `plots/curves.png`."
    registered = f"Registered as `{model}`. " if model else ""
    return "\n".join([about, "", *lines, "", f"Best epoch {epoch}. {registered}{pictures}"])
