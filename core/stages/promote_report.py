"""What a promotion says: on the terminal, on its run, as JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from core.evaluation.compare import Interval
from core.stages.held_out import NAMED
from core.tracking.versions import Version


@dataclass(frozen=True)
class Decision:
    """What a comparison came to.

    champion, of_champion and gain are None where there is no champion; gain is candidate - champion, its interval for all `looked_at`
    candidates among which this one was found.
    """

    candidate: Version
    champion: Version | None
    of_candidate: Interval
    of_champion: Interval | None
    gain: Interval | None
    better: bool
    why: str
    looked_at: int


def report(promotion: Any, decision: Decision) -> dict[str, Any]:
    """Show the decision of a promotion (core.stages.promote.Promotion) on the terminal and on its run; return it."""
    dry, run, name, metric = promotion.config.dry_run, promotion.tracked, promotion.name, promotion.metric
    verb = ("would be promoted" if dry else "promoted") if decision.better else "not promoted"
    categories = {who: promotion.met[version.number].categories for who, version in _contestants(decision) if version is not None}
    found = {
        "model": name,
        "metric": metric,
        "part": promotion.part,
        "rule": promotion.config.rule,
        "items": len(promotion.items),
        "looked_at": decision.looked_at,
        "promoted": decision.better and not dry,
        "why": decision.why,
        "notices": promotion.notices,
        "categories": categories,
        **{part: _json(getattr(decision, part)) for part in ("candidate", "champion", "of_candidate", "of_champion", "gain")},
    }
    run.json(found, "promotion.json")
    run.metrics(_metrics(decision) | _of_categories(categories), 0)
    said = {"taxon.promoted": str(found["promoted"]).lower(), "taxon.promotion": f"{verb}: {decision.why}", "taxon.model": name}
    run.tags(said | ({"taxon.notices": "; ".join(promotion.notices)} if promotion.notices else {}))
    rows = _rows(decision, categories)
    head = [f"**{name}**: version {decision.candidate.number} {verb}.", ""]
    run.note("\n".join([*head, *_markdown(rows, metric), "", decision.why, *(f"\n{notice}" for notice in promotion.notices)]))
    print(f"{name}: {metric} on {len(promotion.items)} {NAMED[promotion.part]} items")
    print("\n".join(f"  {title:28s} {value}" for title, value in rows))
    print(f"version {decision.candidate.number} {verb}: {decision.why}")
    return found


def shown(interval: Interval) -> str:
    """Return `0.8120 (0.7700 to 0.8510)`."""
    return f"{interval.value:.4f} ({interval.low:.4f} to {interval.high:.4f})"


def _contestants(decision: Decision) -> tuple[tuple[str, Version | None], ...]:
    return ("candidate", decision.candidate), ("champion", decision.champion)


def _json(value: Any) -> Any:
    return value.uri if isinstance(value, Version) else dataclasses.asdict(value) if value is not None else None


def _metrics(decision: Decision) -> dict[str, float]:
    found = {"candidate": decision.of_candidate, "champion": decision.of_champion, "gain": decision.gain}
    return {f"promotion/{name}": interval.value for name, interval in found.items() if interval is not None} | {
        f"promotion/gain_{end}": getattr(decision.gain, end) for end in ("low", "high") if decision.gain is not None
    }


def _of_categories(categories: dict[str, dict[str, float]]) -> dict[str, float]:
    return {f"promotion/{who}_{name}": value for who, values in categories.items() for name, value in values.items()}


def _rows(decision: Decision, categories: dict[str, dict[str, float]]) -> list[tuple[str, str]]:
    rows = [(f"candidate, version {decision.candidate.number}", shown(decision.of_candidate))]
    if decision.champion is not None and decision.of_champion is not None and decision.gain is not None:
        gain = decision.gain
        rows += [(f"champion, version {decision.champion.number}", shown(decision.of_champion))]
        rows += [(f"gain, {100 * gain.level:.4g} % interval", f"{gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})")]
    for prefix, title in (("", "All/Old/New"), ("v2_", "v2 All/Old/New")):
        for who, values in categories.items():
            if values:
                cells = (f"{values[prefix + part]:.3f}" if prefix + part in values else "n/a" for part in ("all", "old", "new"))
                rows.append((f"{who}, {title}", "/".join(cells)))
    return rows


def _markdown(rows: list[tuple[str, str]], metric: str) -> list[str]:
    return [f"| | {metric} (95 % interval) |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
