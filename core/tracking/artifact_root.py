"""Whether this process can write artifacts where a run's experiment keeps them: found out before anything is trained.

MLflow asks for a store's client library only when the first file goes there, which may be hours later: some of its repositories import it
when they are made, some when they are used, one not at all but by the names that it would bring.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from core.errors import UserError, nearest
from core.places import unwritable
from core.tracking.patience import Client, at_most
from core.tracking.recorder import Recorder
from core.tracking.store import without_password
from core.tracking.uri import local_artifacts, scheme_of


@dataclass(frozen=True)
class Library:
    """What a store's repository imports.

    Attributes:
        module: imported by it.
        package: holds the module.
        name: of what is taken from the module; empty = nothing in particular. A build of pyarrow may be without HDFS.
        unless: environment variables of which any one makes it needless.
    """

    module: str
    package: str
    name: str = ""
    unless: tuple[str, ...] = ()

    def lacking(self) -> str:
        """Return why it cannot be used; '' = it can. It is imported as it will be: one that is there may be broken."""
        if any(os.environ.get(name) for name in self.unless):
            return ""
        try:
            module = importlib.import_module(self.module)
        except Exception as error:  # whatever a library that does not fit says when it is imported
            return _line(error)
        return f"{self.module} has no {self.name}" if self.name and not hasattr(module, self.name) else ""


S3 = (Library("boto3", "boto3"),)
HDFS = (Library("pyarrow.fs", "pyarrow", "HadoopFileSystem"),)
LIBRARIES = {
    "s3": S3,
    "r2": S3,
    "b2": S3,
    "gs": (Library("google.cloud.storage", "google-cloud-storage"),),
    "wasbs": (
        Library("azure.storage.blob", "azure-storage-blob"),
        Library("azure.identity", "azure-identity", unless=("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCESS_KEY")),
    ),
    "abfss": (
        Library("azure.storage.filedatalake", "azure-storage-file-datalake"),
        Library("azure.identity", "azure-identity", unless=("AZURE_STORAGE_SAS_TOKEN",)),
    ),
    "hdfs": HDFS,
    "viewfs": HDFS,
    "sftp": (Library("paramiko", "paramiko"), Library("pysftp", "pysftp")),
    "dbfs": (Library("databricks.sdk", "databricks-sdk"),),
}
PLUGINS = {"oss": "aliyunstoreplugin"}  # packages that bring schemes which MLflow itself does not know
POINTERS = ("runs", "models")  # addresses of what lies elsewhere: MLflow reads them, but keeps nothing there
ELSEWHERE = "name an experiment whose artifacts lie elsewhere in MLFLOW_EXPERIMENT_NAME"
PROXIED = "mlflow-artifacts"  # the server keeps the files: libraries and rights are its own


def of_run(artifact_uri: str, run_id: str) -> str:
    """Return the root that a run's artifacts lie under: the experiment's, as a user has named it."""
    return artifact_uri.removesuffix(f"/{run_id}/artifacts")


def settle(run: Recorder, artifact_uri: str, seconds: float) -> None:
    """Find out whether the artifacts of a run that is open can be stored; a distant store gets the first small file.

    Args:
        artifact_uri: where the run's artifacts go.
        seconds: for which a distant store is waited for.

    Raises:
        UserError: they cannot.
    """
    root = of_run(artifact_uri, run.run_id)
    require(root)
    if distant(root):
        command = Client().get_run(run.run_id).data.tags.get("taxon.command", "")
        with refusal_named(root), at_most(seconds):
            run.write("command.txt", lambda path: path.write_text(f"{command}\n"))


def require(uri: str) -> None:
    """Raise UserError where files cannot go to `uri`, as far as that is seen from here; nothing is asked of a distant store."""
    if reason := unusable(uri):
        raise UserError(f"the artifact root '{shown(uri)}' cannot be used: {reason}, or {ELSEWHERE}")


def unusable(uri: str) -> str:
    """Return why files can neither be written to nor read from `uri`, and what to do; '' = nothing is known against it."""
    folder = local_artifacts(uri)
    if folder is not None:
        place = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))
        said = unwritable(place)
        return f"{place} cannot be written ({said}); make it writable" if said else ""
    scheme = scheme_of(uri)
    if scheme == PROXIED and scheme_of(os.environ.get("MLFLOW_TRACKING_URI", "")) not in ("http", "https"):
        return "only a server reaches it, and MLFLOW_TRACKING_URI is none; set it to the server's address"
    if scheme not in _known():
        return _unknown(scheme)
    return lacking(scheme)


def lacking(scheme: str) -> str:
    """Return which packages a scheme's stores need and are not here, and the command that brings them; '' = none."""
    found = {library.package: said for library in LIBRARIES.get(scheme, ()) if (said := library.lacking())}
    if not found:
        return ""
    named, reasons = " and ".join(found), "; ".join(dict.fromkeys(found.values()))
    return f"it needs the package{'s' if len(found) > 1 else ''} {named} ({reasons}); run 'pip install {' '.join(found)}'"


def _known() -> list[str]:
    """Return the schemes that MLflow, with the plugins that are installed, keeps files under."""
    from mlflow.store.artifact.artifact_repository_registry import get_registered_artifact_repositories

    return [scheme for scheme in get_registered_artifact_repositories() if scheme not in POINTERS]


def _unknown(scheme: str) -> str:
    known = [name for name in _known() if name]
    if scheme in PLUGINS:
        return f"it needs the package {PLUGINS[scheme]}, which is not installed; run 'pip install {PLUGINS[scheme]}'"
    return f"MLflow keeps nothing under {scheme}: (only under {', '.join(known)}){nearest(scheme, known)}; install a plugin for it"


def distant(uri: str) -> bool:
    """Say whether files go to a store of its own: neither a folder nor a server's, whose rights are not this process's."""
    return local_artifacts(uri) is None and scheme_of(uri) != PROXIED


@contextlib.contextmanager
def refusal_named(uri: str) -> Iterator[None]:
    """Turn whatever a distant store's library says of the first file into a UserError: credentials and buckets show only there."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # every client library raises its own
        said = f"the artifact root '{shown(uri)}' takes no file ({_line(error)})"
        raise UserError(f"{said}; mend its address, credentials or rights, or {ELSEWHERE}") from None


def shown(uri: str) -> str:
    """Return a root as it may be printed: buckets stand where others have their user's name, passwords behind it."""
    return without_password(uri) if urlsplit(uri).password else uri


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
