"""Promotion: a candidate becomes champion only if its served answers are better on data that neither model has trained on.

Both models are loaded as their server would load them and asked about the candidate's held-out part. The test part stays out of it.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError, nearest
from core.evaluation.compare import Interval, bootstrap_interval, paired_bootstrap
from core.stages import held_out
from core.stages.held_out import HeldOut
from core.stages.promote_config import PromoteConfig
from core.tracking import ask, registry, versions
from core.tracking.store import machine_lock, scratch
from core.tracking.versions import CHAMPION, Version

ENTRY_POINT = "promote"
ROUNDING = 1e-9  # a mean of other recalls in another order differs by less, a right answer more by far more


@dataclass(frozen=True)
class Contestant:
    """A version, what was recorded of it at registration, and its answers (class names) on the held-out items."""

    version: Version
    evaluation: registry.Evaluation
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Decision:
    """What a comparison came to. champion, of_champion and gain are None where there is no champion; gain is candidate - champion."""

    candidate: Version
    champion: Version | None
    of_candidate: Interval
    of_champion: Interval | None
    gain: Interval | None
    better: bool
    why: str


def run(config: PromoteConfig, run: Any) -> dict[str, Any]:
    """Run `promote`; return the decision as JSON-ready values."""
    _check(config)
    name = _name(config)
    versions.require_name(run.client, name)
    folder = scratch("promote")
    try:
        promotion = Promotion(config, run, name, folder)
        decision = promotion.run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return promotion.report(decision)


class Promotion:
    """One promotion: reads the registry again before it changes anything, for another promotion may run at the same time."""

    def __init__(self, config: PromoteConfig, run: Any, name: str, folder: Path):
        self.config, self.tracked, self.client, self.name, self.folder = config, run, run.client, name, folder
        self.met: dict[str, Contestant] = {}
        self.notices: list[str] = []
        self.items: HeldOut | None = None
        self.metric: str = config.metric

    def run(self) -> Decision:
        """Compare, and move the alias if the candidate is better; repeat where the champion has changed meanwhile."""
        before = versions.promotions(self.client, self.name)
        version = self.choose()
        self.refuse(version)
        candidate = self.contestant(version)
        while True:
            champion = self.champion()
            decision = self.decide(candidate, self.contestant(champion) if champion else None)
            if champion == version:  # asked again, or another promotion has just done it
                return dataclasses.replace(decision, why=f"it is the champion already, {decision.why}")
            with machine_lock(f"promote {self.name}"):
                if self.champion() != champion:
                    continue
                self.record(decision)
            return self.meet_rivals(decision, before) if decision.better and not self.config.dry_run else decision

    def choose(self) -> Version:
        """Return the version that `candidate` means: empty = the best recorded one that may be compared with the champion."""
        if self.config.candidate:
            return versions.find(self.client, self.name, self.config.candidate)
        champion = self.champion()
        known = [v for v in versions.all_versions(self.client, self.name) if v != champion and "taxon.evaluated_on" in v.tags]
        known = [v for v in known if versions.finished(self.client, v) and not versions.chosen_by_oracle(self.client, v)]
        standard = champion or (known[-1] if known else None)
        if standard is not None:
            known = [v for v in known if v.tags["taxon.evaluated_on"] == standard.tags.get("taxon.evaluated_on")]
            metric = self.config.metric or standard.tags.get("taxon.metric", "")
            known = [v for v in known if math.isfinite(v.score(metric))]
        if not known:
            besides = " besides its champion" if champion else ""
            alike = ", evaluated on the champion's data" if champion else ""
            raise UserError(
                f"{self.name} has no version{besides} that can be promoted (of a finished run, not selected by oracle, with finite "
                f"metrics{alike}); name a candidate or train one"
            )
        return max(known, key=lambda v: (v.score(metric), int(v.number)))

    def refuse(self, version: Version) -> None:
        """Raise UserError for a candidate whose record alone says that it cannot be promoted."""
        if versions.chosen_by_oracle(self.client, version):
            raise UserError(
                f"{version} was selected by oracle, with the truth of what is to be discovered; train with select_by = last, val or score"
            )
        for tag, value in version.tags.items():
            if tag.startswith("taxon.held_out.") and not math.isfinite(version.score(tag.removeprefix("taxon.held_out."))):
                raise UserError(
                    f"{version} was registered with {tag.removeprefix('taxon.held_out.')} = {value}, which is not finite; train it again"
                )

    def champion(self) -> Version | None:
        """Return the champion as it is now; say once where a deleted version holds the alias."""
        found, why = versions.aliased(self.client, self.name, CHAMPION)
        if "deleted" in why and why not in self.notices:
            self.notices.append(why)
            print(f"taxon: {why}")
        return found

    def contestant(self, version: Version) -> Contestant:
        """Fetch, verify and ask a version; each only once."""
        if version.number not in self.met:
            place = self.folder / version.number
            place.mkdir()
            fetched = versions.fetch(version, place)
            evaluation = versions.evaluation(version, fetched)
            if self.items is None:
                self.items = self.load_items(version, evaluation)
                self.metric = self.metric or evaluation.metric
            else:
                self.require_fair(version, evaluation)
            self.met[version.number] = Contestant(version, evaluation, self.ask(version, fetched))
            shutil.rmtree(place, ignore_errors=True)
        return self.met[version.number]

    def load_items(self, version: Version, evaluation: registry.Evaluation) -> HeldOut:
        """Return the items that the candidate was evaluated on; raise UserError when those given are others."""
        if evaluation.family not in held_out.FAMILIES:
            raise UserError(f"{version} is of the family '{evaluation.family}', which this version of the project does not know")
        options = evaluation.options | _overrides(self.config, evaluation.options)
        items = held_out.load(evaluation.family, options)
        if items.digest != evaluation.data:
            where = ", ".join(
                f"{name} = '{options[name]}'" for name in ("data_root", "data_dir", "val_dir", "val_meta", "val_csv") if options.get(name)
            )
            raise UserError(
                f"the {len(items)} held-out items of {where or 'the data options'} are not those that {version} was evaluated on; "
                "say where these lie (data_root, data_options)"
            )
        return items

    def require_fair(self, version: Version, evaluation: registry.Evaluation) -> None:
        """Raise UserError unless the version, which is met after the candidate, can be compared with it on the candidate's items."""
        (first, *_) = self.met.values()
        if evaluation.family != first.evaluation.family:
            raise UserError(
                f"{first.version} is of the family {first.evaluation.family}, {version} of {evaluation.family}: they are not compared"
            )
        overlap = self.items.known_to(evaluation.trained)
        if evaluation.data != first.evaluation.data and overlap:
            raise UserError(
                f"{first.version} was evaluated on other data than {version}, which has trained on {overlap} of these {len(self.items)} "
                "items; train the candidate on the champion's split (its seed and data options)"
            )

    def ask(self, version: Version, folder: Path) -> tuple[str, ...]:
        """Return the version's answers, class names; raise UserError for one that is not finite."""
        answers = ask.answers(folder, self.items.rows(), str(version))
        for i, answer in enumerate(answers):
            wrong = [key for key, value in answer.items() if isinstance(value, float) and not math.isfinite(value)]
            if wrong:
                raise UserError(
                    f"{version} answers held-out item {i} with {wrong[0]} = {answer[wrong[0]]}; its weights are useless, train it again"
                )
        return tuple(answer["class"] for answer in answers)

    def decide(self, candidate: Contestant, champion: Contestant | None) -> Decision:
        """Compare on the same items; without a champion the candidate is better than nothing."""
        labels, mine, theirs = held_out.codes(self.items.labels, candidate.answers, (champion or candidate).answers)
        settings = {"metric": self.metric, "n": self.config.n_bootstrap, "seed": self.config.seed}
        own = bootstrap_interval(labels, mine, **settings)
        said = f"{self.metric} {_shown(own)} on {len(labels)} held-out items"
        if champion is None:
            return Decision(candidate.version, None, own, None, None, True, f"{said}; there was no champion to compare with")
        gain = paired_bootstrap(labels, theirs, mine, **settings)
        better = gain.value > self.config.min_gain + ROUNDING
        other = bootstrap_interval(labels, theirs, **settings)
        why = (
            f"{said} against {_shown(other)} of version {champion.version.number}: gain {gain.value:+.4f} "
            f"(95 % interval {gain.low:+.4f} to {gain.high:+.4f}) is {'' if better else 'not '}more than min_gain {self.config.min_gain:g}"
        )
        return Decision(candidate.version, champion.version, own, other, gain, better, why)

    def record(self, decision: Decision) -> None:
        """Carry a decision out in the registry, but for a dry run."""
        if self.config.dry_run:
            return
        if decision.better:
            why = f"promoted: {decision.why}; run {self.tracked.run_id}"
            versions.move_champion(self.client, decision.candidate, self.tracked.run_id, why)
        else:
            with versions.registry_named(str(decision.candidate)):
                versions.explain(self.client, decision.candidate, f"not promoted: {decision.why}; run {self.tracked.run_id}")

    def meet_rivals(self, decision: Decision, before: dict[str, str]) -> Decision:
        """Compare with versions that other machines, which do not share the lock, promoted meanwhile; the better one is left as champion.

        Everyone tags its version before moving the alias and looks at the tags afterwards: whoever moved it last sees all others.
        """
        now = versions.promotions(self.client, self.name)
        rivals = [number for number, by in now.items() if before.get(number) != by and number not in self.met]
        for number in rivals:
            if self.champion() != decision.candidate:
                return decision  # whoever replaced it has compared with it
            rival = self.contestant(versions.find(self.client, self.name, number))
            against = self.decide(rival, self.met[decision.candidate.number])
            if against.better:
                why = f"promoted at the same time as version {decision.candidate.number}: {against.why}; run {self.tracked.run_id}"
                versions.move_champion(self.client, rival.version, now[number], why)
                return self.decide(self.met[decision.candidate.number], rival)
        return decision

    def report(self, decision: Decision) -> dict[str, Any]:
        """Show the decision on the terminal and on the run; return it."""
        dry = self.config.dry_run
        verb = ("would be promoted" if dry else "promoted") if decision.better else "not promoted"
        found = {
            "model": self.name,
            "metric": self.metric,
            "items": len(self.items),
            "promoted": decision.better and not dry,
            "why": decision.why,
            "notices": self.notices,
            **{name: _json(getattr(decision, name)) for name in ("candidate", "champion", "of_candidate", "of_champion", "gain")},
        }
        self.tracked.json(found, "promotion.json")
        self.tracked.metrics(_metrics(decision), 0)
        self.tracked.tags(
            {"taxon.promoted": str(found["promoted"]).lower(), "taxon.promotion": f"{verb}: {decision.why}", "taxon.model": self.name}
        )
        rows = _rows(decision)
        self.tracked.note(
            "\n".join(
                [f"**{self.name}**: version {decision.candidate.number} {verb}.", "", *_markdown(rows, self.metric), "", decision.why]
            )
        )
        print(f"{self.name}: {self.metric} on {len(self.items)} held-out items")
        print("\n".join(f"  {name:24s} {value}" for name, value in rows))
        print(f"version {decision.candidate.number} {verb}: {decision.why}")
        return found


def _check(config: PromoteConfig) -> None:
    if not 0 <= config.min_gain < 1:
        raise UserError(f"min_gain = {config.min_gain} is outside 0..1; give the share by which a candidate has to be better")
    if config.n_bootstrap < 1:
        raise UserError(f"n_bootstrap = {config.n_bootstrap}; use 1 resample or more")
    if config.seed < 0:
        raise UserError(f"seed = {config.seed}; it must be 0 or more")


def _name(config: PromoteConfig) -> str:
    if config.name and (config.family or config.data):
        raise UserError("name and family/data both say which model is meant; give one of them")
    if not config.name and not (config.family and (config.data or config.family == "posts")):
        raise UserError("which model? give name (e.g. taxon-discovery-digits), or family and data (posts: family alone)")
    return config.name or registry.model_name(config.family, config.data)


def _overrides(config: PromoteConfig, options: dict[str, Any]) -> dict[str, str]:
    """Return the data options that `config` says are others now; raise UserError for one that the candidate's training did not have."""
    given = {"data_root": config.data_root} if config.data_root else {}
    for word in filter(None, config.data_options.split(",")):
        name, equals, value = word.strip().partition("=")
        if not equals:
            raise UserError(f"data_options = '{config.data_options}': '{word}' is no <option>=<value>")
        given[name] = value
    for name in given:
        if name not in options or not isinstance(options[name], str):
            places = [known for known, value in options.items() if isinstance(value, str)]
            raise UserError(
                f"data_options: '{name}' is no place of the candidate's data{nearest(name, places)} (one of {', '.join(places)})"
            )
    return given


def _shown(interval: Interval) -> str:
    return f"{interval.value:.4f} ({interval.low:.4f} to {interval.high:.4f})"


def _negated(interval: Interval) -> Interval:
    return Interval(-interval.value, -interval.high, -interval.low, interval.level)


def _json(value: Any) -> Any:
    return value.uri if isinstance(value, Version) else dataclasses.asdict(value) if value is not None else None


def _metrics(decision: Decision) -> dict[str, float]:
    found = {"candidate": decision.of_candidate, "champion": decision.of_champion, "gain": decision.gain}
    return {f"promotion/{name}": interval.value for name, interval in found.items() if interval is not None} | {
        f"promotion/gain_{end}": getattr(decision.gain, end) for end in ("low", "high") if decision.gain is not None
    }


def _rows(decision: Decision) -> list[tuple[str, str]]:
    rows = [(f"candidate, version {decision.candidate.number}", _shown(decision.of_candidate))]
    if decision.champion is not None:
        rows += [(f"champion, version {decision.champion.number}", _shown(decision.of_champion))]
        gain = decision.gain
        rows += [("gain", f"{gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})")]
    return rows


def _markdown(rows: list[tuple[str, str]], metric: str) -> list[str]:
    return [f"| | {metric} (95 % interval) |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
