"""What every entry point does: parse, open the run, one call, end the run with its true status, one line for a user's mistake."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core import config as configuration
from core import places, ranks
from core.errors import UserError, full_disk_named
from core.progress import spelt
from core.stages import took
from core.stages.given import require_places
from core.stages.stage import Stage, function_of

# glibc: keep freed memory instead of returning it at every step; 5-45 % faster training on CPUs (read at process start).
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_TOP_PAD_": "268435456"}

NAME_LENGTH = 40  # of a run's name: what the UI's lists show of it


def launch(stage: Stage, argv: list[str] | None = None) -> int:
    """Run one entry point with the words of the command line (None = the process's own); return the process's exit code."""
    try:
        return _launched(stage, argv)
    except KeyboardInterrupt:
        print("taxon: interrupted; run the same command again to continue", file=sys.stderr)
        return 130


def _launched(stage: Stage, argv: list[str] | None) -> int:
    config = None
    try:
        places.settle()
        ranks.settle()
        if argv is None:
            _restart_with_malloc_settings()
            argv = sys.argv[1:]
        config = configuration.parse(stage.config, argv, stage.name)
        check(stage, config)
    except UserError as error:
        return _refuse(error, stage, config)
    try:
        return _tracked(stage, config, configuration.origin(argv))
    except UserError as error:
        return _refuse(error)


def _tracked(stage: Stage, config: configuration.Dataclass, origin: str) -> int:
    began = time.monotonic()
    if _is_first():
        print(f"taxon: {announced(stage.name, config)}", flush=True)
    from core.tracking import lifeline

    launcher = lifeline.launcher()
    lifeline.follow_launcher()
    lifeline.interrupt_on_sigterm()
    from core.tracking import afterword, patience, provenance, store
    from core.tracking import run as tracking

    provenance.remember_parameters(configuration.told(config))
    if not _is_first():
        function_of(stage.work)(config, None)
        return 0
    store.prepare()
    run = tracking.open_run(stage.name, run_name(stage.name, config))
    try:
        with run, full_disk_named(), patience.outage_named():
            if origin:
                run.tags({"taxon.config": origin})
            run.monitor_system()
            function_of(stage.work)(config, run)
            run.params(configuration.canonical(config))
    except KeyboardInterrupt:
        afterword.arrange(run.run_id, launcher)
        raise
    took.remember(stage.name, config, time.monotonic() - began)
    return 0


def check(stage: Stage, config: configuration.Dataclass) -> None:
    """Raise UserError for all that can be refused in a moment: neither torch nor MLflow is imported for it."""
    configuration.check_limits(config)
    if stage.check:
        function_of(stage.check)(config)
    require_places(config)


def _is_first() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _refuse(error: UserError, stage: Stage | None = None, config: configuration.Dataclass | None = None) -> int:
    """Print the one line; then make sure that the run which `mlflow run` opened says it too, or one of its own where there is none.

    No run is made for words that are not options (`config` is None), nor for an error that has ended a run already (`stage` is None).
    """
    print(f"taxon: error: {error}", file=sys.stderr, flush=True)
    if made := os.environ.get("MLFLOW_RUN_ID"):  # the mistake was found before the run was taken over
        from core.tracking import refusal

        about = (stage.name, _name_of(stage, config)) if stage is not None else ()
        if not refusal.record(made, str(error), *about):
            from core.tracking.run import fail

            fail(made, str(error))
    elif stage is not None and config is not None and _is_first():
        _record(stage, config, error)
    return 2


def _record(stage: Stage, config: configuration.Dataclass, error: UserError) -> None:
    """Leave a run that says what was refused; a store that cannot take it is no further error."""
    from core.tracking import patience, provenance, store
    from core.tracking import run as tracking

    provenance.remember_parameters(configuration.told(config))
    with contextlib.suppress(UserError), patience.at_most(tracking.BRIEFLY), patience.outage_named():
        store.prepare()
        tracking.open_run(stage.name, _name_of(stage, config)).finish("FAILED", str(error))


def run_name(entry_point: str, config: configuration.Dataclass) -> str:
    """Return a readable run name of at most NAME_LENGTH characters: on which data, what differs from the recipe, the entry point.

    The data come first, then the differences: lists of runs show little more. Where not all of them have room, a few characters of
    their digest keep two runs apart; the entry point, which is a tag too, goes first.
    """
    data, differs = _told(config)
    return _fitting(data or entry_point, differs, entry_point if data else "")


def _name_of(stage: Stage, config: configuration.Dataclass | None) -> str:
    """Return the name of a run whose options were refused (None: they are none); what has no recipe is called by its entry point."""
    with contextlib.suppress(UserError):
        if config is not None:
            return run_name(stage.name, config)
    return stage.name


def announced(entry_point: str, config: configuration.Dataclass) -> str:
    """Return the first line of a command: what it does, on what, with which differences, how long it took here the last time."""
    data, differs = _told(config)
    what = f"{entry_point} on {data}" if data else entry_point
    what += f" ({', '.join(differs)})" if differs else ""
    seconds = took.last(entry_point, config)
    return what if seconds is None else f"{what}; took {spelt(seconds)} here last time"


def _told(config: configuration.Dataclass) -> tuple[str, list[str]]:
    """Return the name of the data that a command is about ('' = none), and the options that are not the recipe's."""
    from core.training.recipes import Choice, dataset_of, recipe_for

    said, usual, data = configuration.told(config), {}, ""
    if isinstance(config, Choice):
        dataset = dataset_of(config)
        usual = dataclasses.asdict(recipe_for(dataset, said.get("model_name", "auto")))
        data = config.superclass_name or said.get("superclasses") or (dataset if dataset != "folder" else _folder(said))
    elif said.get("data_root") or said.get("data_dir"):
        data = _folder(said)
    machine = configuration.names_of(config, "machine")
    named = {"superclass_name", "superclasses", "dataset", "data_root", "data_dir", "config", *machine}
    told = {name: value for name, value in said.items() if name not in named and value not in ("", usual.get(name))}
    plain = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in told.items()}
    return data, [f"{name}={text}" for name, text in plain.items() if "/" not in text]


def _folder(said: Mapping[str, Any]) -> str:
    """Return the name of the folder or table that holds the images; '' where none is named."""
    return Path(said.get("images") or said.get("data_root") or said.get("data_dir") or "").name


def _fitting(first: str, words: list[str], last: str) -> str:
    whole = " ".join([first, *words])
    if len(whole) <= NAME_LENGTH:
        return f"{whole} {last}" if last and len(whole) + len(last) < NAME_LENGTH else whole
    from core import digest

    mark = f" ~{digest.of_bytes(whole.encode(errors='backslashreplace'))[:4]}"
    return whole[: NAME_LENGTH - len(mark)].rstrip() + mark


def _restart_with_malloc_settings() -> None:
    """Start this process again with glibc's settings, which are read only at start; nothing else has happened yet."""
    if sys.platform == "linux" and "MALLOC_TOP_PAD_" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**MALLOC, **os.environ})
