"""How a command ends: exit code, the run's status and reason, and what the terminal says."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest

from core.config import option
from core.errors import UserError
from core.stages import launch
from core.stages.discovery.config import PipelineConfig
from core.stages.discovery.table_config import SuperclassTableConfig
from core.stages.longtail.config import LongtailTrainConfig
from core.stages.promote_config import PromoteConfig
from core.stages.stage import Stage
from core.tracking import provenance

HERE = "tests.core.stages.test_launch"


@dataclass(frozen=True)
class Config:
    """A stage of this test."""

    epochs: int = option(3, "epochs")


def work(config, run):
    run.metrics({"loss": 1.0}, config.epochs)


def refuse(config, run):
    raise UserError("data_root = 'x' has no images; name another folder")


def interrupt(config, run):
    raise KeyboardInterrupt


def terminate(config, run):
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()


def break_down(config, run):
    raise ZeroDivisionError("three things\nwent wrong")


@pytest.fixture(autouse=True)
def _own_signals(monkeypatch):
    """Keep pytest's own signal handler, remembered parameters and rank."""
    monkeypatch.setattr(provenance, "_explicit", {})
    monkeypatch.delenv("RANK", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def start(stage: str, *words: str) -> int:
    return launch.launch(Stage("train_superclass", Config, f"{HERE}:{stage}"), list(words))


def last_run(client):
    (found,) = client.search_runs([client.get_experiment_by_name("taxon").experiment_id])
    return found


def test_a_command_that_works_is_finished(client, capsys):
    assert start("work", "--epochs=5") == 0
    run = last_run(client)
    assert run.info.status == "FINISHED" and run.data.metrics == {"loss": 1.0} and run.data.params == {"epochs": "5"}
    assert run.data.tags["taxon.command"] == "mlflow run . -e train_superclass -P epochs=5"
    assert "taxon.reason" not in run.data.tags
    assert capsys.readouterr() == ("taxon: train_superclass (epochs=5)\n", "")
    assert start("work", "--epochs=5") == 0
    assert re.fullmatch(r"taxon: train_superclass \(epochs=5\); took \d+ s here last time\n", capsys.readouterr().out)


def test_a_users_mistake_is_one_line_exit_code_2_and_the_runs_reason(client, capsys):
    assert start("refuse") == 2
    run = last_run(client)
    assert run.info.status == "FAILED"
    assert run.data.tags["taxon.reason"] == "data_root = 'x' has no images; name another folder"
    assert capsys.readouterr().err == "taxon: error: data_root = 'x' has no images; name another folder\n"


@pytest.mark.parametrize("stage", ["interrupt", "terminate"])
def test_ctrl_c_and_sigterm_end_the_run_killed(client, capsys, stage):
    assert start(stage) == 130
    run = last_run(client)
    assert run.info.status == "KILLED" and "run the same command again" in run.data.tags["taxon.reason"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "run the same command again to continue" in said


def test_a_bug_is_failed_with_its_reason_and_keeps_its_traceback(client):
    with pytest.raises(ZeroDivisionError):
        start("break_down")
    run = last_run(client)
    assert run.info.status == "FAILED"
    assert run.data.tags["taxon.reason"] == "ZeroDivisionError: three things\nwent wrong"


@pytest.mark.slow
def test_a_bugs_traceback_is_on_the_terminal(client):
    code = f"import sys; from core.stages.launch import launch; from {HERE} import Config, Stage\n"
    code += f"sys.exit(launch(Stage('train_superclass', Config, '{HERE}:break_down'), []))"
    env = os.environ | {"PYTHONPATH": str(provenance.ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "in break_down" in done.stderr
    assert last_run(client).info.status == "FAILED"


def test_a_mistake_in_the_options_ends_the_run_that_mlflow_opened(client, monkeypatch, capsys):
    made = client.create_run(client.get_experiment_by_name("taxon").experiment_id).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    assert start("work", "--epoch=3") == 2
    run = last_run(client)
    assert (run.info.run_id, run.info.status) == (made, "FAILED")
    assert run.data.tags["taxon.reason"].startswith("train_superclass has no option 'epoch'; did you mean 'epochs'?")
    assert capsys.readouterr().err.count("\n") == 1


def test_a_mistake_in_the_options_without_mlflow_opens_no_run(client, capsys):
    assert start("work", "--epochs=many") == 2
    assert client.search_runs([client.get_experiment_by_name("taxon").experiment_id]) == []
    assert capsys.readouterr().err == "taxon: error: epochs = 'many' is not valid: it takes a whole number\n"


def test_a_store_that_cannot_be_used_is_one_line(tracking_env, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mlruns")
    assert start("work") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_rank_left_over_from_another_launch_is_said_and_the_run_is_made(client, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert start("work") == 0
    assert last_run(client).info.status == "FINISHED"
    assert "RANK=1 in the environment is no launch of torchrun" in capsys.readouterr().err


def be_second(monkeypatch):
    """Be the second of two processes that torchrun has started."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)


def check_epochs(config):
    if config.epochs > 9:
        raise UserError(f"epochs = {config.epochs} is too many")


def test_what_the_first_process_refuses_every_other_one_refuses_before_it_waits_for_it(client, monkeypatch, capsys):
    be_second(monkeypatch)
    stage = Stage("train_superclass", Config, f"{HERE}:break_down", check=f"{HERE}:check_epochs")
    assert launch.launch(stage, ["--epochs=10"]) == 2
    assert capsys.readouterr().err == "taxon: error: epochs = 10 is too many\n"


def test_other_ranks_work_without_a_run(client, monkeypatch):
    seen = []
    be_second(monkeypatch)
    monkeypatch.setattr(launch, "function_of", lambda reference: lambda config, run: seen.append(run))
    assert start("work") == 0
    assert seen == [None]
    assert client.search_runs([client.get_experiment_by_name("taxon").experiment_id]) == []


@pytest.mark.parametrize(
    ("entry_point", "config", "expected"),
    [
        ("pseudo_pipeline", PipelineConfig(), "digits pseudo_pipeline"),
        ("pseudo_pipeline", PipelineConfig(superclass_name="trees", seed=3), "trees seed=3 pseudo_pipeline"),
        ("pseudo_pipeline", PipelineConfig(lr=0.003, k_max=6, gpu="cpu", weights="/a/b"), "digits k_max=6 lr=0.003 pseudo_pipeline"),
        ("pseudo_pipeline", PipelineConfig(image_size=8, batch_size=64), "digits pseudo_pipeline"),  # as the recipe has them
        ("superclass_table", SuperclassTableConfig(superclasses="trees", seeds="1,2"), "trees seeds=1,2 superclass_table"),
        ("superclass_table", SuperclassTableConfig(), "cifar100 superclass_table"),
        ("train_longtail", LongtailTrainConfig(data_root="/a/crops", seed=7, loss_type="focal"), "crops loss_type=focal seed=7"),
        ("train_superclass", Config(epochs=4), "train_superclass epochs=4"),
    ],
)
def test_a_runs_name_says_on_what_and_how_it_differs_from_the_recipe(entry_point, config, expected):
    found = launch.run_name(entry_point, config)
    assert sorted(found.split()) == sorted(expected.split()) and found.split()[0] == expected.split()[0]


def test_two_names_without_room_for_all_options_differ_in_40_characters():
    options = {f.name: 7 for f in dataclasses.fields(PipelineConfig) if isinstance(f.default, int) and f.name != "seed"}
    names = [launch.run_name("pseudo_pipeline", PipelineConfig(**options, seed=seed)) for seed in (1, 2)]
    names += [
        launch.run_name("train_longtail", LongtailTrainConfig(data_root="/a/" + "x" * n, seed=seed)) for n in (38, 60) for seed in (1, 2)
    ]
    assert (
        launch.run_name("promote", PromoteConfig(name="taxon-discovery-digits", dry_run=True))[:34]
        == "promote name=taxon-discovery-digits"[:34]
    )
    assert len(set(names)) == 6 and all(len(name) <= 40 for name in names) and names[0].startswith("digits ")


REFUSED = {
    "pseudo_pipeline": "--data_root=gone",
    "train_superclass": "--epochs=2 --stop_at_epoch=9",
    "cache_features": "--dataset=folder --data_root=gone",
    "offline_ssddbc_superclass": "--k_min=9 --k_max=5",
    "data_split_generator": "--superclass_name=treees",
    "superclass_table": "--superclasses=treees",
    "tune_superclass": "--superclasses=trees,treees",
    "assign": "--model=models:/one/1 --data_root=gone",
    "relabel": "--clusters=gone.json",
    "train_longtail": "--data_root=gone",
    "tune_longtail": "--train_dir=gone",
    "train_clip": "--data_dir=gone --class_texts_file=gone.json",
    "optimize_clip": "--train_csv=gone.csv",
    "posts_pipeline": "--data_root=gone",
    "prepare_posts": "--data_root=gone",
    "promote": "--min_gain=nothing",
}


@pytest.mark.slow
def test_a_wrong_option_folder_or_file_is_refused_before_torch_and_mlflow_are_imported(client, tmp_path):
    """Each import takes seconds; the run that `mlflow run` made has its reason all the same."""
    made = [client.create_run(client.get_experiment_by_name("taxon").experiment_id).info.run_id for _ in REFUSED]
    commands = [(run_id, name, words.split()) for run_id, (name, words) in zip(made, REFUSED.items(), strict=True)]
    code = (
        "import os, sys\nfrom core.stages import catalog\nfrom core.stages.launch import launch\n"
        f"for run_id, name, words in {commands!r}:\n"
        "    os.environ['MLFLOW_RUN_ID'] = run_id\n"
        "    print(name, launch(catalog.find(name), words), sorted({'torch', 'mlflow'} & sys.modules.keys()))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(provenance.ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == [f"{name} 2 []" for name in REFUSED]
    said = [line.removeprefix("taxon: error: ") for line in done.stderr.splitlines()]
    runs = [client.get_run(run_id) for run_id in made]
    assert [run.info.status for run in runs] == ["FAILED"] * len(runs)
    assert [run.data.tags["taxon.reason"] for run in runs] == said
