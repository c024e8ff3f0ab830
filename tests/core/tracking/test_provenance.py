"""Where results come from: digests that move with the code, and nothing that names the machine."""

from __future__ import annotations

import socket
import subprocess

import pytest

from core.tracking import provenance, run


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a small project folder that provenance looks at, with nothing remembered before or after."""
    for folder in ("core", "entrypoints", "tests"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    provenance.code_digest.cache_clear()
    provenance.git_dirty.cache_clear()


def code_digest() -> str:
    provenance.code_digest.cache_clear()
    return provenance.code_digest()


@pytest.mark.parametrize("folder", ["core", "entrypoints"])
def test_the_code_digest_moves_with_content_and_name(project, folder):
    before = code_digest()
    assert code_digest() == before
    (project / folder / "a.py").write_text("x = 2\n")
    changed = code_digest()
    (project / folder / "a.py").write_text("x = 1\n")
    (project / folder / "a.py").rename(project / folder / "b.py")
    assert len({before, changed, code_digest()}) == 3


def test_tests_and_caches_do_not_change_it(project):
    before = code_digest()
    (project / "tests" / "a.py").write_text("x = 2\n")
    (project / "core" / "a.pyc").write_bytes(b"x")
    assert code_digest() == before


def test_a_dirty_tree_is_said_to_be_dirty(project):
    assert provenance.git_dirty() == "unknown"
    subprocess.run(["git", "-C", str(project), "init", "-q"], check=True)
    provenance.git_dirty.cache_clear()
    assert provenance.git_dirty() == "true"


def test_the_host_is_stable_and_not_its_name(monkeypatch, tmp_path):
    monkeypatch.setattr(socket, "gethostname", lambda: "anns-laptop")
    first = provenance.host()
    assert first == provenance.host() and len(first) == 12 and "ann" not in first
    assert not any("anns-laptop" in value for value in provenance.tags().values())
    monkeypatch.setattr(socket, "gethostname", lambda: "bens-laptop")
    assert provenance.host() != first
    monkeypatch.setattr(socket, "gethostname", lambda: "anns-laptop")
    monkeypatch.setenv("TAXON_CACHE", str(tmp_path))
    assert provenance.host() != first


def test_the_store_hint_never_shows_a_password(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///x.db")
    assert provenance.store_hint() == " --backend-store-uri sqlite:///x.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@host/db")
    assert provenance.store_hint() == ""


def test_a_page_is_named_by_an_address_that_opens_it_as_a_training_s(monkeypatch):
    page = "/#/experiments/7/runs/abc?workflowType=machine_learning"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///x.db")
    assert provenance.shown_at("7", "abc") == f"mlflow ui --backend-store-uri sqlite:///x.db, then http://127.0.0.1:5000{page}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://tracking.example/")
    assert provenance.shown_at("7", "abc") == f"https://tracking.example{page}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@tracking.example")
    assert "secret" not in provenance.shown_at("7", "abc")


def test_versions_name_what_is_absent(monkeypatch):
    monkeypatch.setattr(provenance, "LIBRARIES", ("numpy", "no-such-library"))
    provenance.versions.cache_clear()
    found = provenance.versions()
    provenance.versions.cache_clear()
    assert found["no-such-library"] == "absent" and found["numpy"][0].isdigit() and "python" in found


PRINT = 'mlflow() { printf "%s\\n" "$@"; }; HOME=/changed; '  # a shell in which `mlflow` shows what it was given


@pytest.mark.parametrize("folder", ["my photos", "$HOME/a", "it's", 'a "b"', "a;b&c|d", "a*?[x]", "图片 é", "`id`", "a\\b"])
def test_a_pasted_command_gives_back_the_words_that_it_was_made_of(monkeypatch, folder):
    uri = f"sqlite:////tmp/{folder}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(provenance, "_explicit", {"data_root": f"/tmp/{folder}", "seed": "3"})
    commands = {
        run.command_line("pseudo_pipeline"): ["run", ".", "-e", "pseudo_pipeline", "-P", f"data_root=/tmp/{folder}", "-P", "seed=3"],
        f"mlflow ui{provenance.store_hint()}": ["ui", "--backend-store-uri", uri],
    }
    for command, words in commands.items():
        done = subprocess.run(["bash", "-c", PRINT + command], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == words
