"""The reason of a refused command reaches the run without MLflow, as MLflow itself then tells it."""

import http.server
import json
import os
import threading

import pytest

from core.tracking import lifeline, refusal


@pytest.fixture
def made(client):
    """Return the id of a run that nobody has taken over, in the store of MLFLOW_TRACKING_URI."""
    return client.create_run(client.get_experiment_by_name("taxon").experiment_id).info.run_id


def told(client, run_id):
    run = client.get_run(run_id)
    return run.info.status, run.data.tags.get(refusal.REASON_TAG), (run.info.end_time or 0) > 0


def test_a_file_s_run_is_failed_and_says_why(client, made):
    assert refusal.record(made, "k_min = 9: too large") and refusal.record(made, "once more")
    assert told(client, made) == ("FAILED", "once more", True)


def test_it_takes_the_name_that_it_would_have_had(client, made):
    drawn = client.get_run(made).info.run_name
    assert refusal.record(made, "why") and client.get_run(made).info.run_name == drawn
    assert refusal.record(made, "why", "train_clip", "flowers lr=1")
    run = client.get_run(made)
    assert (run.info.run_name, run.data.tags["mlflow.runName"], run.data.tags["taxon.entry_point"]) == (*["flowers lr=1"] * 2, "train_clip")


def test_a_long_reason_is_cut_as_everywhere(client, made):
    assert refusal.record(made, "x" * 9000)
    assert len(told(client, made)[1]) == 5000


def test_the_store_is_found_where_mlflow_run_was_called(client, made, tmp_path, monkeypatch):
    folder, name = os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///").rsplit("/", 1)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{name}")
    assert not refusal.record(made, "why")
    monkeypatch.setattr(lifeline, "launcher_folders", lambda: [folder])
    assert refusal.record(made, "why") and told(client, made)[:2] == ("FAILED", "why")
    assert not (tmp_path / "project" / name).exists()


@pytest.mark.parametrize(
    "uri", ["postgresql://me@127.0.0.1:9/db", "sqlite:///{tmp}/none.db", "sqlite:///{tmp}/text.db", "http://127.0.0.1:9"]
)
def test_what_it_cannot_write_is_left_to_mlflow(uri, tmp_path, monkeypatch):
    (tmp_path / "text.db").write_text("no database")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(tmp=tmp_path))
    assert not refusal.record("0" * 32, "why")
    assert not (tmp_path / "none.db").exists() and (tmp_path / "text.db").read_text() == "no database"


def test_a_run_of_another_store_is_not_invented(client, made):
    assert not refusal.record("0" * 32, "why")
    assert told(client, made) == ("RUNNING", None, False)


@pytest.fixture
def server():
    """Yield a server's address and the requests that it was sent."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}", seen
        found.shutdown()


def test_a_server_is_told_over_rest(server, monkeypatch):
    address, seen = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{address}/")
    assert refusal.record("abc", "why", "train_clip", "flowers lr=1")
    (first, tag), (_, of), (second, update) = seen
    assert (of["key"], of["value"], update["run_name"]) == ("taxon.entry_point", "train_clip", "flowers lr=1")
    assert first == "/api/2.0/mlflow/runs/set-tag" and tag == {"run_id": "abc", "key": "taxon.reason", "value": "why"}
    assert second == "/api/2.0/mlflow/runs/update" and (update["run_id"], update["status"]) == ("abc", "FAILED")


def test_a_server_with_a_password_is_left_to_mlflow(server, monkeypatch):
    address, seen = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    assert not refusal.record("abc", "why") and seen == []
