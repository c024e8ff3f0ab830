"""What a person has decided about the categories of an answer: `clusters.json`, as its page saves it or as somebody has edited it.

An entry a cluster: a name, `merge` (the cluster that it is merged into), `split` with the `names` of its halves, or `drop`. A novel cluster
that keeps its number, or has no name, is undecided. A labelled class keeps its name unless it is given another one, or merged.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.data.class_names import MISSING, is_text, plain
from core.data.images import SHOWN
from core.errors import UserError, nearest
from core.evaluation.answer_files import FORMAT

_TOP = ("format", "run", "digest", "clusters")
_DECIDED = ("name", "merge", "split", "names", "drop")
_ABOUT = ("cluster", "known", "size", "cohesion", "separation", "nearest", "expected_purity", "confidence", "exemplars")
_NUMBERED = re.compile(r"novel \d+")
_AGAIN = "save it again from the report"
_JOINS = "cluster {} has the name of the labelled class {}: it is merged into it"
_LETTERS = 60  # of a value that a line shows
_LONGEST_ID = 200  # letters of a run's id, or of a digest


@dataclass(frozen=True)
class Said:
    """What is said of one cluster; `names` are those of its halves where it is split, `merge` is None where it stays its own."""

    cluster: int
    name: str
    known: bool = False
    merge: int | None = None
    split: bool = False
    names: tuple[str, str] = ("", "")
    drop: bool = False


@dataclass(frozen=True)
class Saved:
    """A file of clusters: the run and the digest of the answer that it is of, and what is said of each cluster."""

    run: str
    digest: str
    clusters: tuple[Said, ...]


@dataclass(frozen=True)
class Decided:
    """What follows from it.

    Attributes:
        labels: the class of each cluster's halves, (cluster, 0) and (cluster, 1); '' = its images stay unlabelled.
        renamed: labels that people gave: what they are called now, of classes that were renamed or merged.
        notices: what a person should know, a line each.
    """

    labels: Mapping[tuple[int, int], str]
    renamed: Mapping[str, str]
    notices: tuple[str, ...] = ()


def parse(text: str, where: str) -> Saved:
    """Return what a file of clusters says.

    Raises:
        UserError: it is no JSON, of a format that this version does not know, or holds keys or values that mean nothing. `where` is named.
    """
    try:
        value = json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is damaged or no JSON ({' '.join(str(error).split())[:100]}): {_AGAIN}") from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        found = value.get("format") if isinstance(value, dict) else None
        raise UserError(f"{where} has the format {_shown(found)}, and this version reads '{FORMAT}': {_AGAIN}")
    _require_keys(value, _TOP, _TOP, where)
    for name in ("run", "digest"):
        if not isinstance(value[name], str) or not 0 < len(value[name]) <= _LONGEST_ID or not is_text(value[name]):
            raise UserError(f"{where}: {name} = {_shown(value[name])} is no id: {_AGAIN}")
    if not isinstance(value["clusters"], list) or not all(isinstance(entry, dict) for entry in value["clusters"]):
        raise UserError(f"{where}: clusters is no list of clusters: {_AGAIN}")
    return Saved(value["run"], value["digest"], tuple(_said(entry, where) for entry in value["clusters"]))


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"the key {_shown(next(k for k, _ in pairs if [n for n, _ in pairs].count(k) > 1))} is there twice")
    return found


def _require_keys(value: Mapping[str, Any], known: Sequence[str], needed: Sequence[str], where: str) -> None:
    for key in value:
        if key not in known:
            raise UserError(
                f"{where} has a key {_shown(key)} that is not known{nearest(key[:_LETTERS], known)} (known are: {', '.join(known)})"
            )
    for key in needed:
        if key not in value:
            raise UserError(f"{where} lacks '{key}': {_AGAIN}")


def _said(entry: Mapping[str, Any], where: str) -> Said:
    """Return what one entry says; UserError for values of another kind and for decisions that contradict each other."""
    where = f"{where}, cluster {_shown(entry.get('cluster'))}"
    _require_keys(entry, (*_ABOUT, *_DECIDED), ("cluster", "name"), where)
    kinds: dict[str, tuple[type, ...]] = {
        "cluster": (int,),
        "name": (str,),
        "known": (bool,),
        "merge": (int, type(None)),
        "split": (bool,),
        "drop": (bool,),
    }
    for key, kind in kinds.items():
        value = entry.get(key)
        if key in entry and (not isinstance(value, kind) or (isinstance(value, bool) and bool not in kind)):
            raise UserError(f"{where}: {key} = {_shown(value)} is not valid: {_AGAIN}")
    names = entry.get("names", ["", ""])
    if not isinstance(names, list) or len(names) != 2 or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: names = {_shown(names)} are not the names of its two halves; give two, '' for one without")
    halves = (_name(names[0], where), _name(names[1], where))
    split, drop, merge = entry.get("split", False), entry.get("drop", False), entry.get("merge")
    if (merge is not None) + split + drop > 1:
        raise UserError(f"{where} is to be merged, split and dropped at once: decide on one of them")
    if any(halves) and not split:
        raise UserError(f"{where} has names of halves, but split is false: set split to true, or remove names")
    return Said(entry["cluster"], _name(entry["name"], where), entry.get("known", False), merge, split, halves, drop)


def _name(text: str, where: str) -> str:
    """Return a name in one spelling; UserError for one that no table can hold."""
    name = plain(text)
    if name and name in MISSING:
        raise UserError(f"{where}: '{name}' means 'no value' in a table: give another name")
    if not is_text(name):
        raise UserError(f"{where}: the name {_shown(name)} holds characters that are no text: type it again")
    if text.strip() and not name:
        raise UserError(f"{where}: of the name {_shown(text)} nothing can be seen: type it again")
    return name


def _look(name: str) -> str:
    """Return what names have in common that people take for one: letter case, and what is not seen at the ends, do not count."""
    return plain(name).casefold()


def _shown(value: Any) -> str:
    """Return a value as an error line shows it: quoted, what is no visible letter escaped, not too long."""
    text = repr(value)
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]}..."


def decide(saved: Saved, found: Saved, where: str, classes: Collection[str] = ()) -> Decided:
    """Return what follows from what a person has saved.

    Args:
        saved: what the person has decided.
        found: the answer's own file.
        where: what an error names.
        classes: labels that people gave.

    Raises:
        UserError: the decisions are about another answer, or cannot be carried out as they stand.
    """
    if saved.digest != found.digest:
        own = "" if saved.run == found.run else f" (it names run {_shown(saved.run)})"
        raise UserError(f"{where} belongs to another answer than that of run {found.run}{own}: save it from that run's report.html")
    said = _by_cluster(saved, found, where)
    original = {one.cluster: one for one in found.clusters}
    groups = defaultdict(list)
    for cluster in sorted(said):
        groups[_root(cluster, said, where)].append(cluster)
    names = {root: _names_of(root, members, said, original, where) for root, members in groups.items()}
    known = {root: [original[one].name for one in members if original[one].known] for root, members in groups.items()}
    whole = {root: labels for root, labels in known.items() if labels and not (said[root].split or said[root].drop)}
    renamed = {label: names[root][0] for root, labels in whole.items() for label in labels if names[root][0] != label}
    people = {*classes, *(label for labels in known.values() for label in labels)}
    notices = [f"the labelled class {_shown(label)} is called {_shown(name)} from now on" for label, name in sorted(renamed.items())]
    split = {root for root in groups if said[root].split}
    uses = [(name, root) for root, pair in names.items() for name in (pair if root in split else pair[:1]) if name]
    _require_apart(uses, people - renamed.keys(), where)
    joined = _joined(uses, set(whole), {renamed.get(label, label) for label in people}, where)
    notices += [_JOINS.format(root, _shown(name)) for name, root in joined if name not in known[root]]
    notices += _numbered([(root, _unnamed(root, groups[root], said, original)) for root, pair in names.items() if "" in pair])
    labels = {(one, half): names[root][half] for root, members in groups.items() for one in members for half in (0, 1)}
    return Decided(labels, renamed, tuple(notices))


def _by_cluster(saved: Saved, found: Saved, where: str) -> dict[int, Said]:
    """Return what is said of each cluster; UserError unless these are the answer's, each once."""
    said = {one.cluster: one for one in saved.clusters}
    there = {one.cluster for one in found.clusters}
    if len(said) < len(saved.clusters):
        numbers = [one.cluster for one in saved.clusters]
        raise UserError(f"{where} has cluster {_shown(next(c for c in numbers if numbers.count(c) > 1))} twice: keep one of the entries")
    for cluster in sorted(said.keys() - there):
        raise UserError(f"{where} has a cluster {_shown(cluster)} that run {found.run} has not found: {_AGAIN}")
    for cluster in sorted(there - said.keys()):
        raise UserError(f"{where} lacks cluster {cluster}: put its entry back ('drop': true leaves its images unlabelled)")
    return said


def _root(cluster: int, said: Mapping[int, Said], where: str) -> int:
    """Return the cluster that a cluster is merged into in the end, itself if in none."""
    seen = [cluster]
    while (into := said[seen[-1]].merge) is not None:
        if into not in said:
            raise UserError(f"{where} merges cluster {seen[-1]} into cluster {_shown(into)}, which there is not: merge it into another one")
        if into in seen:
            circle = " into ".join(map(str, seen[seen.index(into) :][:SHOWN]))
            circle += f" into ... into {into}" if len(seen[seen.index(into) :]) > SHOWN else f" into {into}"
            raise UserError(f"{where} merges clusters in a circle ({circle}): leave one of them its own")
        for state in ("drop", "split"):
            if getattr(said[into], state):
                done = {"drop": "dropped", "split": "split"}[state]
                raise UserError(f"{where} merges cluster {seen[-1]} into cluster {into}, which is {done}: decide on one of them")
        seen.append(into)
    return seen[-1]


def _names_of(root: int, members: Sequence[int], said: Mapping[int, Said], original: Mapping[int, Said], where: str) -> tuple[str, str]:
    """Return the names of a group's halves, the same one twice unless it is split; '' = its images stay unlabelled."""
    one = said[root]
    if one.drop:
        return "", ""
    if one.split:
        first, second = ("" if _NUMBERED.fullmatch(name) else name for name in one.names)
        return first, second
    given = {member: _given(said[member], original[member]) for member in members}
    others = {name for name in given.values() if name}
    if not given[root] and len(others) > 1:
        raise UserError(
            f"{where} merges {' and '.join(map(_shown, sorted(others)[:SHOWN]))} into cluster {root}, which has no name: give it one"
        )
    name = given[root] or next(iter(others), "")
    return name, name


def _given(said: Said, original: Said) -> str:
    """Return the name that a cluster was given; a labelled class has one, a novel cluster that keeps its number none."""
    if original.known:
        return said.name or original.name
    return "" if said.name == original.name or _NUMBERED.fullmatch(said.name) else said.name


def _unnamed(root: int, members: Sequence[int], said: Mapping[int, Said], original: Mapping[int, Said]) -> list[str]:
    """Return the numbers that a person wrote instead of names, for a group of which images stay unlabelled by that."""
    one = said[root]
    if one.drop:
        return []
    written = one.names if one.split else [said[member].name for member in members if said[member].name != original[member].name]
    return [name for name in written if _NUMBERED.fullmatch(name)]


def _numbered(found: Sequence[tuple[int, Sequence[str]]]) -> list[str]:
    """Return the notice of clusters that were called by a number; none where there is no such cluster."""
    roots = [root for root, written in found if written]
    if not roots:
        return []
    more = f" and {len(roots) - SHOWN} more" if len(roots) > SHOWN else ""
    name = next(written[0] for _, written in found if written)
    return [f"{_shown(name)} is a number and no name: images of cluster {', '.join(map(str, roots[:SHOWN]))}{more} stay unlabelled"]


def _require_apart(uses: Sequence[tuple[str, int]], kept: Collection[str], where: str) -> None:
    """Raise UserError for names that people take for one although they differ.

    uses: as in `_joined`. kept: names that labelled classes had and keep; these may be like one another.
    """
    known = {_look(name): name for name in sorted(kept)}
    first: dict[str, tuple[str, int]] = {}
    for name, root in uses:
        if name in kept:
            continue
        if (like := known.get(_look(name))) is not None:
            raise UserError(
                f"{where} calls cluster {root} {_shown(name)}, and there is the labelled class {_shown(like)}: merge it into that one, "
                "or write the name exactly so"
            )
        other, cluster = first.setdefault(_look(name), (name, root))
        if other != name:
            shown = f"{_shown(other)} (cluster {cluster}) and {_shown(name)} (cluster {root})"
            raise UserError(f"{where} uses one name in two spellings, {shown}: merge them, or name them apart")


def _joined(uses: Sequence[tuple[str, int]], known: Collection[int], people: Collection[str], where: str) -> list[tuple[str, int]]:
    """Return the (name, cluster) that were given a labelled class's name. UserError for any other name used twice.

    uses: each name and the cluster that has it. known: clusters that are a labelled class. people: the names of labelled classes.
    """
    for name in dict.fromkeys(name for name, _ in uses):
        roots = [root for used, root in uses if used == name]
        own = [root for root in roots if root in known]
        if len(own) > 1 or (len(roots) > 1 and not own and name not in people):
            shown = " and ".join(map(str, list(dict.fromkeys(roots))[:SHOWN]))
            raise UserError(f"{where} uses the name {_shown(name)} twice (cluster {shown}): merge them, or name them apart")
    return [(name, root) for name, root in uses if name in people and root not in known]
