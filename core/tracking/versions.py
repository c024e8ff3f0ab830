"""Registered versions: found by name, number, alias or origin; fetched and verified; the alias `champion` moved."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from mlflow import artifacts
from mlflow.exceptions import MlflowException

from core.errors import UserError, nearest
from core.tracking import registry, served
from core.tracking.identity import Identity
from core.tracking.patience import Client

CHAMPION = "champion"
PROMOTED_TAG = "taxon.promoted"  # says by which run a version was promoted
WHY_TAG = "taxon.promotion"
OVER_TAG = "taxon.promoted_over"  # the newest version that was looked at when a version was promoted
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the store's codes for no such version and no such alias


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    number: str
    run_id: str
    source: str
    tags: dict[str, str] = field(compare=False)

    def __str__(self) -> str:
        return f"version {self.number} of {self.name}"

    @property
    def uri(self) -> str:
        """Return models:/<name>/<number>."""
        return f"models:/{self.name}/{self.number}"

    def score(self, metric: str) -> float:
        """Return the metric that was recorded at registration; NaN where there is none."""
        with contextlib.suppress(KeyError, ValueError):
            return float(self.tags[f"taxon.held_out.{metric}"])
        return float("nan")


@contextlib.contextmanager
def registry_named(what: str) -> Iterator[None]:
    """Turn what the registry says into one line about `what`."""
    try:
        yield
    except MlflowException as error:
        raise UserError(f"{what} cannot be read from the registry: {str(error).splitlines()[0][:200]}") from None


def names(client: Client) -> list[str]:
    """Return the names of all registered models."""
    with registry_named("the list of models"):
        page = client.search_registered_models()
        found = [model.name for model in page]
        while page.token:
            page = client.search_registered_models(page_token=page.token)
            found += [model.name for model in page]
    return sorted(found)


def require_name(client: Client, name: str) -> None:
    """Raise UserError unless a model of this name is registered; name the nearest one."""
    known = names(client)
    if name not in known:
        there = f"; registered are {', '.join(known[:10])}" if known else "; nothing is registered in this store"
        raise UserError(f"no model '{name}' is registered{nearest(name, known) or there}")


def all_versions(client: Client, name: str) -> list[Version]:
    """Return the versions of a model, oldest first, deleted ones left out."""
    with registry_named(f"model '{name}'"):
        found, token = [], None
        while True:
            page = client.search_model_versions(f"name = '{name}'", page_token=token)
            found += [_version(one) for one in page if one.status == "READY"]
            token = page.token
            if not token:
                return sorted(found, key=lambda version: int(version.number))


def aliased(client: Client, name: str, alias: str) -> tuple[Version | None, str]:
    """Return the version that holds an alias and ''; or None and why: nobody holds it, or a version that has been deleted."""
    with registry_named(f"model '{name}'"):
        number = client.get_registered_model(name).aliases.get(alias)
        if number is None:
            return None, f"no version of {name} is {alias}"
        try:
            return _version(client.get_model_version(name, str(number))), ""
        except MlflowException as error:
            if error.error_code not in ABSENT:
                raise
            return None, f"the alias {alias} of {name} is held by version {number}, which has been deleted; it counts as absent"


def find(client: Client, name: str, wanted: str) -> Version:
    """Return the version that a number, an alias, `models:/...` or `runs:/<id>` means; raise UserError when it is none of `name`."""
    if wanted.startswith("runs:/"):
        return _of_source(client, name, wanted, lambda version: version.run_id == wanted.removeprefix("runs:/").split("/")[0])
    if wanted.startswith("models:/m-"):
        return _of_source(client, name, wanted, lambda version: version.source == wanted)
    if wanted.startswith("models:/"):
        path = wanted.removeprefix("models:/")
        other, _, wanted = path.partition("@" if "@" in path else "/")
        if other != name:
            raise UserError(f"candidate '{path}' is of the model '{other}', not of '{name}'; models of two names are not compared")
    if wanted.isdigit():
        numbers = {version.number: version for version in all_versions(client, name)}
        if wanted not in numbers:
            there = ", ".join(list(numbers)[-10:]) or "none"
            raise UserError(f"candidate: {name} has no version {wanted} (deleted, or never there); there are {there}")
        return numbers[wanted]
    version, why = aliased(client, name, wanted)
    if version is None:
        with registry_named(f"model '{name}'"):
            held = list(client.get_registered_model(name).aliases)
        raise UserError(
            f"candidate '{wanted}': {why}{nearest(wanted, held)} (give a version's number, an alias, models:/... or runs:/<id>)"
        )
    return version


def meant(client: Client, wanted: str, option: str = "model") -> Version:
    """Return the version that an input means, whatever its name.

    Args:
        wanted: models:/<name>/<number>, models:/<name>@<alias>, a name alone (its champion, else its newest version), a run that has
            registered one (its id, or runs:/<id>).
        option: the parameter, for messages.

    Raises:
        UserError: there is no such version.
    """
    if not wanted:
        raise UserError(f"{option} is empty; give a registered model (models:/<name>@{CHAMPION}) or the run that registered it")
    if wanted.startswith("runs:/") or re.fullmatch(r"[0-9a-f]{32}", wanted):
        return _of_run(client, wanted.removeprefix("runs:/").split("/")[0], f"{option} = '{wanted}'")
    path = wanted.removeprefix("models:/")
    at = max(path.rfind("@"), path.rfind("/"))
    name, which = (path, "") if at < 0 else (path[:at], path[at + 1 :])
    require_name(client, name)
    found = all_versions(client, name)
    numbers = {version.number: version for version in found}
    if which.isdigit() and path[at] == "/":
        if which not in numbers:
            there = ", ".join(list(numbers)[-10:]) or "none"
            raise UserError(f"{option} = '{wanted}': {name} has no version {which} (deleted, or never there); there are {there}")
        return numbers[which]
    version, why = aliased(client, name, which or CHAMPION)
    if version is None and (which or not found):
        raise UserError(f"{option} = '{wanted}': {why}; give models:/{name}/<number>, or promote a version first")
    return version or found[-1]


def _of_run(client: Client, run_id: str, what: str) -> Version:
    try:
        client.get_run(run_id)
    except MlflowException:
        raise UserError(f"{what}: this store has no run {run_id}; give models:/<name>@{CHAMPION} or another run") from None
    with registry_named(what):
        found = [_version(one) for one in client.search_model_versions(f"run_id = '{run_id}'") if one.status == "READY"]
    if not found:
        raise UserError(f"{what}: the run has registered no model; give a run of pseudo_pipeline, or models:/<name>@{CHAMPION}")
    return max(found, key=lambda version: int(version.number))


def fetch(version: Version, folder: Path) -> Path:
    """Fetch a version's files into `folder` and verify them; return the folder. Raise UserError naming what is missing or damaged."""
    try:
        found = Path(registry.ask(lambda: artifacts.download_artifacts(artifact_uri=version.uri, dst_path=str(folder)), f"fetch {version}"))
    except Exception as error:  # MLflow's own, and those of the libraries of stores: ImportError where there is none
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{version}: its files are missing or cannot be fetched ({said}); {served.REMEDY}") from None
    for cache in list(found.rglob("__pycache__")):  # not sealed, and Python would run it instead of the source that is
        shutil.rmtree(cache)
    try:
        flavour = yaml.safe_load((found / "MLmodel").read_text())["flavors"]["python_function"]
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        raise UserError(f"{version}: its MLmodel file is missing or damaged; {served.REMEDY}") from None
    data = found / str(flavour.get("data"))
    if flavour.get("loader_module") != served.LOADER or flavour.get("code") != "code" or data.parent != found / "data":
        raise UserError(f"{version} was not registered by this project, or by an older one, and is not loaded; register it again")
    try:
        served.check(data)
    except UserError as error:
        raise UserError(f"{version}: {error}") from None
    if registry.files_digest(found) != version.tags.get(registry.FILES_TAG):
        raise UserError(f"{version}: its files are not those that were registered; {served.REMEDY}")
    return found


def identity(folder: Path) -> Identity | None:
    """Return which models a fetched version may replace; None for one that an older version of this project registered."""
    try:
        (data,) = (folder / "data").iterdir()
        return Identity.read(data)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def evaluation(version: Version, folder: Path) -> registry.Evaluation:
    """Return what was recorded of a fetched version when it was registered."""
    try:
        (data,) = (folder / "data").iterdir()
        return registry.Evaluation.read(data)
    except (OSError, ValueError, TypeError):
        raise UserError(
            f"{version} does not say on what it was evaluated: it was trained without held-out items, or registered without them"
        ) from None


def chosen_by_oracle(client: Client, version: Version) -> bool:
    """Say whether the version, or the run it comes from, was selected with the truth of what is to be found."""
    if version.tags.get("taxon.select_by") == "oracle":
        return True
    with contextlib.suppress(MlflowException):  # the run may have been deleted
        return client.get_run(version.run_id).data.tags.get("taxon.select_by") == "oracle"
    return False


def finished(client: Client, version: Version) -> bool:
    """Say whether the run that a version comes from has finished."""
    with contextlib.suppress(MlflowException):
        return bool(client.get_run(version.run_id).info.status == "FINISHED")
    return False


def move_champion(client: Client, version: Version, promoted_by: str, why: str, newest: str) -> None:
    """Make `version` the champion. It is tagged first: who moves the alias at the same time from elsewhere sees the tag afterwards.

    newest: number of the newest version that was looked at for it.
    """
    with registry_named(str(version)):
        client.set_model_version_tag(version.name, version.number, OVER_TAG, newest)
        client.set_model_version_tag(version.name, version.number, PROMOTED_TAG, promoted_by)
        explain(client, version, why)
        client.set_registered_model_alias(version.name, CHAMPION, version.number)


def explain(client: Client, version: Version, why: str) -> None:
    """Record in a version's tag what became of its promotion, and why."""
    client.set_model_version_tag(version.name, version.number, WHY_TAG, why[:4000])


def since_promotion(champion: Version | None, found: list[Version]) -> list[Version]:
    """Return the versions that came after the champion's promotion; all where it became champion otherwise, or there is none."""
    newest = champion.tags.get(OVER_TAG, "") if champion is not None else ""
    return [version for version in found if version != champion and int(version.number) > (int(newest) if newest.isdigit() else 0)]


def study_of(client: Client, version: Version) -> tuple[str, int]:
    """Return the study whose best trial a version was trained like, and its number of trials; ('', 0) where none is known."""
    with contextlib.suppress(MlflowException):  # a run may have been deleted
        data = client.get_run(version.run_id).data
        origin = data.tags.get("taxon.config", "") or data.params.get("config", "")
        if origin.startswith("runs:/"):
            tags = client.get_run(origin.removeprefix("runs:/").split("/")[0]).data.tags
            trials = tags.get("taxon.trials", "")
            return (tags.get("taxon.study", ""), int(trials)) if trials.isdigit() else ("", 0)
    return "", 0


def promotions(client: Client, name: str) -> dict[str, str]:
    """Return by which run each version was promoted, of those that ever were."""
    return {version.number: version.tags[PROMOTED_TAG] for version in all_versions(client, name) if PROMOTED_TAG in version.tags}


def _version(found: Any) -> Version:
    return Version(found.name, str(found.version), found.run_id or "", found.source or "", dict(found.tags))


def _of_source(client: Client, name: str, wanted: str, matches: Any) -> Version:
    found = [version for version in all_versions(client, name) if matches(version)]
    if not found:
        raise UserError(f"candidate '{wanted}': {name} has no version from there; give a version's number or another alias")
    return found[-1]
