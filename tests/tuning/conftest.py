"""A store of its own for every test, studies beside it, and worker processes that use both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.trial import FrozenTrial, TrialState

from core.tracking import provenance
from tests.core.conftest import client, store_template, tracking_env  # noqa: F401  (fixtures)
from tests.entrypoints.conftest import own_process_state  # noqa: F401  (fixture)
from tests.tuning import toy

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass
class Bench:
    """Runs toy studies and looks at what they leave."""

    client: Any
    folder: Path
    capsys: Any

    @property
    def storage(self) -> str:
        """The address of the storage that is the default here."""
        return f"sqlite:///{self.folder}/cache/studies.db"

    def tune(self, *words: str, code: int = 0) -> Any:
        """Run one worker in this process; return its run."""
        before = {run.info.run_id for run in self.runs()}
        assert toy.main(["--n_startup_trials=3", *words]) == code
        return next(run for run in self.runs() if run.info.run_id not in before and run.info.run_name.startswith("tune_toy"))

    def refused(self, *words: str) -> str:
        """Run a worker that must be refused; return its one line."""
        self.capsys.readouterr()
        assert toy.main(list(words)) == 2
        said = [line for line in self.capsys.readouterr().err.splitlines() if not line.startswith("taxon: trial")]
        assert len(said) == 1 and said[0].startswith("taxon: error: "), said
        return said[0].removeprefix("taxon: error: ")

    def start(self, *words: str, **env: str) -> subprocess.Popen:
        """Start a worker process in a group of its own; its output goes to `log`."""
        with open(self.folder / "log", "a") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.tuning.toy", "--n_startup_trials=3", *words],
                cwd=provenance.ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_TOP_PAD_": "268435456"} | env,
                stdout=file,
                stderr=file,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
            )

    def study(self, storage: str = "") -> optuna.Study:
        """Return the only study of a storage."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        (name,) = optuna.get_all_study_names(storage or self.storage)
        return optuna.load_study(study_name=name, storage=storage or self.storage)

    def trials(self, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        """Return the study's trials."""
        return self.study().get_trials(states=states)

    def runs(self) -> list[Any]:
        """Return all runs, newest first."""
        experiments = [e.experiment_id for e in self.client.search_experiments()]
        return list(self.client.search_runs(experiments, order_by=["attributes.start_time DESC"]))

    def study_run(self) -> Any:
        """Return the run of the only study, as it is now."""
        return self.client.get_run(self.study().user_attrs["runs"][0])

    def children(self, run: Any) -> list[Any]:
        """Return the trials' runs below a run, by number."""
        found = [
            one for one in self.runs() if one.data.tags.get("mlflow.parentRunId") == run.info.run_id and "taxon.trial" in one.data.tags
        ]
        return sorted(found, key=lambda one: int(one.data.tags["taxon.trial"]))

    def artifact(self, run: Any, name: str) -> Path:
        """Return an artifact's file."""
        return Path(run.info.artifact_uri.removeprefix("file://")) / name

    def table(self) -> pd.DataFrame:
        """Return trials.csv."""
        return pd.read_csv(self.artifact(self.study_run(), "trials.csv"), keep_default_na=False)

    def trained(self) -> list[tuple[str, int]]:
        """Return (run id, epoch) of every epoch that was trained, not read from a checkpoint."""
        lines = (self.folder / "cache" / "trained").read_text().splitlines()
        return [(line.split()[0], int(line.split()[1])) for line in lines]


@pytest.fixture
def bench(client, tmp_path, capsys, own_process_state, monkeypatch) -> Bench:  # noqa: F811
    """Return a bench on an empty store."""
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    monkeypatch.setenv("MALLOC_TOP_PAD_", "268435456")
    return Bench(client, tmp_path, capsys)
