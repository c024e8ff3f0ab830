"""tune_superclass: the older grid, honest metrics, a study for each superclass, a best configuration that train_superclass runs."""

from __future__ import annotations

import json
from itertools import product
from types import SimpleNamespace

import pytest

from core import config as configuration
from core.data.problem import Posed
from core.data.superclasses import SUPERCLASSES
from core.errors import UserError
from core.stages.discovery.config import TrainConfig
from core.tracking import run as tracking
from entrypoints import train_superclass, tune_superclass
from tests.tuning.conftest import FINISHED
from tuning import report, superclass
from tuning.config import TuneSuperclassConfig
from tuning.space import Choice

DIGITS = ("--dataset=digits", "--epochs=2", "--gpu=cpu", "--num_workers=1")


def test_the_grid_is_the_older_one():
    points = {(point["lr"], point["sup_con_weight"]) for point in superclass.SPACE.points(1)}
    weights = [0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8]
    assert points == set(product([0.1, 0.05, 0.01, 0.001], weights)) and len(points) == 52


def test_the_space_is_what_the_command_says():
    base = TrainConfig(superclass_name="trees", dataset="cifar100")
    searched = superclass.SPACE.parameters(TuneSuperclassConfig(), base)
    assert {name: str(parameter) for name, parameter in searched.items()} == {"lr": "0.001..0.2 log", "sup_con_weight": "0..1"}
    mobile = superclass.SPACE.parameters(TuneSuperclassConfig(), TrainConfig(dataset="digits", optimizer="adamw"))
    assert str(mobile["lr"]) == "1e-05..0.005 log"
    more = superclass.SPACE.parameters(TuneSuperclassConfig(also="temperature,weight_decay,grad_from_block"), base)
    assert set(more) - set(searched) == {"temperature", "weight_decay", "grad_from_block"} and str(more["grad_from_block"]) == "9..11 whole"


def test_options_of_pseudo_labels_are_searched_only_where_there_are_pseudo_labels():
    plain, pseudo = TrainConfig(dataset="digits"), TrainConfig(dataset="digits", pseudo_labels_path="labels.npz")
    options = TuneSuperclassConfig(also="pseudo_loss_weight,pseudo_loss")
    with pytest.raises(UserError, match="'pseudo_loss_weight' cannot be searched"):
        superclass.SPACE.parameters(options, plain)
    assert superclass.SPACE.parameters(options, pseudo)["pseudo_loss"] == Choice(("soft", "supcon", "prototypical"))


def test_everything_that_can_be_searched_is_an_option_of_the_training():
    known = {name for name, *_ in configuration.fields_of(TrainConfig)}
    pseudo = TrainConfig(dataset="digits", pseudo_labels_path="labels.npz")
    assert {*superclass.ranges(pseudo), *superclass.also(pseudo), *superclass.SPACE.grid} <= known


def test_metrics_look_at_no_novel_label():
    seen = {"val/accuracy_old": 0.75, "selection/silhouette": 0.2, "selection/hidden": 0.5}
    found = {name: metric(seen) for name, metric in superclass.SPACE.metrics.items()}
    assert found == {"score": 0.95, "val": 0.75, "silhouette": 0.2, "hidden": 0.625}


def test_trials_are_compared_by_the_answer_that_would_serve():
    seen = {"val/accuracy_old": 0.75, "selection/silhouette": 0.25} | {
        "classifier/val/accuracy_old": 0.875,
        "classifier/selection/silhouette": 0.25,
    }
    values, signatures = {}, []
    for by in ("auto", "kmeans", "classifier"):
        options = {"objective": "auto" if by == "auto" else "both", "answers_by": by, "metric": "val"}
        (made,) = superclass.plans(TuneSuperclassConfig(dataset="digits", **options))
        values[by] = made.space.metrics["val"](seen)
        signatures.append({name: value for name, value in made.signature.items() if name != "objective"})
    assert all(signatures.count(one) == 1 for one in signatures)  # no study holds values of two answers
    assert values == {"auto": 0.875, "kmeans": 0.75, "classifier": 0.875}


def test_an_answer_that_some_trials_could_not_give_is_refused_once():
    options = TuneSuperclassConfig(dataset="digits", answers_by="classifier", also="temperature,objective")
    with pytest.raises(UserError, match="also = objective searches the contrast, too"):
        superclass.plans(options)


def test_trials_that_are_compared_by_hidden_classes_hide_one_and_the_best_configuration_hides_none():
    given = (
        {"metric": "score"},
        {"metric": "hidden", "hidden_classes": 1, "select_by": "hidden"},
        {"metric": "hidden", "hidden_classes": 2},
    )
    plans = [superclass.plans(TuneSuperclassConfig(dataset="digits", **options))[0] for options in given]
    assert [plan.base.hidden_classes for plan in plans] == [0, 1, 2]
    assert len({plan.signature["digest of split"] for plan in plans}) == 3
    task = SimpleNamespace(space=plans[1].space, config=lambda _values: plans[1].space.prepare(plans[1].base))
    assert not {"hidden_classes", "select_by"} & report.best_configuration(task, {}).keys()


def test_superclasses_with_novel_classes_are_the_default():
    names = superclass.named(TuneSuperclassConfig())
    assert names == [one.name for one in SUPERCLASSES if one.novel] and len(names) == 11
    assert superclass.named(TuneSuperclassConfig(superclasses="trees,humans, trees")) == ["trees", "humans"]
    assert superclass.named(TuneSuperclassConfig(superclass_name="trees")) == ["trees"]
    assert superclass.named(TuneSuperclassConfig(superclasses="containers,terrain")) == ["containers", "terrain"]  # no novel class
    assert superclass.named(TuneSuperclassConfig(dataset="digits")) == []


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"superclasses": "treees"}, "did you mean 'trees'"),
        ({"superclasses": "weather_phenomena"}, "'weather_phenomena' has one class"),
        ({"superclasses": "trees", "dataset": "digits"}, "leave one of them out"),
        ({"superclasses": "trees", "superclass_name": "humans"}, "both given"),
        ({"dataset": "digits", "val_fraction": 0.0}, "val_fraction = 0"),
        ({"dataset": "digits", "lr": 0.1}, "lr = 0.1 is what this study searches"),
        ({"dataset": "digits", "metric": "unlabelled/v2_all"}, "would leak"),
    ],
)
def test_mistakes_are_one_line(options, part):
    with pytest.raises(UserError) as caught:
        superclass.plans(TuneSuperclassConfig(**options))
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_without_held_out_images_the_silhouette_is_left():
    assert superclass.plans(TuneSuperclassConfig(dataset="digits", val_fraction=0.0, metric="silhouette"))


def test_names_of_studies_follow_data_and_options():
    def name(**options) -> str:
        return superclass.plans(TuneSuperclassConfig(dataset="digits", **options))[0].name

    assert name() == name(n_trials=7, num_workers=3, storage="x") != name(epochs=7)
    assert name() != name(novel_classes="8,9") and name().startswith("superclass-digits-tpe-")
    assert name(study_name="mine") == "mine"


def test_several_superclasses_are_several_studies(monkeypatch):
    made = []

    def no_work(plan, run, own):
        made.append((plan.name, own, plan.base.superclass_name))
        return {"study": plan.name}

    monkeypatch.setattr(superclass, "run_studies", lambda plans, run: [no_work(one, run, len(plans) == 1) for one in plans])
    monkeypatch.setattr(
        superclass.materials, "posed", lambda config: Posed(Digest(config.superclass_name), Digest("split"), Digest("truth"))
    )
    superclass.run(TuneSuperclassConfig(superclasses="trees,humans", study_name="mine"), None)
    assert made == [("mine-trees", False, "trees"), ("mine-humans", False, "humans")]


class Digest:
    """Stands for data and split of which only the digest is asked, and whether they hold something out."""

    def __init__(self, digest: str):
        self.digest, self.validation = digest, (0,)


@pytest.mark.slow
def test_a_study_on_the_digits_gives_a_configuration_that_train_superclass_runs(bench):
    words = ("--n_trials=3", "--bounds=lr=0.001:0.01", "--pruner=none", "--metric=val", *DIGITS)
    assert tune_superclass.main(list(words)) == 0
    run = bench.study_run()
    best = bench.study().best_trial
    assert len(bench.trials(FINISHED)) == 3
    child = bench.client.get_run(best.user_attrs["run_id"])
    assert best.value == child.data.metrics["val/accuracy_old"] == child.data.metrics["trial/val"]
    assert json.loads(bench.artifact(run, "best.json").read_text())["lr"] == best.params["lr"]
    assert train_superclass.main([f"--config=runs:/{run.info.run_id}/best.json", "--gpu=cpu", "--num_workers=1"]) == 0
    trained = next(
        one for one in bench.runs() if one.data.tags["taxon.entry_point"] == "train_superclass" and "taxon.trial" not in one.data.tags
    )
    assert trained.data.metrics["val/accuracy_old"] == best.value
    assert float(trained.data.params["lr"]) == best.params["lr"]


def test_two_studies_of_one_command_have_runs_below_the_commands(bench):
    from tests.tuning import toy
    from tuning.runner import plan, run_studies

    options = toy.TuneToyConfig(n_trials=2, study_name="both")
    with tracking.open_run("tune_toy", "both") as run:
        run_studies([plan(toy.SPACE, options, label, True, data=label) for label in ("one", "two")], run)
    for label in ("one", "two"):
        study = toy.load(bench.storage, f"both-{label}")
        found = bench.client.get_run(study.user_attrs["runs"][0])
        assert found.data.tags["mlflow.parentRunId"] == run.run_id and found.info.status == "FINISHED"
        assert len(bench.children(found)) == 2
    assert bench.artifact(bench.client.get_run(run.run_id), "studies.json").exists()
