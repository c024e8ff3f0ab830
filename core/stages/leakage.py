"""No figure on what the weights have learnt from: every stage that takes weights asks here before it computes anything.

Weights may have been trained on a training part. They may not have been trained on what a stage holds out; what only chose among
their epochs may be a validation part again, but not a test part or a fold.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core import lineage
from core.config import Dataclass
from core.errors import UserError
from core.lineage import Item, Lineage
from core.models import weights as weight_files
from core.stages import inputs

WEIGHTS = ("weights", "image_weights", "text_weights")
RESUMED = ("resume_from_ckpt", "resume")  # the same training: another split of it is refused by its digest, which says more
CHECKPOINTS = ("warmup_model_dir", *RESUMED)
REMEDY = "figures on them would mean nothing; give weights that have not seen them, or hold out others"


@dataclass(frozen=True)
class Parts:
    """The items of a training by what is done with them: train with labels, unlabelled without (and evaluated), val chooses, test."""

    train: Sequence[Item]
    val: Sequence[Item] = ()
    test: Sequence[Item] = ()
    unlabelled: Sequence[Item] = ()


def admit(config: Dataclass, parts: Parts, noun: str = "images") -> Lineage:
    """Return the lineage of a training: its own items and those of the weights and checkpoints that its options name.

    Raises:
        UserError: weights have learnt from what this training holds out. An item that its own training part holds too counts there:
            the training says that itself, and the weights add nothing to it.
    """
    train, val = lineage.flat(parts.train), lineage.flat(parts.val)
    inherited = Lineage()
    for option, given, record in sources(config):
        inherited |= record
        if option in RESUMED:
            continue
        learnt, trained = record.learnt - train, record.trained - train
        refuse(parts.val, (learnt,), f"validation {noun}", option, given)
        refuse(parts.test, (learnt, record.chosen - train - val), f"test {noun}", option, given)
        refuse(parts.unlabelled, (trained, record.chosen - train), f"unlabelled {noun}", option, given)
    held_out = val | lineage.flat(parts.test)
    own = Lineage(train, lineage.flat(parts.unlabelled), val)
    return replace(inherited | own, shared=held_out & train)


def require_unseen(config: Dataclass, items: Sequence[Item], what: str) -> None:
    """Raise UserError where the weights of an option have learnt from, or were chosen on, any of `items`: the held-out part of a fold."""
    for option, given, record in sources(config):
        refuse(items, (record.learnt, record.chosen), what, option, given)


def evaluated(record: Lineage, items: Sequence[Item], part: str, noun: str, option: str, given: str) -> None:
    """Check a finished model against the part that it is evaluated on: `train` is said, `val` may have chosen its epoch, which is said.

    Raises:
        UserError: it has learnt from items of another part than `train`, or a test item chose its epoch. Content that its own training
            part and its held-out parts share was said by its training and is said again.
    """
    n = len(items)
    if part == "train":
        learnt = len(lineage.matching(items, record.learnt))
        if learnt:
            say(f"{option} = '{given}' has trained on {learnt} of these {n} {noun}: its figures say how well it remembers")
        return
    refuse(items, (record.learnt - record.shared,), f"{part} {noun}", option, given)
    shared = len(lineage.matching(items, record.shared & record.learnt))
    if shared:
        say(f"{shared} of these {n} {noun} are in the training part of {option} = '{given}' too")
    chosen = record.chosen - record.learnt
    if part == "test":
        refuse(items, (chosen,), f"test {noun}", option, given)
    elif lineage.matching(items, chosen):
        say(f"{len(lineage.matching(items, chosen))} of these {n} {noun} chose the epoch of {option} = '{given}': its figures flatter it")


def refuse(items: Sequence[Item], known: tuple[frozenset[str], ...], what: str, option: str, given: str) -> None:
    """Raise UserError with how many of `items` are known."""
    found = lineage.matching(items, *known)
    if found:
        raise UserError(f"{option} = '{given}' has learnt from {len(found)} of the {len(items)} {what}: {REMEDY}")


def sources(config: Dataclass) -> Iterator[tuple[str, str, Lineage]]:
    """Yield (option, value, record) of every option of `config` that names weights or a checkpoint with a record."""
    for option in (*WEIGHTS, *CHECKPOINTS):
        given = getattr(config, option, "")
        for path in _files(given, option) if given else ():
            record = lineage.read(path)
            if record:
                yield option, given, record


def _files(given: str, option: str) -> list[Path]:
    """Return the weights files that an option's value means; none where there are none here (its reader says what is wrong)."""
    if option in CHECKPOINTS:
        return [inputs.checkpoint_at(given, option)]
    if weight_files.is_hub_id(given):
        return weight_files.cached_files(given)
    path = Path(given).expanduser()
    return sorted(path.glob("*.safetensors")) if path.is_dir() else weight_files.files_of(path)


def say(line: str) -> None:
    """Tell whoever watches."""
    print(f"taxon: {line}", file=sys.stderr)
