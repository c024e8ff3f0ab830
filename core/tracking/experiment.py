"""The experiment that this process's runs go to: the one that the environment names, or the project's own."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator

from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException

from core.errors import UserError
from core.tracking.patience import Client
from core.tracking.store import machine_lock

EXPERIMENT = "taxon"
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # how stores say that there is no such run or experiment
UI_KIND = "mlflow.experimentKind"
UI_LAYOUT = {UI_KIND: "custom_model_development"}  # the UI then opens on runs and charts, not on chat traces


def of_process(client: Client) -> str:
    """Return the id of MLFLOW_EXPERIMENT_ID / MLFLOW_EXPERIMENT_NAME, or of the experiment `taxon`, made when absent."""
    if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        remedy = "unset MLFLOW_EXPERIMENT_ID, or name the experiment in MLFLOW_EXPERIMENT_NAME"
        with refused(f"MLFLOW_EXPERIMENT_ID = '{given}' is no experiment of this store", remedy):
            found = client.get_experiment(given)
        _require_live_experiment(found, "MLFLOW_EXPERIMENT_ID")
        return found.experiment_id
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    with machine_lock(f"experiment {name}"):
        named = client.get_experiment_by_name(name)
        if named is None:
            try:
                return client.create_experiment(name, tags=UI_LAYOUT)
            except MlflowException:
                named = client.get_experiment_by_name(name)
                if named is None:  # it is not that another machine was faster
                    raise
        _require_live_experiment(named, "MLFLOW_EXPERIMENT_NAME")
        return named.experiment_id


def show_as_training(client: Client, experiment_id: str) -> None:
    """Let the UI open on runs and charts, unless somebody has said what the experiment is of; a store that refuses is no error."""
    with contextlib.suppress(MlflowException):
        if UI_KIND not in client.get_experiment(experiment_id).tags:
            client.set_experiment_tag(experiment_id, UI_KIND, UI_LAYOUT[UI_KIND])


def _require_live_experiment(found: Experiment, variable: str) -> None:
    if found.lifecycle_stage == "deleted":
        restore = shlex.join(["mlflow", "experiments", "restore", "--experiment-id", found.experiment_id])
        raise UserError(f"experiment '{found.name}' has been deleted; bring it back with '{restore}' or set {variable} to another")


@contextlib.contextmanager
def refused(what: str, remedy: str) -> Iterator[None]:
    """Turn the store's answer that there is no such thing into a UserError; an outage passes as it is."""
    try:
        yield
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        raise UserError(f"{what} ({_first_line(error)}); {remedy}") from None


def _first_line(error: MlflowException) -> str:
    return (str(error).splitlines() or [""])[0][:160]
