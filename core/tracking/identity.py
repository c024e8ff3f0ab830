"""What a registered name stands for: models of it tell the same classes apart, on the same data, and may replace one another.

Data grow and are split anew, so that they are known again by what they share: a sketch holds the smallest digests of their items
(bottom-k of Cohen and Kaplan 2007, "Summarizing Data using Bottom-k Sketches"), which are as good as drawn at random.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from core import digest
from core.tracking.patience import Client

FILE = "identity.json"
MARK_TAG, NAME_TAG = "taxon.identity", "taxon.readable_name"
SKETCH = 128  # digests of a sketch: a share of half is known to within a tenth
CHARACTERS = 12  # of a digest: 48 bits
SHARED = 0.5  # of the smaller data set: from here on one has grown out of the other
LEAST_SHARED = 3


@dataclass(frozen=True)
class Identity:
    """What must be equal for two models to be versions of one.

    Attributes:
        labels: sorted names of the classes that answers are made of; of discovery the known ones.
        novel: sorted names of the classes that are to be discovered.
        data: the sketch of all items, labelled or not, of all parts.
    """

    labels: tuple[str, ...]
    novel: tuple[str, ...]
    data: tuple[str, ...]

    @classmethod
    def of(cls, labels: Iterable[str], contents: Iterable[str], novel: Iterable[str] = ()) -> Identity:
        """Return the identity of models with these classes; `contents` are the sha256 of the data's items."""
        return cls(tuple(sorted(labels)), tuple(sorted(novel)), tuple(sorted({content[:CHARACTERS] for content in contents})[:SKETCH]))

    @classmethod
    def read(cls, folder: Path) -> Identity:
        """Read what `write` wrote."""
        facts = json.loads((folder / FILE).read_text())
        return cls(**{name: tuple(facts[name]) for name in ("labels", "novel", "data")})

    def write(self, folder: Path) -> None:
        """Write FILE into the folder that a predictor is served from."""
        facts = {"labels": self.labels, "novel": self.novel, "data": self.data}
        (folder / FILE).write_text(json.dumps(facts, indent=1) + "\n")

    def mark(self, known: Mark | None = None) -> Mark:
        """Return what a registered name keeps of it, together with what it keeps already."""
        data = self.data if known is None else tuple(sorted({*self.data, *known.data})[:SKETCH])
        return Mark(_short(self.labels), _short(self.novel), data)

    def difference(self, other: Identity) -> str:
        """Return in what another identity differs, in words; '' where models of both may replace one another."""
        for what, mine, theirs in (("classes", self.labels, other.labels), ("novel classes", self.novel, other.novel)):
            if mine != theirs:
                apart = [_listed(set(one) - set(two)) for one, two in ((mine, theirs), (theirs, mine))]
                return f"other {what} ({apart[0]} against {apart[1]})"
        return "" if akin(self.data, other.data) else "other data"


@dataclass(frozen=True)
class Mark:
    """What a registered name keeps of the identity of its models: digests of the class names, and a sketch of all their data."""

    labels: str
    novel: str
    data: tuple[str, ...]

    @classmethod
    def parse(cls, tag: str) -> Mark | None:
        """Return the mark in a tag; None where it is none."""
        try:
            facts = json.loads(tag)
            return cls(str(facts["labels"]), str(facts["novel"]), tuple(str(facts["data"]).split()))
        except (ValueError, KeyError, TypeError):
            return None

    def tag(self) -> str:
        """Return the mark as a tag's value."""
        return json.dumps({"labels": self.labels, "novel": self.novel, "data": " ".join(self.data)})

    def difference(self, other: Mark) -> str:
        """Return in what another mark differs, in words; '' where models of both may replace one another."""
        if self.labels != other.labels:
            return "other classes"
        if self.novel != other.novel:
            return "other novel classes"
        return "" if akin(self.data, other.data) else "other data"


def akin(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Say whether at least SHARED of the smaller of two data sets is in the other, as far as their sketches tell.

    Below the smaller of the two largest digests both sketches are complete. Data sets of which one is far larger (some forty times)
    leave too little to tell by and count as others.
    """
    ends = [sketch[-1] for sketch in (one, other) if len(sketch) == SKETCH]
    mine, theirs = ({content for content in sketch if not ends or content <= min(ends)} for sketch in (one, other))
    least = min(len(mine), len(theirs))
    return len(mine & theirs) >= max(SHARED * least, min(LEAST_SHARED, least), 1)


def claim(client: Client, name: str, identity: Identity, tags: dict[str, Any]) -> str:
    """Return the registered name of models of this identity: `name`, or where it stands for other models, one with a suffix.

    The name is made and marked in one step, so that of two machines with different models only one gets it. Said on the terminal
    where it is not `name`.

    Args:
        name: the readable one.
        identity: of the model that is registered.
        tags: of the model; a name of an older version of this project, which has no mark, is taken where its newest version has
            the same data digest or held-out items.
    """
    why = _taken(client, name, name, identity, tags)
    if not why:
        return name
    others = _marked(client, name)
    mark = identity.mark()
    fresh = digest.of_json([mark.labels, mark.novel, mark.data])
    for other in (*others, *(f"{name}-{fresh[:length]}" for length in (8, 16, 64))):
        if not _taken(client, other, name, identity, tags):
            print(f"taxon: {name} stands for models of {why}; this one is a version of {other}", file=sys.stderr)
            return other
    raise AssertionError(f"every name of {name} is taken")


def names_of(client: Client, name: str) -> list[str]:
    """Return the registered names that a readable name stands for: itself, and those with a suffix."""
    return [name, *_marked(client, name)]


def _marked(client: Client, name: str) -> list[str]:
    """Return the registered names with a suffix of a readable name, sorted."""
    found, token = [], None
    while True:
        page = client.search_registered_models(f"tags.`{NAME_TAG}` = '{name}'", page_token=token)
        found += [model.name for model in page if model.name != name]
        token = page.token
        if not token:
            return sorted(found)


def _taken(client: Client, name: str, readable: str, identity: Identity, tags: dict[str, Any]) -> str:
    """Make `name` the name of models of this identity; return '' where it is, else of which other ones it is the name."""
    mark = identity.mark()
    try:
        client.create_registered_model(name, tags={MARK_TAG: mark.tag(), NAME_TAG: readable})
        return ""
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    stands_for = Mark.parse(client.get_registered_model(name).tags.get(MARK_TAG, ""))
    if stands_for is None:
        if not _older(client, name, tags):
            return "an older version of this project, on other data"
    elif why := stands_for.difference(mark):
        return why
    grown = identity.mark(stands_for)
    if grown != stands_for:
        client.set_registered_model_tag(name, MARK_TAG, grown.tag())
        client.set_registered_model_tag(name, NAME_TAG, readable)
    return ""


def _older(client: Client, name: str, tags: dict[str, Any]) -> bool:
    """Say whether an unmarked name has no version, or a newest one with the data of `tags`."""
    versions = client.search_model_versions(f"name = '{name}'", max_results=1000)
    newest = max(versions, key=lambda version: int(version.version), default=None)
    return newest is None or any(key in tags and newest.tags.get(key) == tags[key] for key in ("data_digest", "taxon.evaluated_on"))


def _short(names: tuple[str, ...]) -> str:
    return digest.of_json(names)[:16]


def _listed(names: set[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in sorted(names)[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "none of its own"
