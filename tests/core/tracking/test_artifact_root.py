"""Where artifacts cannot go, the run says it in one line before it works: libraries that are missing, schemes, rights."""

from __future__ import annotations

import shutil
import sys
from types import ModuleType

import pytest
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_registered_artifact_repositories

from core.errors import UserError
from core.tracking import artifact_root
from core.tracking import run as tracking

AZURE = ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_SAS_TOKEN")
LIBRARIES = ("boto3", "google.cloud.storage", "azure.storage.blob", "azure.storage.filedatalake", "azure.identity", "pyarrow.fs")
LIBRARIES += ("paramiko", "pysftp", "databricks.sdk")
NEEDED = [
    ("s3://bucket/x", "boto3"),
    ("S3://bucket/x", "boto3"),
    ("r2://bucket@account.r2.cloudflarestorage.com/x", "boto3"),
    ("b2://bucket@s3.us-west-004.backblazeb2.com/x", "boto3"),
    ("gs://bucket/x", "google-cloud-storage"),
    ("wasbs://container@account.blob.core.windows.net/x", "azure-storage-blob azure-identity"),
    ("abfss://system@account.dfs.core.windows.net/x", "azure-storage-file-datalake azure-identity"),
    ("hdfs://host:8020/x", "pyarrow"),
    ("hdfs:/x", "pyarrow"),
    ("viewfs://host/x", "pyarrow"),
    ("sftp://user@host/x", "paramiko pysftp"),
    ("dbfs:/x", "databricks-sdk"),
]


@pytest.fixture(autouse=True)
def without_libraries(monkeypatch):
    """Hide every store's client library, whether or not it is installed here."""
    for name in LIBRARIES:
        monkeypatch.setitem(sys.modules, name, None)
    for name in AZURE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")


def refusal(uri: str) -> str:
    with pytest.raises(UserError) as caught:
        artifact_root.require(uri)
    said = str(caught.value)
    assert said.startswith(f"the artifact root '{uri}' cannot be used: ") and "\n" not in said and "MLFLOW_EXPERIMENT_NAME" in said
    return said


@pytest.mark.parametrize(("uri", "packages"), NEEDED)
def test_a_missing_library_is_named_with_the_command_that_brings_it(uri, packages):
    said = refusal(uri)
    assert f"run 'pip install {packages}'" in said and " and ".join(packages.split()) in said


@pytest.mark.parametrize(("uri", "packages"), NEEDED)
def test_libraries_that_are_there_are_enough(uri, packages, monkeypatch):
    for name in LIBRARIES:
        module = ModuleType(name)
        module.HadoopFileSystem = None
        monkeypatch.setitem(sys.modules, name, module)
    artifact_root.require(uri)


def test_every_scheme_of_mlflow_is_known_here():
    needless = {"", "file", "ftp", "http", "https", "mlflow-artifacts", "runs", "models"}
    assert set(get_registered_artifact_repositories()) == needless | set(artifact_root.LIBRARIES)


def test_credentials_in_the_environment_make_a_library_needless(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCESS_KEY", "x")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "x")
    assert "pip install azure-storage-blob'" in refusal("wasbs://container@account.blob.core.windows.net/x")
    assert "pip install azure-storage-file-datalake'" in refusal("abfss://system@account.dfs.core.windows.net/x")


def test_a_library_that_breaks_when_it_is_imported_counts_as_missing(tmp_path, monkeypatch):
    (tmp_path / "boto3.py").write_text("raise RuntimeError('built for another Python')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "boto3")
    assert "built for another Python" in refusal("s3://bucket")


def test_a_pyarrow_without_hdfs_is_not_enough(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.fs", ModuleType("pyarrow.fs"))
    assert "pyarrow.fs has no HadoopFileSystem" in refusal("hdfs:/x")


@pytest.mark.parametrize(
    ("uri", "part"),
    [
        ("s3a://bucket/x", "did you mean 's3'?"),
        ("abfs://system@account/x", "did you mean 'abfss'?"),
        ("oss://bucket/x", "pip install aliyunstoreplugin"),
        ("runs:/0123/x", "MLflow keeps nothing under runs:"),
        ("nonsense:x", "MLflow keeps nothing under nonsense:"),
        ("sqlite:///x.db", "MLflow keeps nothing under sqlite:"),
    ],
)
def test_a_scheme_that_mlflow_does_not_know(uri, part):
    assert part in refusal(uri)


@pytest.mark.parametrize("uri", ["mlflow-artifacts:/0", "mlflow-artifacts://host/0", "ftp://host/x", "https://host/x"])
def test_what_needs_no_library_goes_on_working(uri):
    artifact_root.require(uri)


def test_a_proxied_root_needs_a_server(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert "only a server reaches it" in refusal("mlflow-artifacts:/0")


def test_a_folder_is_not_made_but_must_be_possible(tmp_path):
    for uri in (f"{tmp_path}/a/b", f"file://{tmp_path}/a%20b/c"):
        artifact_root.require(uri)
    (tmp_path / "file").write_text("")
    for uri in (f"{tmp_path}/file/x", f"file://{tmp_path}/file"):
        assert f"{tmp_path}/file cannot be written" in refusal(uri)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_password_in_an_address_is_not_printed():
    with pytest.raises(UserError) as caught:
        artifact_root.require("sftp://user:secret@host/x")
    assert "secret" not in str(caught.value) and "sftp://...@host/x" in str(caught.value)


@pytest.fixture
def distant(tracking_env, store_template, monkeypatch) -> MlflowClient:
    """Return the client of a store whose experiment keeps its artifacts at an FTP server that does not answer."""
    shutil.copy(store_template, tracking_env / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tracking_env}/mlflow.db")
    client = MlflowClient()
    client.create_experiment("taxon", artifact_location="ftp://127.0.0.1:9/x")
    return client


def only_run(client):
    (found,) = client.search_runs([client.get_experiment_by_name("taxon").experiment_id])
    return found


def test_a_store_that_refuses_is_found_by_the_first_small_file(distant, monkeypatch):
    monkeypatch.setattr(tracking, "BRIEFLY", 0.1)
    with pytest.raises(UserError, match=r"^the artifact root 'ftp://127.0.0.1:9/x' takes no file \(.+\); mend its address"):
        tracking.open_run("train_longtail", "x")
    assert only_run(distant).info.status == "FAILED" and "takes no file" in only_run(distant).data.tags["taxon.reason"]


def test_the_first_small_file_is_the_command(distant, monkeypatch):
    sent = {}

    def log_artifact(self, run_id, path, folder=None):
        with open(path) as file:
            sent[path.rsplit("/", 1)[-1]] = file.read()

    monkeypatch.setattr(MlflowClient, "log_artifact", log_artifact)
    tracking.open_run("train_longtail", "x").finish()
    assert sent == {"command.txt": only_run(distant).data.tags["taxon.command"] + "\n"}
