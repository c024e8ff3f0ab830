"""A study: a budget, honest ends of its trials, the same draws for the same seed, and artifacts that a training takes."""

from __future__ import annotations

import json
from itertools import product

import pytest
from mlflow.exceptions import MlflowException
from optuna.trial import TrialState

from core import config as configuration
from core.tracking import stage
from tests.tuning import toy
from tests.tuning.conftest import FINISHED
from tuning import plots
from tuning.trial import Task


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """Leave the plots, which take longer than a study of toys, to the tests about them."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(plots, "write", lambda *arguments: [])


@pytest.fixture
def pictures():
    """Ask for the plots."""


def params(trials) -> list[tuple[float, int]]:
    return [(trial.params["x"], trial.params["depth"]) for trial in trials]


def test_a_study_has_a_run_with_a_nested_run_for_each_trial(bench):
    run = bench.tune("--n_trials=5", "--pruner=none")
    children = bench.children(run)
    assert run.info.status == "FINISHED" and len(children) == 5
    assert [child.info.run_name for child in children] == [f"trial {i:03d}" for i in range(5)]
    for trial, child in zip(bench.trials(), children, strict=True):
        assert child.info.status == "FINISHED" and trial.user_attrs["run_id"] == child.info.run_id
        assert float(child.data.params["x"]) == trial.params["x"]
        assert float(child.data.tags["taxon.trial_value"]) == trial.value == child.data.metrics["trial/toy"]
        assert len(bench.client.get_metric_history(child.info.run_id, "val/toy")) == 4
    assert run.data.params["search.x"] == "0..1" and run.data.params["epochs"] == "4"


def test_the_studys_run_holds_values_best_table_and_plots(bench, pictures):
    run = bench.tune("--n_trials=6", "--pruner=none")
    values = [trial.value for trial in bench.trials()]
    best = max(values)
    history = {m.step: m.value for m in bench.client.get_metric_history(run.info.run_id, "trial/toy")}
    assert history == pytest.approx(dict(enumerate(values)))
    so_far = {m.step: m.value for m in bench.client.get_metric_history(run.info.run_id, "best/toy")}
    assert so_far == pytest.approx({i: max(values[: i + 1]) for i in range(6)})
    table = bench.table()
    assert list(table["number"]) == list(range(6)) and max(table["value"]) == pytest.approx(best)
    drawn = {path.name for path in bench.artifact(run, "plots").iterdir()}
    assert drawn == {"history.png", "slice.png", "parallel_coordinates.png", "contour.png", "importances.png"}
    run = bench.study_run()
    assert float(run.data.tags["taxon.best_value"]) == best
    assert f"-P config=runs:/{run.info.run_id}/best.json" in run.data.tags["mlflow.note.content"]
    assert json.loads(bench.artifact(run, "study.json").read_text())["signature"]["space"] == "toy"


def test_best_json_is_what_the_training_takes_as_config(bench):
    run = bench.tune("--n_trials=4", "--offset=0.5", "--pruner=none")
    best = bench.study().best_trial
    taken = configuration.parse(toy.ToyConfig, [f"--config=runs:/{run.info.run_id}/best.json"], "train_toy")
    assert taken == toy.ToyConfig(x=best.params["x"], depth=best.params["depth"], offset=0.5)
    other = configuration.parse(toy.ToyConfig, [f"--config=runs:/{run.info.run_id}/best.json", "--depth=4"], "train_toy")
    assert (other.x, other.depth) == (best.params["x"], 4)


def test_the_same_command_again_adds_nothing_and_a_larger_budget_adds_the_rest(bench):
    first = bench.tune("--n_trials=3", "--pruner=none")
    again = bench.tune("--n_trials=3", "--pruner=none")
    assert len(bench.trials()) == 3
    assert again.data.tags["taxon.continues"] == again.data.tags["mlflow.parentRunId"] == first.info.run_id
    bench.tune("--n_trials=5", "--pruner=none")
    assert len(bench.trials()) == 5 and len(bench.children(first)) == 5
    steps = [metric.step for metric in bench.client.get_metric_history(first.info.run_id, "trial/toy")]
    assert sorted(steps) == list(range(5))
    assert bench.study_run().info.status == "FINISHED" and len(bench.table()) == 5


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_seed_fixes_the_values_and_resuming_draws_what_would_have_been_drawn(bench, sampler):
    words = ("--pruner=none", f"--sampler={sampler}", f"--storage=sqlite:///{bench.folder}/a.db", "--also=kind")
    bench.tune("--n_trials=7", *words)
    bench.tune("--n_trials=4", "--study_name=parts", *words)
    bench.tune("--n_trials=7", "--study_name=parts", *words)
    bench.tune("--n_trials=7", "--study_name=other", "--sampler_seed=2", *words)
    address = f"sqlite:///{bench.folder}/a.db"
    whole, parts, other = (params(toy.load(address, name).trials) for name in (bench_name(address), "parts", "other"))
    assert whole == parts and whole != other
    assert len({x for x, _depth in whole}) == 7


def bench_name(address: str) -> str:
    import optuna

    return next(name for name in optuna.get_all_study_names(address) if name.startswith("toy-"))


def test_a_result_that_exists_already_is_not_trained_again(bench):
    bench.tune("--n_trials=3", "--pruner=none")
    before = len(bench.trained())
    bench.tune("--n_trials=3", "--pruner=none", "--study_name=copy")
    assert len(bench.trained()) == before
    first, second = (toy.load(bench.storage, name) for name in (bench_name(bench.storage), "copy"))
    assert [trial.value for trial in first.trials] == [trial.value for trial in second.trials]


def test_the_grid_is_the_older_grid_exactly(bench):
    bench.tune("--sampler=grid", "--pruner=none")
    assert sorted(params(bench.trials())) == sorted(product((0.1, 0.3, 0.9), (1, 2)))
    assert params(bench.trials()) != sorted(params(bench.trials()))  # in a random order, so that a part of it is a fair sample


def test_a_part_of_the_grid_can_be_tried_and_a_failed_point_is_not_replaced(bench):
    bench.tune("--sampler=grid", "--n_trials=2", "--sampler_seed=none")
    assert len(bench.trials()) == 2
    bench.tune("--sampler=grid", "--study_name=failing", "--broken=error", "--pruner=none")
    study = toy.load(bench.storage, "failing")
    assert sorted(params(study.trials)) == sorted(product((0.1, 0.3, 0.9), (1, 2)))
    assert {trial.params["x"] for trial in study.trials if trial.state == TrialState.FAIL} == {0.9}


def test_a_pruned_trial_is_no_failure_and_leaves_nothing_behind(bench):
    run = bench.tune("--n_trials=14", "--pruner_warmup=0", "--n_startup_trials=3")
    pruned = [trial for trial in bench.trials() if trial.state == TrialState.PRUNED]
    assert pruned and len(bench.trials(FINISHED)) == 14
    children = {child.info.run_id: child for child in bench.children(run)}
    for trial in pruned:
        child = children[trial.user_attrs["run_id"]]
        assert child.info.status == "FINISHED" and child.data.tags["taxon.trial_state"] == "PRUNED"
        assert trial.last_step < 4 and "taxon.trial_value" not in child.data.tags
    assert list((bench.folder / "cache" / "work").iterdir()) == []


def test_no_pruner_prunes_nothing_and_halving_prunes(bench):
    bench.tune("--n_trials=14", "--pruner=none")
    assert {trial.state for trial in bench.trials()} == {TrialState.COMPLETE}
    bench.tune("--n_trials=14", "--pruner=halving", "--pruner_warmup=1", "--study_name=halving", "--offset=1")
    assert TrialState.PRUNED in {trial.state for trial in toy.load(bench.storage, "halving").trials}


def test_warm_up_epochs_are_not_pruned(bench):
    bench.tune("--n_trials=14", "--pruner_warmup=4")
    assert {trial.state for trial in bench.trials()} == {TrialState.COMPLETE}


@pytest.mark.parametrize(("broken", "why"), [("nan", "not finite"), ("error", "the toy broke"), ("mistake", "loss L_total is not finite")])
def test_failed_trials_say_why_and_do_not_end_the_study(bench, broken, why):
    run = bench.tune("--n_trials=8", f"--broken={broken}", "--pruner=none")
    failed = [trial for trial in bench.trials() if trial.state == TrialState.FAIL]
    assert failed and all(why in trial.user_attrs["reason"] for trial in failed)
    assert len(bench.trials(FINISHED)) == 8
    runs = [bench.client.get_run(trial.user_attrs["run_id"]) for trial in failed]
    assert {one.info.status for one in runs} == {"FAILED"} and all(why in one.data.tags["taxon.reason"] for one in runs)
    assert run.info.status == "FINISHED"
    table = bench.table()
    assert all(why in reason for reason in table[table["state"] == "FAIL"]["reason"])
    assert list((bench.folder / "cache" / "work").iterdir()) == []


def test_a_study_whose_trials_only_fail_ends_with_the_reason(bench):
    said = bench.refused("--n_trials=8", "--bounds=x=0.6:0.9", "--broken=error")
    assert "5 trials failed and 0 finished" in said and "the toy broke" in said
    assert bench.study_run().info.status == "FAILED"


def test_checkpoints_of_trials_are_left_out_unless_they_are_asked_for(bench):
    bench.tune("--n_trials=1")
    (child,) = bench.children(bench.study_run())
    assert not bench.artifact(child, "checkpoints").exists() and child.data.tags[stage.KEY_TAG] == ""
    assert stage.load_finished(child.info.run_id) is not None
    run = bench.tune("--n_trials=1", "--keep_checkpoints=true", "--study_name=kept", "--offset=1")
    (child,) = bench.children(run)
    assert bench.artifact(child, "checkpoints/epoch.json").exists() and child.data.tags[stage.KEY_TAG] == "toy"


def test_a_worker_whose_time_is_up_starts_no_further_trial(bench):
    run = bench.tune("--n_trials=50", "--timeout=1", "--pause=0.2", "--pruner=none")
    assert 1 <= len(bench.trials()) < 50
    assert {trial.state for trial in bench.trials()} == {TrialState.COMPLETE}
    assert len(bench.table()) == len(bench.trials()) and run.info.status == "FINISHED"


def test_bounds_replace_the_spaces_own(bench):
    bench.tune("--n_trials=6", "--bounds=x=0.25:0.35,depth=3:3", "--pruner=none")
    assert all(0.25 <= x <= 0.35 and depth == 3 for x, depth in params(bench.trials()))


def test_an_option_is_searched_only_when_it_is_asked_for(bench):
    bench.tune("--n_trials=6", "--also=kind", "--pruner=none")
    assert {trial.params["kind"] for trial in bench.trials()} == {"a", "b"}


def test_the_first_trials_are_not_modelled(bench):
    bench.tune("--n_trials=5", "--n_startup_trials=5", "--pruner=none")
    bench.tune("--n_trials=5", "--n_startup_trials=1", "--pruner=none", "--study_name=model")
    first, model = (params(toy.load(bench.storage, name).trials) for name in (bench_name(bench.storage), "model"))
    assert first[0] == model[0] and first[2:] != model[2:]


def test_a_store_that_does_not_have_the_studys_run_gets_one_of_its_own(bench):
    first = bench.tune("--n_trials=2", "--pruner=none")
    bench.client.delete_run(first.info.run_id)
    second = bench.tune("--n_trials=3", "--pruner=none")
    assert bench.study().user_attrs["runs"] == [first.info.run_id, second.info.run_id]
    assert bench.artifact(second, "trials.csv").exists()


def test_a_metric_that_the_training_does_not_report_names_the_nearest(bench):
    said = bench.refused("--metric=absent", "--n_trials=3")
    assert "'val/tooy'" in said and "did you mean 'val/toy'?" in said


def test_a_study_that_goes_on_with_other_code_says_so(bench, monkeypatch):
    bench.tune("--n_trials=1")
    bench.capsys.readouterr()
    bench.tune("--n_trials=2")
    assert "other code" not in bench.capsys.readouterr().err
    monkeypatch.setattr("core.tracking.provenance.code_digest", lambda: "other")
    bench.tune("--n_trials=3")
    assert "was begun with other code" in bench.capsys.readouterr().err


def test_a_trained_trial_whose_outcome_could_not_be_written_is_not_trained_again(bench, monkeypatch):
    def out_of_reach(*_arguments):
        raise MlflowException("the server does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(Task, "_finish", out_of_reach)
        with pytest.raises(MlflowException):
            toy.main(["--n_trials=1"])
    bench.tune("--n_trials=1")
    assert [epoch for _, epoch in bench.trained()] == [1, 2, 3, 4]
    assert not list((bench.folder / "cache" / "work").glob("*"))  # gone once the outcome is settled
