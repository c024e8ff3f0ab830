"""What comes after a training is published: tables, pictures, registration, note. Each is tried by itself; none can cost the training.

published and tagged with what is left -> one step after the other -> no tag, FINISHED
                                              | one fails, Ctrl-C, kill -9
                                              v
tag and description say what is left and why; FAILED or KILLED. The same command finds that run by its stage key, trains nothing,
and does in it what is left
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

from core.errors import Gone, UserError, full_disk_named
from core.tracking import stage as stages
from core.tracking.patience import is_outage
from core.tracking.recorder import Recorder
from core.tracking.run import NOTE_TAG

Summary = dict[str, Any]
Step = Callable[[Summary], Summary | None]
REGISTRATION, NOTE = "registration", "note"


@dataclass(frozen=True)
class Steps:
    """What comes after a result is published.

    Attributes:
        each: by name, what does a step, given the summary so far; it returns what the summary gets by it. Files go into the work folder.
        note: returns the run's description, and prints what a person is to see at the end; comes last, and again with every repetition.
        always: names of steps that are for whoever asks, and so are done with every repetition too.
    """

    each: Mapping[str, Step]
    note: Callable[[Summary], str]
    always: Collection[str] = ()

    @property
    def names(self) -> list[str]:
        """The names of all steps, in order."""
        return [*self.each, NOTE]


@dataclass
class Published:
    """A published result: where its files come from, and what its manifest holds already.

    Attributes:
        run: open; its files are in `manifest`, those that come are in `folder`.
        summary: what was published.
        left: names of the steps that are left; others were done before.
    """

    run: Recorder
    folder: Path
    manifest: stages.Manifest
    summary: Summary
    left: Collection[str]

    def store(self, added: Summary) -> None:
        """Publish the files that have come to the folder, and what the summary got."""
        self.manifest = stages.publish_more(self.run, self.folder, added, self.manifest, is_kept)

    def forget(self) -> None:
        """Remove the files of a step that failed: half of them, or half of one, would count as whole from here on."""
        for path in self.folder.rglob("*"):
            if path.is_file() and is_kept(path) and path.relative_to(self.folder).as_posix() not in self.manifest:
                path.unlink()


@dataclass(frozen=True)
class Unfinished:
    """A run that published a result of this stage key and ended before all that comes after it was done, and what is left."""

    finished: stages.Finished
    left: tuple[str, ...]

    @classmethod
    def of(cls, key: str) -> Unfinished | None:
        """Return the newest one of a stage key; None where there is none."""
        found = stages.find_unfinished(key)
        return None if found is None else cls(*found)


def is_kept(path: Path) -> bool:
    """Say whether a file of a work folder is published."""
    return not path.name.startswith(".")


def published(
    run: Recorder, folder: Path, summary: Summary, tags: dict[str, Any], steps: Steps, before: Unfinished | None = None
) -> Published:
    """Publish a work folder, unless the run has done so `before`; from here on nothing that fails can cost the result.

    Args:
        tags: the stage key among them; with them, the run is tagged with all that is left, so that one which is killed says it too.
    """
    if before is not None:
        finished = before.finished
        unasked = set() if finished.summary.get("model") else {REGISTRATION}  # it is in no stage key: perhaps nobody wanted it then
        left = {*before.left, *unasked, *steps.always}
        return Published(run, folder, finished.manifest, _in_order_of(summary, finished.summary), left)
    run.tags({**tags, stages.UNFINISHED_TAG: ", ".join(steps.names)})
    return Published(run, folder, stages.publish(run, folder, summary, is_kept), summary, steps.names)


def _in_order_of(like: Any, stored: Any) -> Any:
    """Return what was stored, its keys in the order of `like`: a file has them by the alphabet, a table shows them as they come."""
    if not isinstance(like, dict) or not isinstance(stored, dict):
        return stored
    return {name: _in_order_of(like.get(name), stored[name]) for name in dict.fromkeys([*like, *stored]) if name in stored}


def settle(published: Published, steps: Steps) -> Summary:
    """Do the steps that are left, each by itself; return the summary with all that they add.

    Raises:
        UserError: some failed; the run's tag and description say which, and why. Raised when the others are done.
    """
    run = published.run
    added: dict[str, Any] = {}
    noted: list[str] = []
    failed: dict[str, Exception] = {}

    def do(name: str) -> None:
        if name == NOTE:
            noted.append(steps.note(published.summary | added))
            run.note(noted[0])
            return
        added.update(steps.each[name](published.summary | added) or {})
        published.store(added)

    waiting = [name for name in steps.names if name in published.left or name == NOTE]
    for name in list(waiting):
        try:
            with full_disk_named():
                do(name)
        except Exception as error:
            if isinstance(error, Gone) or is_outage(error):
                raise
            failed[name] = error
            published.forget()
        else:
            waiting.remove(name)
        if waiting:
            run.tags({stages.UNFINISHED_TAG: ", ".join(waiting)})
    if failed:
        _fail(run, failed, "".join(noted))
    run.untag(stages.UNFINISHED_TAG)
    return published.summary | added


def _fail(run: Recorder, failed: Mapping[str, Exception], noted: str) -> None:
    """Say on the run what failed and why, with the traceback as a file, and raise UserError with it."""
    reasons = "; ".join(f"{name}: {_reason(error)}" for name, error in failed.items())
    sentence = f"Unfinished: {reasons}. Figures and checkpoints are stored; the same command trains nothing and does only what is left."
    run.tags({NOTE_TAG: f"{noted}\n\n**{sentence}**".strip()})
    for name, error in failed.items():
        if not isinstance(error, UserError):
            with contextlib.suppress(Exception):  # must not hide why the run ends
                said = "".join(traceback.format_exception(error))
                run.write(f"{name}.txt", methodcaller("write_text", said, errors="backslashreplace"), "unfinished")
    raise UserError(
        f"what was computed is stored in run {run.run_id}, but not all that comes after it could be done ({reasons}); "
        "run the same command again: it computes nothing anew and does only what is left"
    )


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split())[:300]
    return said if isinstance(error, UserError) else f"{type(error).__name__}: {said}"
