"""The arms: each is what its name says, all of them can be asked for, and the ceiling alone sees all labels."""

from __future__ import annotations

import dataclasses

import pytest

from core import config as configuration
from core.stages.discovery import checks
from core.stages.discovery.arms import ARMS, FROZEN, ArmConfig, named
from core.training import recipes


def test_names_are_in_the_table_s_order_once():
    assert named("ceiling, both ,contrast,both") == ["contrast", "both", "ceiling"]
    assert named(",".join(ARMS)) == list(ARMS) and next(iter(ARMS)) == FROZEN


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_is_a_training_that_can_be_asked_for(name):
    arm = ARMS[name]
    made = recipes.resolve(ArmConfig(dataset="digits", arm=name, **arm.options))
    checks.check_pipeline(made)
    assert {option: getattr(made, option) for option in arm.options} == dict(arm.options)
    assert (made.labels == "all") == arm.oracle == (name == "ceiling")
    assert arm.pseudo == name.endswith("+pseudo")
    assert ("classifier/" in arm.answers) == (made.objective != "contrast")


def test_arms_with_and_without_pseudo_labels_share_their_warm_up():
    for name in ("contrast", "both"):
        assert ARMS[name].options == ARMS[f"{name}+pseudo"].options


def test_simgcd_is_its_published_weights():
    options = ARMS["simgcd"].options
    assert (options["sup_con_weight"], options["temperature"], options["entropy_weight"], options["teacher_temperature"]) == (
        0.35,
        1.0,
        2.0,
        0.04,
    )


def test_the_name_of_an_arm_is_in_its_key():
    asked = [configuration.asked(recipes.resolve(ArmConfig(dataset="digits", arm=name))) for name in ("contrast", "contrast+pseudo")]
    assert asked[0] != asked[1]
    assert dataclasses.fields(ArmConfig)[-2].name == "arm"
