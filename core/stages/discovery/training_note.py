"""What stands at the top of a training's page: its figures at the start, at the end and at the best epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.evaluation.discovery import BY_CLASSIFIER, of_answer
from core.stages.discovery.config import TrainConfig
from core.stages.discovery.materials import Materials


def markdown(config: TrainConfig, m: Materials, history: Sequence[Any], best: int) -> str:
    """Return the description of a training with the (epoch, metrics) of `history`, epoch 0 first, as Markdown; `best` is an epoch."""
    by = config.answers_by if config.labels == "given" else "classifier"
    shown = {epoch: of_answer(metrics, by) for epoch, metrics in history}
    last = history[-1][0]
    rows = {"frozen features": (0, shown[0]), "last epoch": (last, shown[last]), "best epoch": (best, shown[best])}
    asked = ("unlabelled", "test") if config.labels == "given" else ("test",)  # a ceiling has learnt the classes of the others
    judged = [where for where in asked if f"{where}/v2_all" in shown[last]]  # nobody knows the rest
    columns = [f"{where} All / Old / New" for where in judged] + ["held-out Old", "classes", "silhouette"]
    lines = [f"| epoch | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name, (epoch, metrics) in rows.items():
        cells = [" / ".join(_figure(metrics, f"{where}/v2_{part}") for part in ("all", "old", "new")) for where in judged]
        found = f"{metrics['n_clusters']:.0f}" if "n_clusters" in metrics else "n/a"
        told = [_figure(metrics, "val/accuracy_old"), found, _figure(metrics, "selection/silhouette")]
        lines.append(f"| {name} ({epoch}) | {' | '.join([*cells, *told])} |")
    about = f"**{m.data.name}**: {config.model_name}, {len(m.split.labelled)} labelled and {len(m.split.unlabelled)} unlabelled images."
    files = "Picture: `plots/curves.png`; best checkpoint: see the tag `taxon.best_checkpoint`."
    answers = f"Figures of who answers (answers_by = {by}). " if f"{BY_CLASSIFIER}val/accuracy_old" in history[-1][1] else ""
    return "\n".join([about, "", *lines, "", f"{answers}Best by {config.select_by}. {files}"])


def _figure(metrics: dict[str, float], name: str) -> str:
    return f"{metrics[name]:.3f}" if name in metrics else "n/a"
