"""What the test and benchmark commands start: in which environment, and what they tell of it."""

from __future__ import annotations

from core.stages import commands


def test_what_is_started_tracks_for_itself_and_may_keep_what_python_compiles(monkeypatch):
    for name, value in (("MLFLOW_RUN_ID", "a" * 32), ("TAXON_CACHE", "/a"), ("PYTHONDONTWRITEBYTECODE", "1"), ("LANG", "C.UTF-8")):
        monkeypatch.setenv(name, value)
    environment = commands.clean_environment()
    assert not {"MLFLOW_RUN_ID", "TAXON_CACHE", "PYTHONDONTWRITEBYTECODE"} & environment.keys()
    assert environment["LANG"] == "C.UTF-8" and environment["HF_HUB_OFFLINE"] == "1"


def test_the_tests_run_in_a_process_of_their_own_and_are_counted(monkeypatch, tmp_path):
    """The command's whole way: pytest in a process of its own, its report read, its counts logged."""
    figures = {}

    class Run:
        file = staticmethod(lambda path: figures.update(report=path.read_text()))
        metrics = staticmethod(lambda values, step: figures.update(values))

    (tmp_path / "test_two.py").write_text("def test_one(): pass\n\ndef test_two(): pass\n")
    monkeypatch.setattr(commands.cores, "usable", lambda: 1)
    counts = commands.test(commands.TestConfig(f"{tmp_path}/test_two.py -p no:cacheprovider"), Run())
    assert counts == {"tests": 2, "failures": 0, "errors": 0, "skipped": 0} and figures["tests/tests"] == 2
    assert 'tests="2"' in figures["report"]
