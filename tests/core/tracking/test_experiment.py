"""The experiment of this process's runs, by the environment or the project's own."""

from __future__ import annotations

import pytest

from core.errors import UserError
from core.tracking import experiment
from core.tracking.patience import Client


def test_a_deleted_experiment_is_named_with_its_remedy(client):
    client.delete_experiment(client.get_experiment_by_name("taxon").experiment_id)
    with pytest.raises(UserError, match="mlflow experiments restore"):
        experiment.of_process(client)


def test_the_experiment_is_what_the_environment_names(client, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    made = experiment.of_process(client)
    assert client.get_experiment(made).name == "mine" and experiment.of_process(client) == made
    other = client.create_experiment("by its id")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", other)
    assert experiment.of_process(client) == other


def test_an_experiment_that_mlflow_run_chose_opens_as_one_of_trainings_unless_somebody_said_otherwise(client):
    plain, said = client.create_experiment("plain"), client.create_experiment("said", tags={experiment.UI_KIND: "genai_development"})
    for one in (plain, said):
        experiment.show_as_training(Client(), one)
    kinds = [client.get_experiment(one).tags[experiment.UI_KIND] for one in (plain, said)]
    assert kinds == ["custom_model_development", "genai_development"]
    experiment.show_as_training(Client(), "12345")  # none of this store
