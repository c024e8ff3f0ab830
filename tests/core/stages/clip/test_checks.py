"""Options that cannot be are refused before anything is read, naming option, value and remedy."""

import pytest

from core.stages.clip import checks
from core.stages.clip.config import TrainClipConfig
from core.training.clip import weighs_classes
from tests.core.stages.tiny import refused

GIVEN = {"data_dir": "images", "class_texts_file": "texts.json"}


@pytest.mark.parametrize(
    "options, parts",
    [
        ({"epochs": 0}, ("epochs = 0", "larger than 0")),
        ({"learning_rate": 0.0}, ("learning_rate = 0.0",)),
        ({"weight_decay": -1.0}, ("weight_decay = -1.0", "0 or more")),
        ({"val_fraction": 0.7}, ("val_fraction = 0.7", "0..0.5")),
        ({"test_fraction": -0.1}, ("test_fraction = -0.1",)),
        ({"seed": 2**32}, ("seed", "too large")),
        ({"data_dir": ""}, ("data_dir is empty",)),
        ({"class_texts_file": ""}, ("class_texts_file is empty",)),
        ({"use_cv": True, "n_splits": 1}, ("n_splits = 1",)),
        ({"fold": 2}, ("fold = 2", "use_cv = false")),
        ({"use_cv": True, "fold": 6}, ("fold = 6", "beyond n_splits = 5")),
        ({"use_cv": True, "resume": "x"}, ("resume names one training",)),
        ({"group_pattern": "(a)", "groups_file": "g.csv"}, ("group_pattern and groups_file",)),
        ({"group_pattern": "("}, ("no regular expression",)),
        ({"group_pattern": "abc"}, ("has no (...)",)),
        ({"use_superclip_loss": True, "class_loss_weight": 0.0, "contrastive_loss_weight": 0.0}, ("nothing to train on",)),
        ({"class_loss_weight": 2.0}, ("class_loss_weight = 2.0", "use_superclip_loss = true")),
        ({"contrastive_loss_weight": 0.5}, ("contrastive_loss_weight = 0.5",)),
        ({"word_supervision": True, "lock_image": True}, ("word_supervision", "lock_image")),
        ({"grad_from_block": 3, "lock_image": True}, ("grad_from_block = 3",)),
        ({"view_cache": 4}, ("view_cache = 4", "frozen part")),
    ],
)
def test_options_that_cannot_be(options, parts):
    said = refused(lambda: checks.check_training(TrainClipConfig(**GIVEN | options)))
    assert all(part in said for part in parts), said


def test_good_options_pass_unchanged():
    config = TrainClipConfig(**GIVEN)
    assert checks.check_training(config) is config and not checks.idle_options(config)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"lock_image": True}, "augmentation does not act"),
        ({"lock_image": True, "view_cache": 2}, ""),
        ({"lock_image": True, "augmentation": "none"}, ""),
        ({"contrastive_loss_weight": 0.0, "contrastive_targets": "instance"}, "contrastive_targets does not act"),
    ],
)
def test_options_that_cannot_act_are_named(options, said):
    lines = checks.idle_options(TrainClipConfig(**GIVEN | options))
    assert bool(lines) == bool(said) and (not said or said in lines[0])


SUPER = {"use_superclip_loss": True}


@pytest.mark.parametrize(
    ("options", "weighed", "said"),
    [
        (SUPER, True, False),
        (SUPER | {"use_weighted_sampling": True}, False, False),
        (SUPER | {"use_weighted_sampling": True, "use_class_weights": False}, False, False),
        (SUPER | {"use_weighted_sampling": True, "use_class_weights": True}, True, True),
        (SUPER | {"use_weighted_sampling": True, "use_class_weights": True, "weight_smooth_factor": 0.0}, True, False),
        (SUPER | {"use_weighted_sampling": True, "use_class_weights": True, "class_loss_weight": 0.0}, True, False),
        ({"use_weighted_sampling": True, "use_class_weights": True}, True, False),  # no class term to weigh
    ],
)
def test_class_weights_and_sampling_correct_once_unless_asked_for_twice(options, weighed, said):
    config = TrainClipConfig(**GIVEN | options)
    assert weighs_classes(config) == weighed
    lines = checks.double_corrections(config)
    assert len(lines) == said and (not said or "use_class_weights = true and use_weighted_sampling = true each" in lines[0])
