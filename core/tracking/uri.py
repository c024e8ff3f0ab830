"""One resolver for every input: `runs:/<id>/<path>`, `models:/<name>@<alias>` or a local path."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from core.errors import UserError
from core.tracking.store import scratch


def resolve(uri: str, what: str) -> Path:
    """Return a local path of `uri`; raise UserError that names `what` was asked for when there is nothing.

    Remote artifacts are downloaded into the cache; local artifact stores are read in place.
    """
    if uri.startswith(("runs:/", "models:/")):
        return _fetch(uri, what)
    if "://" in uri:
        raise UserError(f"{what} = '{uri}' is neither a runs:/ or models:/ URI nor a local path; give one of these")
    path = Path(uri).expanduser()
    if not path.exists():
        raise UserError(f"{what} = '{uri}' does not exist; give a runs:/<id>/<path> URI or an existing path")
    return path


def local_artifacts(artifact_uri: str) -> Path | None:
    """Return the folder behind a run's artifact URI when it lies on this machine."""
    scheme = scheme_of(artifact_uri)
    if scheme == "file":
        return Path(unquote(urlsplit(artifact_uri).path))
    return None if scheme else Path(artifact_uri)


def scheme_of(uri: str) -> str:
    """Return the scheme of an address, `dbfs` of dbfs:/a as of dbfs://b/a; '' for a path."""
    return urlsplit(uri).scheme


def _fetch(uri: str, what: str) -> Path:
    from mlflow import artifacts

    from core.tracking.patience import Client, patiently

    try:
        if uri.startswith("runs:/"):
            run_id, _, path = uri.removeprefix("runs:/").partition("/")
            if ".." in PurePosixPath(path).parts or path.startswith("/"):
                raise UserError(f"{what} = '{uri}' leaves its run's folder; give a path inside the run's artifacts")
            folder = local_artifacts(Client().get_run(run_id).info.artifact_uri)
            if folder is not None:
                if not (folder / path).exists():
                    raise UserError(f"{what} = '{uri}': the run has no artifact '{path}'; look at the run's Artifacts page")
                return folder / path
        place = str(scratch("download"))
        return Path(patiently(lambda: artifacts.download_artifacts(artifact_uri=uri, dst_path=place), f"fetch {what}"))
    except UserError:
        raise
    except Exception as error:  # MLflow's own, and those of the libraries of stores: ImportError where there is none
        raise UserError(f"{what} = '{uri}' cannot be read: {' '.join(str(error).split())[:160] or type(error).__name__}") from None
