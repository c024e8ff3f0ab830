"""Promotion: a candidate becomes champion only if its served answers are surely better on items that neither model has trained on.

Both models are loaded as their server would load them and asked about the candidate's test part, which has chosen nothing before, or
about its validation part where there is none. What decides is `core.evaluation.gain`.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import check_limits
from core.errors import UserError, nearest
from core.evaluation import gain
from core.evaluation.compare import bootstrap_interval
from core.stages import catalog, held_out, judged, promote_report
from core.stages.held_out import HeldOut
from core.stages.promote_config import PromoteConfig
from core.stages.promote_report import Decision, shown
from core.tracking import ask, identity, registry, versions
from core.tracking.identity import Identity
from core.tracking.patience import Client
from core.tracking.recorder import Recorder
from core.tracking.store import machine_lock, scratch
from core.tracking.versions import CHAMPION, Version

ENTRY_POINT = "promote"
PLACES = ("data_root", "data_dir", "val_dir", "val_meta", "val_csv", "test_dir", "test_meta", "test_csv")


@dataclass(frozen=True)
class Contestant:
    """A version, what was recorded of it at registration, and its answers to the held-out items.

    identity: None for a version that an older project registered. answers: class names. categories: of discovery All, Old, New.
    """

    version: Version
    evaluation: registry.Evaluation
    answers: tuple[str, ...]
    identity: Identity | None = None
    categories: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Looked:
    """Among how many candidates one was found, and which these are, in words."""

    count: int = 1
    which: str = ""


def run(config: PromoteConfig, run: Recorder) -> dict[str, Any]:
    """Run `promote`; return the decision as JSON-ready values."""
    check_limits(config)
    client = Client()
    name = _name(config, client)
    versions.require_name(client, name)
    folder = scratch("promote")
    try:
        promotion = Promotion(config, run, client, name, folder)
        decision = promotion.run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return promote_report.report(promotion, decision)


class Promotion:
    """One promotion: reads the registry again before it changes anything, for another promotion may run at the same time."""

    def __init__(self, config: PromoteConfig, run: Recorder, client: Client, name: str, folder: Path):
        self.config, self.tracked, self.client, self.name, self.folder = config, run, client, name, folder
        self.met: dict[str, Contestant] = {}
        self.notices: list[str] = []
        self._items: HeldOut | None = None
        self.metric: str = config.metric
        self.part: str = config.part
        self.looked = Looked()
        self.newest = "0"

    @property
    def items(self) -> HeldOut:
        """The items that decide, read with the candidate."""
        if self._items is None:
            raise ValueError("no version was met yet, so nothing says which items decide")
        return self._items

    def run(self) -> Decision:
        """Compare, and move the alias if the candidate is better; repeat where the champion has changed meanwhile."""
        there = versions.all_versions(self.client, self.name)
        before, self.newest = versions.promotions(self.client, self.name), there[-1].number if there else "0"
        version = self.choose()
        self.refuse(version)
        if warning := version.tags.get(registry.WARNING_TAG):
            self.notice(f"{version}: {warning}")
        candidate, rule = self.contestant(version), ""
        while True:
            champion = self.champion()
            opponent = self.contestant(champion) if champion else None
            self.looked = self.looked_at(version, champion)
            decision = self.decide(candidate, opponent, rule)
            if champion == version:  # asked again, or another promotion has just done it
                return dataclasses.replace(decision, why=f"it is the champion already, {decision.why}")
            with machine_lock(f"promote {self.name}"):
                if self.champion() != champion:  # a rival was faster: of two that are better than the old one the better one is left
                    rule = "point" if decision.better else rule
                    continue
                self.record(decision)
            return self.meet_rivals(decision, before) if decision.better and not self.config.dry_run else decision

    def choose(self) -> Version:
        """Return the version that `candidate` means: empty = the best recorded one that may be compared with the champion."""
        if self.config.candidate:
            return versions.find(self.client, self.name, self.config.candidate)
        champion = self.champion()
        known = self.comparable(champion)
        if not known:
            besides = " besides its champion" if champion else ""
            alike = ", evaluated on the champion's data" if champion else ""
            raise UserError(
                f"{self.name} has no version{besides} that can be promoted (of a finished run, not selected by oracle, with finite "
                f"metrics{alike}); name a candidate or train one"
            )
        metric = self.config.metric or (champion or known[-1]).tags.get("taxon.metric", "")
        return max(known, key=lambda v: (v.score(metric), int(v.number)))

    def comparable(self, champion: Version | None) -> list[Version]:
        """Return the versions with a finite record on the champion's validation items (without one: on the newest version's).

        Those that came after its promotion, where there are any: the others had their chance.
        """
        known = [v for v in self.promotable(champion) if "taxon.evaluated_on" in v.tags]
        standard = champion or (known[-1] if known else None)
        if standard is not None:
            known = [v for v in known if v.tags["taxon.evaluated_on"] == standard.tags.get("taxon.evaluated_on")]
            metric = self.config.metric or standard.tags.get("taxon.metric", "")
            known = [v for v in known if math.isfinite(v.score(metric))]
        return versions.since_promotion(champion, known) or known

    def promotable(self, champion: Version | None) -> list[Version]:
        """Return the versions beside the champion that come from a finished run and were not selected by oracle."""
        found = [v for v in versions.all_versions(self.client, self.name) if v != champion]
        return [v for v in found if versions.finished(self.client, v) and not versions.chosen_by_oracle(self.client, v)]

    def looked_at(self, version: Version, champion: Version | None) -> Looked:
        """Return among how many candidates this one was found: the versions since the champion's promotion, and trials of its study.

        Trials count where the items are the ones by which the study chose; the test part has seen none of them.
        """
        found = {v.number for v in versions.since_promotion(champion, self.promotable(champion))} | {version.number}
        if not self.config.candidate:
            found |= {v.number for v in self.comparable(champion)}
        words = f"version{'s' * (len(found) > 1)} {', '.join(sorted(found, key=int))}"
        study, trials = versions.study_of(self.client, version)
        if not trials:
            return Looked(len(found), words)
        if self.part == "val":
            return Looked(len(found) + trials - 1, f"{words}; version {version.number} is the best of {trials} trials of study {study}")
        return Looked(len(found), f"{words}; the {trials} trials of study {study} did not see these items")

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
        if "deleted" in why:
            self.notice(why)
        return found

    def contestant(self, version: Version) -> Contestant:
        """Fetch, verify and ask a version; each only once."""
        if version.number not in self.met:
            place = self.folder / version.number
            place.mkdir()
            fetched = versions.fetch(version, place)
            evaluation, stands_for = versions.evaluation(version, fetched), versions.identity(fetched)
            if self._items is None:
                self._items = self.load_items(version, evaluation)
                self.metric = self.metric or evaluation.metric
            else:
                self.require_same_task(version, evaluation, stands_for)
            self.require_unseen(version, evaluation)
            answers = self.ask(version, fetched)
            names = judged.names(self.items, answers)
            found = judged.categories(self.items, answers, names)
            self.met[version.number] = Contestant(version, evaluation, names, stands_for, found)
            shutil.rmtree(place, ignore_errors=True)
        return self.met[version.number]

    def load_items(self, version: Version, evaluation: registry.Evaluation) -> HeldOut:
        """Return the items that decide, of the candidate's data; raise UserError when those given are others."""
        if evaluation.family not in catalog.FAMILIES:
            raise UserError(f"{version} is of the family '{evaluation.family}', which this version of the project does not know")
        self.part = self.part_of(version, evaluation)
        options = evaluation.options | _overrides(self.config, evaluation.options)
        items = held_out.load(evaluation.family, options, self.part)
        if items.digest != (evaluation.test if self.part == "test" else evaluation.data):
            where = ", ".join(f"{name} = '{options[name]}'" for name in PLACES if options.get(name))
            raise UserError(
                f"the {len(items)} {held_out.NAMED[self.part]} items of {where or 'the data options'} are not those of {version}; "
                "say where these lie (data_root, data_options)"
            )
        if evaluation.family == "discovery" and not set(items.novel) & set(items.labels):
            self.notice(
                "known classes alone are judged: the truth of novel ones is in a test part only, and there is none with images of them"
            )
        return items

    def part_of(self, version: Version, evaluation: registry.Evaluation) -> str:
        """Return which part decides; say where it is not one that has chosen nothing before."""
        if self.config.part == "test" and not evaluation.test:
            raise UserError(f"part = test, but {version} was registered without a test part; use part = val")
        part = "test" if evaluation.test and self.config.part != "val" else "val"
        if part == "val":
            why = "part = val" if evaluation.test else f"{version} has no test part"
            self.notice(f"{why}: judged on validation items, which may have chosen epochs and settings too")
        return part

    def notice(self, line: str) -> None:
        """Say a line on the terminal and, later, on the run."""
        if line not in self.notices:
            self.notices.append(line)
            print(f"taxon: {line}")

    def require_same_task(self, version: Version, evaluation: registry.Evaluation, stands_for: Identity | None) -> None:
        """Raise UserError unless the version, which is met after the candidate, is of its family, with its classes, on its data."""
        (first, *_) = self.met.values()
        if evaluation.family != first.evaluation.family:
            raise UserError(
                f"{first.version} is of the family {first.evaluation.family}, {version} of {evaluation.family}: they are not compared"
            )
        if first.identity is None or stands_for is None:
            if evaluation.data != first.evaluation.data:
                older = version if stands_for is None else first.version
                raise UserError(f"{older} was registered by an older version of this project, which recorded no classes; train it again")
        elif apart := first.identity.difference(stands_for):
            raise UserError(
                f"{first.version} and {version} are models of {apart}: they are not compared; train the candidate with the champion's "
                "classes and data"
            )

    def require_unseen(self, version: Version, evaluation: registry.Evaluation) -> None:
        """Raise UserError for a version that has trained on items that decide, itself or in the weights that it started from."""
        overlap = self.items.known_to(evaluation.trained)
        if not overlap:
            return
        part, (first, *_) = held_out.NAMED[self.part], (*self.met.values(), None)
        if first is None:
            raise UserError(
                f"{version} has trained on {overlap} of its {len(self.items)} {part} items, itself or by the weights that it started "
                "from; start from weights that have not seen them"
            )
        raise UserError(
            f"{first.version} was evaluated on other data than {version}, which has trained on {overlap} of these {len(self.items)} {part} "
            "items; train the candidate on the champion's split (its seed and data options)"
        )

    def ask(self, version: Version, folder: Path) -> list[dict[str, Any]]:
        """Return the version's answers; raise UserError for one that is not finite."""
        answers = ask.answers(folder, self.items.rows(), str(version))
        for i, answer in enumerate(answers):
            wrong = [key for key, value in answer.items() if isinstance(value, float) and not math.isfinite(value)]
            if wrong:
                raise UserError(
                    f"{version} answers held-out item {i} with {wrong[0]} = {answer[wrong[0]]}; its weights are useless, train it again"
                )
        return answers

    def decide(self, candidate: Contestant, champion: Contestant | None, rule: str = "") -> Decision:
        """Compare on the same items; without a champion the candidate is better than nothing. rule: another than configured."""
        labels, mine, theirs = held_out.codes(self.items.labels, candidate.answers, (champion or candidate).answers)
        drawn: dict[str, Any] = {"n": self.config.n_bootstrap, "seed": self.config.seed, "groups": self.items.group_ids}
        own = bootstrap_interval(labels, mine, self.metric, **drawn)
        said = f"{self.metric} {shown(own)} on {len(labels)} {held_out.NAMED[self.part]} items"
        if champion is None:
            return Decision(candidate.version, None, own, None, None, True, f"{said}; there was no champion to compare with", 1)
        other = bootstrap_interval(labels, theirs, self.metric, **drawn)
        rule, looked = rule or self.config.rule, self.looked
        found = gain.judge(labels, theirs, mine, self.metric, self.config.min_gain, rule, looked.count, **drawn)
        which = f", {looked.count} candidates looked at: {looked.which}" if looked.which else ""
        interval = f"{100 * found.gain.level:.4g} % interval {found.gain.low:+.4f} to {found.gain.high:+.4f}{which}"
        deciding = "the interval lies" if rule == "interval" else "by rule = point it is"
        why = (
            f"{said} against {shown(other)} of version {champion.version.number}: gain {found.gain.value:+.4f} ({interval}); "
            f"{deciding} {'' if found.better else 'not '}above min_gain {self.config.min_gain:g}"
        )
        return Decision(candidate.version, champion.version, own, other, found.gain, found.better, why, looked.count)

    def record(self, decision: Decision) -> None:
        """Carry a decision out in the registry, but for a dry run."""
        if self.config.dry_run:
            return
        if decision.better:
            why = f"promoted: {decision.why}; run {self.tracked.run_id}"
            versions.move_champion(self.client, decision.candidate, self.tracked.run_id, why, self.newest)
        else:
            with versions.registry_named(str(decision.candidate)):
                versions.explain(self.client, decision.candidate, f"not promoted: {decision.why}; run {self.tracked.run_id}")

    def meet_rivals(self, decision: Decision, before: dict[str, str]) -> Decision:
        """Compare with versions that other machines, which do not share the lock, promoted meanwhile; the better one is left as champion.

        Everyone tags its version before moving the alias and looks at the tags afterwards: whoever moved it last sees all others. All
        of them are better than the old champion; none of them has to be surely better than another one.
        """
        now = versions.promotions(self.client, self.name)
        rivals = [number for number, by in now.items() if before.get(number) != by and number not in self.met]
        for number in rivals:
            if self.champion() != decision.candidate:
                return decision  # whoever replaced it has compared with it
            rival = self.contestant(versions.find(self.client, self.name, number))
            against = self.decide(rival, self.met[decision.candidate.number], "point")
            if against.better:
                why = f"promoted at the same time as version {decision.candidate.number}: {against.why}; run {self.tracked.run_id}"
                versions.move_champion(self.client, rival.version, now[number], why, self.newest)
                return self.decide(self.met[decision.candidate.number], rival, "point")
        return decision


def _name(config: PromoteConfig, client: Client) -> str:
    if config.name and (config.family or config.data):
        raise UserError("name and family/data both say which model is meant; give one of them")
    if not config.name and not (config.family and (config.data or config.family == "posts")):
        raise UserError("which model? give name (e.g. taxon-discovery-digits), or family and data (posts: family alone)")
    if config.name:
        return config.name
    several = identity.names_of(client, registry.model_name(config.family, config.data))
    if len(several) > 1:
        raise UserError(
            f"family = {config.family} and data = {config.data} mean {len(several)} models, of other classes or data: give name, one of "
            f"{', '.join(several)}"
        )
    return several[0]


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
