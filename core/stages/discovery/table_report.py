"""What a table of arms says: figures by superclass, paired differences with intervals, and a figure of both."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from core.evaluation.paired import Difference, Figures, difference
from core.plots import arm_figures, figure
from core.stages.discovery.arms import ARMS, FROZEN, Arm
from core.tracking.stage import Finished

WHERE = {"unlabelled": "unlabelled training images", "test": "test images"}
PARTS = ("all", "old", "new")
ARGMAX = ", argmax"  # after an arm's name: figures of the classifier's own answers


def short(finished: Finished) -> str:
    """Return a cell's figures for a terminal line."""
    metrics, said = finished.summary["metrics"], []
    arm = ARMS[finished.summary["arm"]]
    for where in WHERE:
        prefix = f"{arm.answers[0]}{where}/v2_"
        if f"{prefix}all" in metrics and _may_show(where, arm):
            said.append(f"{where} " + "/".join(_number(metrics.get(f"{prefix}{part}")) for part in PARTS))
    return ", ".join(said)


def _may_show(where: str, arm: Arm) -> bool:
    """Say whether figures are the arm's own: a ceiling has learnt the classes of the unlabelled images."""
    return not (arm.oracle and where == "unlabelled")


class Table:
    """Figures of the arms as they come in.

    Args:
        chosen: superclasses that served for choosing: shown apart, in no mean.
        against: the arm that the others are compared with.
    """

    def __init__(self, chosen: Iterable[str], against: str):
        self.chosen, self.against = tuple(chosen), against
        self.rows: list[dict[str, Any]] = []

    def add(self, superclass: str, seed: int, arm: str, summary: dict[str, Any]) -> None:
        """Take in the figures of a trained arm, one row an answer and set of images."""
        metrics = summary["history"][0][1] if arm == FROZEN else summary["metrics"]
        for prefix in ARMS[arm].answers:
            name = arm + ARGMAX if prefix and len(ARMS[arm].answers) > 1 else arm
            for where in WHERE:
                if f"{prefix}{where}/v2_all" not in metrics or not _may_show(where, ARMS[arm]):
                    continue  # nobody knows, or it has learnt these very labels
                found = {part: metrics.get(f"{prefix}{where}/v2_{part}") for part in PARTS}
                self.rows.append({"superclass": superclass, "seed": seed, "arm": name, "images": where, **found})

    @property
    def names(self) -> list[str]:
        """The arms that have figures, in order."""
        return list(dict.fromkeys(row["arm"] for row in sorted(self.rows, key=lambda row: _order(row["arm"]))))

    @property
    def superclasses(self) -> list[str]:
        """The superclasses that have figures: those that count, then those that served for choosing."""
        found = list(dict.fromkeys(row["superclass"] for row in self.rows))
        return sorted(found, key=lambda name: name in self.chosen)

    def figures(self, arm: str, where: str, part: str, chosen: bool = False) -> Figures:
        """Return an arm's figures by (superclass, seed), of superclasses that did not serve for choosing (or of those that did)."""
        return {
            (row["superclass"], row["seed"]): row[part]
            for row in self.rows
            if row["arm"] == arm and row["images"] == where and row[part] is not None and (row["superclass"] in self.chosen) == chosen
        }

    def mean(self, superclass: str, arm: str, where: str, part: str) -> float | None:
        """Return the mean over seeds, None where there is no figure."""
        values = [v for (name, _s), v in self.figures(arm, where, part, superclass in self.chosen).items() if name == superclass]
        return float(np.mean(values)) if values else None

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Which arms are compared with which: all with `against`, those with pseudo labels with themselves without, all with the peer."""
        names = self.names
        pairs = [(name, self.against) for name in names if name != self.against]
        more = {name: "+pseudo".join(name.partition(ARGMAX)[::2]) + ARGMAX * (ARGMAX in name) for name in names}
        pairs += [(pseudo, name) for name, pseudo in more.items() if pseudo in names and name != self.against]
        trained = [name for name in names if name.split(ARGMAX)[0] not in (FROZEN, "simgcd", "ceiling")]
        pairs += [(name, "simgcd") for name in trained if "simgcd" in names and name != self.against]
        pairs += [("ceiling", name) for name in trained if "ceiling" in names and name != self.against]
        return list(dict.fromkeys(pairs))

    def differences(self, where: str, part: str) -> dict[tuple[str, str], Difference]:
        """Return the paired differences over the superclasses that count."""
        found = {(one, other): difference(self.figures(one, where, part), self.figures(other, where, part)) for one, other in self.pairs}
        return {pair: gap for pair, gap in found.items() if gap is not None}

    def differences_as_json(self) -> list[dict[str, Any]]:
        """Return all differences as JSON-ready values."""
        return [
            {
                "arm": one,
                "against": other,
                "images": where,
                "part": part,
                "mean": gap.mean,
                "low": _or_none(gap.low),
                "high": _or_none(gap.high),
            }
            | {"superclasses": gap.by_problem, "pairs": gap.n_pairs, "better": gap.better}
            for where in WHERE
            for part in PARTS
            for (one, other), gap in self.differences(where, part).items()
        ]

    def metrics(self) -> dict[str, float]:
        """Return the arms' means over the superclasses that count as metrics of the table's run."""
        found = {}
        for where in WHERE:
            for part in PARTS:
                for name in self.names:
                    mean = self.mean_of([s for s in self.superclasses if s not in self.chosen], name, where, part)
                    if mean is not None:
                        found[f"{where}/v2_{part}/{_slug(name)}"] = mean
        return found

    def mean_of(self, superclasses: list[str], arm: str, where: str, part: str) -> float | None:
        """Return the mean over superclasses of their means over seeds; None where one of them has no figure, or there are none."""
        values = [self.mean(superclass, arm, where, part) for superclass in superclasses]
        told = [value for value in values if value is not None]
        return float(np.mean(told)) if told and len(told) == len(values) else None

    def markdown(self) -> str:
        """Return both tables and the differences as Markdown."""
        parts = [self._table(where) for where in WHERE if any(row["images"] == where for row in self.rows)]
        counted = any(name not in self.chosen for name in self.superclasses)
        gaps = self._gaps() if counted else "All of them served for choosing (chosen_on): there is no mean, and no difference, to report."
        return "\n\n".join([*parts, gaps, self._legend()]) + "\n"

    def _legend(self) -> str:
        arms = list(dict.fromkeys(name.split(ARGMAX)[0] for name in self.names))
        argmax = [f"{ARGMAX.strip(', ')} = the classifier's own answers, else k-means of the features"]
        said = [f"{arm} = {ARMS[arm].says}" for arm in arms] + argmax * any(ARGMAX in name for name in self.names)
        return "; ".join(said) + "."

    def _table(self, where: str) -> str:
        names = [name for name in self.names if any(row["arm"] == name and row["images"] == where for row in self.rows)]
        seeds = len({row["seed"] for row in self.rows})
        lines = [f"| {WHERE[where]}, v2 All/Old/New, mean of {seeds} seed{'s' * (seeds > 1)} | {' | '.join(names)} |"]
        lines.append("|---" * (len(names) + 1) + "|")
        counted = [name for name in self.superclasses if name not in self.chosen]
        lines += [self._line(name, [name], names, where) for name in counted]
        if len(counted) > 1:
            lines.append(self._line(f"**mean of {len(counted)}**", counted, names, where))
        lines += [self._line(f"*{name}* (chosen on)", [name], names, where) for name in self.superclasses if name in self.chosen]
        return "\n".join(lines)

    def _line(self, title: str, superclasses: list[str], names: list[str], where: str) -> str:
        cells = ["/".join(_number(self.mean_of(superclasses, name, where, part)) for part in PARTS) for name in names]
        return f"| {title} | {' | '.join(cells)} |"

    def _gaps(self) -> str:
        columns = [(where, part) for where in WHERE for part in PARTS]
        found = {column: self.differences(*column) for column in columns}
        lines = [
            "Paired differences, mean over superclasses [95 % interval over them, of a single one over its seeds], in how many it is > 0:",
            "",
            f"| | {' | '.join(f'{where} {part.capitalize()}' for where, part in columns)} |",
            "|---" * (len(columns) + 1) + "|",
        ]
        for one, other in self.pairs:
            cells = [_gap(found[column].get((one, other))) for column in columns]
            if any(cells):
                lines.append(f"| {one} - {other} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """Write table/figures.csv and table/table.md."""
        place = folder / "table"
        place.mkdir(parents=True)
        with (place / "figures.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["superclass", "seed", "arm", "images", *PARTS])
            writer.writeheader()
            writer.writerows(self.rows)
        (place / "table.md").write_text(self.markdown(), encoding="utf-8")

    def draw(self, folder: Path) -> None:
        """Draw `folder`/arms.png, where there is a New figure to draw."""
        folder.mkdir(parents=True, exist_ok=True)
        where = "unlabelled" if any(row["images"] == "unlabelled" for row in self.rows) else "test"
        new = {name: {s: self.mean(s, name, "test", "new") for s in self.superclasses} for name in self.names}
        gaps = {
            part: {one: gap for (one, other), gap in self.differences(where, part).items() if other == self.against}
            for part in ("all", "new")
        }
        if any(value is not None for found in new.values() for value in found.values()):
            figure.save(arm_figures.arm_figures(new, self.chosen, gaps, self.against, WHERE[where]), folder / "arms.png")


def _order(name: str) -> tuple[int, str]:
    return list(ARMS).index(name.split(ARGMAX)[0]), name


def _slug(name: str) -> str:
    return name.replace(ARGMAX, "_argmax").replace("+", "_")


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def _gap(gap: Difference | None) -> str:
    if gap is None:
        return ""
    interval = "" if np.isnan(gap.low) else f" [{gap.low:+.3f}, {gap.high:+.3f}]"
    return f"{gap.mean:+.3f}{interval}, {gap.better} of {gap.n_problems}"
