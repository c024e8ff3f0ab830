"""One tracking run: opened once, fed in batches, ended with its true status. The only objects the stages see of MLflow."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from mlflow.entities import Param, RunTag
from mlflow.entities import Run as Entity
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from core.config import EMPTY
from core.errors import Gone, UserError
from core.tracking import artifact_root, experiment, names, provenance
from core.tracking.experiment import refused
from core.tracking.outbox import Outbox, flush_spools, stored
from core.tracking.patience import Client, at_most, once, why_gone
from core.tracking.refusal import REASON_TAG
from core.tracking.store import machine_lock, scratch, without_password

if TYPE_CHECKING:
    from core.tracking.recorder import Recorder

MAKING = "making a run"  # the lock under which runs are made and stale ones looked for
MADE_TAG = "taxon.made"  # a number of its own for every run: a request whose answer was lost finds what it made
BRIEFLY = 15.0  # seconds that an interrupted process, or the start of another, waits for a store that is away
SHORT = 60.0  # seconds within which a run has no use for figures of the machine: its page shows them before all others
SPOOL_PATIENCE = 60.0  # seconds for the last metrics; what is unsent after them is kept for the next start
NOTE_TAG, PARENT_TAG = MLFLOW_RUN_NOTE, MLFLOW_PARENT_RUN_ID


class Run:
    """A run that is open in this process: the Recorder of a tracking store.

    Metrics go through an outbox (asynchronous, exactly once); all else waits for a store that is away (core.tracking.patience);
    artifacts are written to a scratch folder first, so that the store never holds half a file. Whatever is told to a run that was
    deleted meanwhile raises Gone: metrics at the latest one epoch later. `finish` ends it;
    a killed process leaves it RUNNING and the next start marks it KILLED (`sweep`).
    """

    def __init__(self, client: Client, run_id: str, continued: bool = False):
        self.client, self.run_id, self.continued = client, run_id, continued
        self.asked_at = psutil.Process().create_time()
        self.forward: Callable[[dict[str, float], int], None] = lambda values, epoch: None  # a stage's way to its pipeline's curves
        self.ended = contextlib.ExitStack()  # what is held until the store knows how the run has ended
        self._lock = machine_lock(f"run {run_id}", blocking=False)
        if not self._lock.__enter__():
            raise UserError(f"run {run_id} is in use by another process of this machine; wait for it or stop it, then try again")
        self.outbox = Outbox(client.raw, run_id, known=stored(client, run_id) if continued else ())
        info = client.get_run(run_id).info
        self.artifact_uri, self.experiment_id = info.artifact_uri, info.experiment_id

    def __enter__(self) -> Run:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self.finish(*ending(error))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Queue metrics of one global epoch; never blocks. Raise Gone once the store has said that the run was deleted."""
        self.outbox.put(values, step)
        if self.outbox.gone is not None:
            raise self.outbox.gone

    def started(self) -> None:
        """Record, once, how long it took from asking for this work to its first useful step."""
        self.metrics({"time/startup_seconds": time.time() - self.asked_at}, 0)

    @property
    def page(self) -> str:
        """What to do to see the run's page."""
        return provenance.shown_at(self.experiment_id, self.run_id)

    def monitor_system(self) -> None:
        """Log processor, memory, disk and GPU use every 10 s as `system/*`, of a run that is still open after SHORT seconds.

        MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false leaves it out, true begins at once. The thread ends by itself when the run has ended
        or the store does not answer.
        """
        asked = os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "").lower()
        if asked == "false":
            return
        later = threading.Timer(0.0 if asked == "true" else SHORT, _monitor, [self.run_id])
        later.daemon = True
        later.start()
        self.ended.callback(later.cancel)

    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags, all in one request; values are cut to what every store accepts."""
        self.client.log_batch(self.run_id, tags=run_tags(values))

    def params(self, values: Mapping[str, object]) -> None:
        """Log parameters that the run does not have yet; MLflow changes none."""
        have = self.client.get_run(self.run_id).data.params
        texts = {names.key(key): names.cut(value, names.PARAM) for key, value in values.items()}
        new = [Param(key, text) for key, text in texts.items() if key not in have]
        for start in range(0, len(new), 100):
            self.client.log_batch(self.run_id, params=new[start : start + 100])

    def options(self, values: Mapping[str, object]) -> None:
        """Log what options came to, each once: under its name, or under `resolved.` where `mlflow run` has another text under that.

        A run that is continued keeps those that it has.
        """
        have = {} if self.continued else self.client.get_run(self.run_id).data.params
        texts = {name: names.cut(value, names.PARAM) for name, value in values.items()}
        taken = [name for name, text in texts.items() if have.get(names.key(name), text) not in (text, text or EMPTY)]
        self.params({f"resolved.{name}" if name in taken else name: value for name, value in values.items()})

    def untag(self, name: str) -> None:
        """Remove a tag, where the run has it."""
        if name in self.client.get_run(self.run_id).data.tags:
            with contextlib.suppress(MlflowException):  # an answer that was lost: it is deleted already
                self.client.delete_tag(self.run_id, name)

    def note(self, markdown: str) -> None:
        """Set the description shown at the top of the run's page."""
        self.tags({NOTE_TAG: markdown})

    def file(self, path: Path, folder: str = "") -> None:
        """Store one finished file as an artifact."""
        self.client.log_artifact(self.run_id, str(path), folder or None)

    def folder(self, path: Path, folder: str = "") -> None:
        """Store a finished folder's files as artifacts."""
        self.client.log_artifacts(self.run_id, str(path), folder or None)

    def json(self, value: object, name: str, folder: str = "") -> None:
        """Store a value as an indented JSON artifact."""
        self.write(name, lambda path: path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n"), folder)

    def write(self, name: str, writer: Callable[[Path], object], folder: str = "") -> None:
        """Let `writer` make a file at a scratch path, then store it as artifact `folder/name`."""
        place = scratch("artifact")
        try:
            writer(place / name)
            self.file(place / name, folder)
        finally:
            for item in place.iterdir():
                item.unlink()
            place.rmdir()

    def dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Record a data set as the run's input: name, digest and where it came from."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entity = Dataset(name=name, digest=digest[:36], source_type="local", source=json.dumps({"uri": source}))
        self.client.log_inputs(self.run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", context)])])

    def finish(self, status: str = "FINISHED", reason: str = "") -> None:
        """Send what is left and end the run as FINISHED, FAILED or KILLED, with the reason in a tag.

        Raises:
            Gone: the run would be FINISHED, but was deleted.
        """
        try:
            with at_most(BRIEFLY) if status == "KILLED" else contextlib.nullcontext():
                gone = self._end(status, reason)
        finally:
            self._lock.__exit__(None, None, None)
            self.ended.close()
        if gone is not None and status == "FINISHED":
            raise gone

    def _end(self, status: str, reason: str) -> Gone | None:
        try:
            gone = self._wait_for_store()
            if not self.outbox.close(0.0 if gone else SPOOL_PATIENCE) and not (gone or self.outbox.gone):
                kept = f"unsent metrics of run {self.run_id} are kept and sent at the next start"
                print(f"taxon: the store did not answer; {kept}", file=sys.stderr)
            gone = gone or self.outbox.gone
            if gone is None:
                if reason:
                    self.tags({REASON_TAG: reason})
                self.client.set_terminated(self.run_id, status)
        except Gone as error:
            return error
        except MlflowException as error:  # must not hide why the run ends
            said = str(error).splitlines()[0][:160]
            print(f"taxon: run {self.run_id} could not be marked {status} ({said}); the next start marks it KILLED", file=sys.stderr)
            return None
        return gone

    def _wait_for_store(self) -> Gone | None:
        """Wait for a store that is away, as long as patience goes; return what it says of a run that was deleted."""
        if self.outbox.gone is None:
            with contextlib.suppress(MlflowException):
                if self.client.get_run(self.run_id).info.lifecycle_stage == "active":
                    return None
                return why_gone(self.client.raw, self.run_id)
            return why_gone(self.client.raw, self.run_id)
        return self.outbox.gone


if TYPE_CHECKING:
    _: type[Recorder] = Run


def run_tags(values: Mapping[str, object]) -> list[RunTag]:
    """Return tags as every store takes them."""
    return [RunTag(name, text) for name, text in tag_texts(values).items()]


def tag_texts(values: Mapping[str, object]) -> dict[str, str]:
    """Return names and values of tags as every store takes them; the name of a run is a tag that PostgreSQL keeps in 250 characters."""
    limits = {MLFLOW_RUN_NAME: names.KEY, NOTE_TAG: names.TAG}
    return {names.key(key): names.cut(value, limits.get(key, names.TAG)) for key, value in values.items()}


def ending(error: BaseException | None) -> tuple[str, str]:
    """Return the status and the reason a run ends with."""
    if error is None:
        return "FINISHED", ""
    if isinstance(error, KeyboardInterrupt):
        return "KILLED", "interrupted; run the same command again to continue"
    if isinstance(error, UserError):
        return "FAILED", str(error)
    return "FAILED", "".join(traceback.format_exception_only(error)).strip()


def fail(run_id: str, reason: str, status: str = "FAILED") -> None:
    """End a run that was never taken over; a store that does not answer is no further error."""
    client = Client()
    with contextlib.suppress(MlflowException, Gone), at_most(BRIEFLY):
        client.set_tag(run_id, REASON_TAG, names.cut(reason, names.TAG))
        client.set_terminated(run_id, status)


def _monitor(run_id: str) -> None:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
    SystemMetricsMonitor(run_id).start()  # type: ignore[no-untyped-call]


def open_run(entry_point: str, name: str) -> Run:
    """Open the run of this process: the one `mlflow run` made (MLFLOW_RUN_ID), or a new one in the experiment `taxon`.

    The variable is cleared, so that nothing started from here resumes this run by accident.
    """
    client = Client()
    flush_spools(client.raw)
    sweep(client)
    run_id = os.environ.pop("MLFLOW_RUN_ID", "")
    described = {MLFLOW_RUN_NAME: name, "taxon.entry_point": entry_point, "taxon.command": command_line(entry_point)}
    if run_id:
        experiment.show_as_training(client, _require_live_run(client, run_id).info.experiment_id)
        return _opened(client, run_id, described)
    return _made(client, experiment.of_process(client), described)


def _require_live_run(client: Client, run_id: str) -> Entity:
    """Return the run of MLFLOW_RUN_ID; raise UserError when it is not in this store or was deleted."""
    remedy = "unset MLFLOW_RUN_ID to start a run of its own"
    with refused(f"MLFLOW_RUN_ID = '{run_id}' is no run of this store", f"{remedy}, or set MLFLOW_TRACKING_URI to the run's store"):
        found = client.get_run(run_id)
    if found.info.lifecycle_stage == "deleted":
        restore = shlex.join(["mlflow", "runs", "restore", "--run-id", run_id])
        raise UserError(f"MLFLOW_RUN_ID = '{run_id}' is a run that has been deleted; bring it back with '{restore}', or {remedy}")
    return found


def open_child(parent_run_id: str, name: str, entry_point: str, tags: dict[str, Any]) -> Run:
    """Make a child run below `parent_run_id` in the parent's experiment: the one place where children are made."""
    os.environ.pop("MLFLOW_RUN_ID", None)
    client = Client()
    info = client.get_run(parent_run_id).info
    if info.lifecycle_stage != "active" and (gone := why_gone(client.raw, parent_run_id)):
        raise gone
    own = {MLFLOW_RUN_NAME: name, PARENT_TAG: parent_run_id, "taxon.entry_point": entry_point}
    asked_at = time.time()
    run = _made(client, info.experiment_id, {**own, **tags})
    run.asked_at = asked_at  # not the start of this process, which may have trained other children before
    return run


def _made(client: Client, experiment_id: str, tags: dict[str, Any]) -> Run:
    """Make a run and take it over. The shared lock keeps a sweep from seeing it before this process holds it."""
    with machine_lock(MAKING):
        texts = tag_texts({**tags, "taxon.host": provenance.host(), MADE_TAG: uuid.uuid4().hex})
        return _opened(client, _create_once(client, experiment_id, texts), {})


def _create_once(client: Client, experiment_id: str, tags: dict[str, str]) -> str:
    """Make a run and return its id; when an answer was lost on the way, that of the run which was made then."""

    def find() -> str | None:
        made = client.raw.search_runs([experiment_id], f"tags.`{MADE_TAG}` = '{tags[MADE_TAG]}'", max_results=1)
        return made[0].info.run_id if made else None

    return once(lambda: str(client.raw.create_run(experiment_id, tags=tags).info.run_id), find, "make a run")


def _opened(client: Client, run_id: str, tags: dict[str, Any]) -> Run:
    """Take a run over and tag it; an interruption meanwhile ends it properly."""
    run = None
    try:
        run = Run(client, run_id)
        run.tags({**provenance.tags(), **tags})
        artifact_root.settle(run, run.artifact_uri, BRIEFLY)
    except BaseException as error:
        status, reason = ending(error)
        if run is not None:
            run.finish(status, reason)
        elif isinstance(error, KeyboardInterrupt):
            fail(run_id, reason, status)
        raise
    return run


def started_with(run_id: str, entry_point: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return parameters and tags of a run that is to be continued; UserError unless it is one of `entry_point`."""
    data = _existing(Client(), run_id).data
    is_of = data.tags.get("taxon.entry_point", "no entry point of taxon")
    if is_of != entry_point:
        raise UserError(f"run '{run_id}' is one of {is_of}, which {entry_point} cannot continue; give the id of a {entry_point} run")
    return data.params, data.tags


def params_of(run_id: str, entry_point: str, user: str) -> dict[str, str]:
    """Return the parameters of a run; UserError unless it is one of `entry_point`. `user` is who asks."""
    data = _existing(Client(), run_id, "read").data
    is_of = data.tags.get("taxon.entry_point", "no entry point of taxon")
    if is_of != entry_point:
        raise UserError(f"run '{run_id}' is one of {is_of}, and {user} takes a {entry_point} run; give the id of one")
    return dict(data.params)


def _existing(client: Client, run_id: str, done: str = "continued") -> Entity:
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        raise UserError(f"run '{run_id}' cannot be {done}: {str(error).splitlines()[0][:160]}; give a run of this store") from None


def reopen(run_id: str) -> Run:
    """Continue a run that ended or was killed; metrics that it already has are not sent again."""
    client = Client()
    found = _existing(client, run_id)
    artifact_root.require(artifact_root.of_run(found.info.artifact_uri, run_id))
    run = Run(client, run_id, continued=True)  # first its lock, so that no sweep takes it for a stale one
    client.update_run(run_id, status="RUNNING")
    run.untag(REASON_TAG)
    run.tags({"taxon.host": provenance.host()})
    return run


def sweep(client: Client) -> list[str]:
    """Mark runs of this host that are RUNNING without a process as KILLED; return their ids.

    A live run's process holds the machine lock of its run id, which the kernel drops with the process.
    """
    experiments = [e.experiment_id for e in client.search_experiments()]
    mine = f"attributes.status = 'RUNNING' and tags.`taxon.host` = '{provenance.host()}'"
    stale = []
    with machine_lock(MAKING):  # no run is half made while the list is drawn
        running = client.search_runs(experiments, mine, max_results=1000)
    for found in running:
        run_id = found.info.run_id
        with machine_lock(f"run {run_id}", blocking=False) as free:
            # Asked again under the lock: it may have finished since the search.
            if free and run_id != os.environ.get("MLFLOW_RUN_ID") and client.get_run(run_id).info.status == "RUNNING":
                client.set_tag(run_id, REASON_TAG, "its process ended without finishing the run; marked by the next start")
                client.set_terminated(run_id, "KILLED")
                stale.append(run_id)
    return stale


def sweep_now() -> None:
    """Sweep in this process's store; a store that does not answer is left for the next start."""
    with contextlib.suppress(MlflowException), at_most(BRIEFLY):
        sweep(Client())


def command_line(entry_point: str) -> str:
    """Return the command that repeats this process's work: its explicit parameters as `mlflow run` takes them, without passwords."""
    words = ["mlflow", "run", ".", "-e", entry_point]
    for name, value in provenance.explicit_parameters().items():
        words += ["-P", f"{name}={without_password(value) if '://' in value else value}"]
    return shlex.join(words)
