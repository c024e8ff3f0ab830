"""The schedule as data: every option moves its own change, the defaults are the documented table, and folding is plain."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.stages.longtail.config import LongtailTrainConfig
from core.training import timeline
from core.training.timeline import Phase, beyond, changes, describe, lr_at, phase_at, widest
from tests.core.stages.longtail.tiny import EPOCH_OPTIONS

# The schedule of the documentation; the defaults leave out the sampler's end and the tail's focal loss, which lost on validation.
OLDER = {"loss_type": "balanced_softmax", "balance_sampler": False, "disable_sampler_epoch": 15, "tail_focal_epoch": 18}
FULL = {"balance_sampler": True, "use_cosine_classifier": True, "use_center_loss": True}


def config(**options) -> LongtailTrainConfig:
    return LongtailTrainConfig(**OLDER | options)


def phases(**options) -> list[Phase]:
    c = config(**options)
    return [phase_at(c, epoch) for epoch in range(c.epochs)]


def column(name: str, **options) -> list:
    return [getattr(phase, name) for phase in phases(**options)]


def steps(*pairs: tuple[object, int]) -> list:
    """Return a column as (value, number of epochs) spells it."""
    return [value for value, count in pairs for _ in range(count)]


TABLE = {
    "trained": steps(("head", 10), ("last_stage", 10), ("all", 30)),
    "mixup_alpha": steps((0.4, 10), (0.2, 2), (0.1, 3), (0.0, 35)),
    "cutmix_alpha": steps((0.6, 10), (0.0, 40)),
    "smoothing": steps((0.05, 12), (0.02, 6), (0.0, 32)),
    "balanced": steps((True, 15), (False, 35)),
    "tail_focal": steps((False, 18), (True, 32)),
    "image_size": steps((224, 30), (256, 20)),
    "cosine": steps((False, 35), (True, 15)),
    "center": steps((False, 35), (True, 15)),
    "light": steps((False, 40), (True, 10)),
    "lr_factor": steps((1.0, 10), (1.2, 15), (1.2 * 0.4, 25)),
    "reweighted": steps((False, 50)),
    "retrained": steps((False, 50)),
}


def test_the_defaults_draw_by_frequency_to_the_end_with_plain_cross_entropy():
    c = LongtailTrainConfig()
    assert (c.loss_type, c.use_class_weights) == ("ce", False)
    assert all(phase_at(c, epoch).balanced and not phase_at(c, epoch).tail_focal for epoch in range(c.epochs))
    older = {field for field in vars(c) if getattr(c, field) != getattr(config(), field)}
    assert older == set(OLDER)


@pytest.mark.parametrize("name", TABLE)
def test_the_older_schedule_is_the_documented_table_epoch_by_epoch(name):
    found = column(name, **FULL)
    assert found == (pytest.approx(TABLE[name], rel=1e-12) if isinstance(found[0], float) else TABLE[name])


def test_the_table_names_everything_that_changes():
    assert set(TABLE) == {f.name for f in dataclasses.fields(Phase)}


@pytest.mark.parametrize("name", ["balanced", "cosine", "center"])
def test_what_is_not_asked_for_never_acts(name):
    assert not any(column(name))


def test_the_learning_rate_warms_up_then_follows_the_cosine_with_both_factors():
    c = config()
    for epoch in range(5):
        assert lr_at(c, epoch) == pytest.approx(5e-4 * (0.02 + 0.98 * epoch / 5), rel=1e-12)
    assert lr_at(c, 0) == pytest.approx(1e-5) and lr_at(c, 5) == pytest.approx(5e-4)
    for epoch in range(5, 50):
        factor = (1.2 if epoch >= 10 else 1) * (0.4 if epoch >= 25 else 1)
        cosine = 1e-6 + (5e-4 - 1e-6) * 0.5 * (1 + math.cos(math.pi * (epoch - 5) / 45))
        assert lr_at(c, epoch) == pytest.approx(factor * cosine, rel=1e-12)
    assert lr_at(config(lr_restart_epoch=-1, stage2_epoch=-1), 50) == pytest.approx(1e-6)


def test_the_other_schedulers_are_flat_or_fall_to_a_tenth_each_third():
    flat = {"lr": 1.0, "lr_restart_epoch": -1, "stage2_epoch": -1, "warmup_epochs": 0, "epochs": 9}
    assert [lr_at(config(scheduler="none", **flat), epoch) for epoch in range(9)] == [1.0] * 9
    found = [lr_at(config(scheduler="step", **flat), epoch) for epoch in range(9)]
    assert found == pytest.approx(steps((1.0, 3), (0.1, 3), (0.01, 3)))


def test_a_warm_up_longer_than_the_training_is_all_of_it():
    c = config(epochs=4, warmup_epochs=9, lr=1.0, lr_restart_epoch=-1, stage2_epoch=-1)
    assert [lr_at(c, epoch) for epoch in range(4)] == pytest.approx([0.02, 0.265, 0.51, 0.755])


# option -> the fields that it moves
OWN = {
    "stage2_epoch": {"trained", "lr_factor"},
    "stage3_epoch": {"trained"},
    "lr_restart_epoch": {"lr_factor"},
    "mixup_decay_epoch1": {"mixup_alpha"},
    "mixup_decay_epoch2": {"mixup_alpha"},
    "mixup_disable_epoch": {"mixup_alpha"},
    "cutmix_disable_epoch": {"cutmix_alpha"},
    "smoothing_decay_epoch1": {"smoothing"},
    "smoothing_decay_epoch2": {"smoothing"},
    "disable_sampler_epoch": {"balanced"},
    "tail_focal_epoch": {"tail_focal"},
    "progressive_resize_epoch": {"image_size"},
    "center_update_epoch": {"cosine", "center"},
    "final_clean_epoch": {"light"},
    "drw_epoch": {"reweighted"},
    "crt_epoch": {"retrained", "balanced", "trained", "lr_factor"},
}
LOSS = {"drw_epoch": "ldam_drw", "crt_epoch": "crt"}


def options_of(option: str) -> dict:
    """Return options under which `option` acts; LDAM has its cosine head from the start."""
    return FULL | {"loss_type": LOSS.get(option, "ce")}


def test_every_epoch_option_has_its_own_change():
    assert set(OWN) == set(EPOCH_OPTIONS)
    for option in EPOCH_OPTIONS:
        assert [change.option for change in changes(config(**options_of(option)))].count(option) == 1


@pytest.mark.parametrize("option", EPOCH_OPTIONS)
def test_an_epoch_option_moves_exactly_its_own_change(option):
    given_options = options_of(option)
    default = getattr(timeline.settled(config()), option)
    moved = phases(**given_options | {option: default + 1})
    for epoch, (before, after) in enumerate(zip(phases(**given_options), moved, strict=True)):
        differing = {f.name for f in dataclasses.fields(Phase) if getattr(before, f.name) != getattr(after, f.name)}
        assert differing <= OWN[option] and bool(differing) == (epoch == default)
        if differing and option != "center_update_epoch":
            assert differing >= OWN[option] - {"balanced", "trained"}


@pytest.mark.parametrize("option", EPOCH_OPTIONS)
def test_minus_one_is_never_and_beyond_the_end_is_as_never(option):
    given_options = options_of(option)
    never, late = phases(**given_options | {option: -1}), phases(**given_options | {option: 50})
    assert never == late != phases(**given_options)
    named = [line.split(" ")[0] for line in beyond(config(**given_options | {option: 50}))]
    assert named == [option] and beyond(config(**given_options | {option: -1})) == []


def test_late_options_are_named_with_their_epoch_as_it_acts():
    assert beyond(config()) == []
    late = beyond(config(epochs=20, schedule_epochs=0))
    assert late == [
        "stage3_epoch (20)",
        "lr_restart_epoch (25)",
        "progressive_resize_epoch (30)",
        "center_update_epoch (35)",
        "final_clean_epoch (40)",
    ]
    assert beyond(config(epochs=20, schedule_epochs=0, loss_type="crt"))[-1] == "crt_epoch (40)"
    assert beyond(config(epochs=20, schedule_epochs=50)) == []
    assert beyond(config(epochs=10, schedule_epochs=20, stage3_epoch=30)) == [
        "lr_restart_epoch (12)",
        "stage3_epoch (15)",
        "progressive_resize_epoch (15)",
        "center_update_epoch (18)",
        "final_clean_epoch (20)",
    ]


ACTING = {  # epoch options of the recipe in trainings of so many epochs
    20: (2, 4, 8, 10, 4, 5, 6, 4, 5, 7, 12, 14, 16, 16, 16),
    50: (5, 10, 20, 25, 10, 12, 15, 10, 12, 18, 30, 35, 40, 40, 40),
    100: (10, 20, 40, 50, 20, 24, 30, 20, 24, 36, 60, 70, 80, 80, 80),
}


@pytest.mark.parametrize("epochs", ACTING)
def test_the_number_of_epochs_alone_scales_the_whole_recipe(epochs):
    c = LongtailTrainConfig(epochs=epochs)
    names = [name for name, epoch in timeline.RECIPE.items() if epoch != -1]
    assert dict(zip(names, ACTING[epochs], strict=True)) == {name: getattr(timeline.settled(c), name) for name in names}
    assert beyond(c) == [] and phase_at(c, epochs - 1) == phase_at(LongtailTrainConfig(), 49)
    assert lr_at(c, epochs // 10) == pytest.approx(5e-4)


def test_epochs_that_are_given_are_as_they_are_even_where_they_are_the_recipe_s():
    c = LongtailTrainConfig(epochs=20, stage2_epoch=10, disable_sampler_epoch=15, warmup_epochs=5)
    found = timeline.settled(c)
    assert (found.stage2_epoch, found.stage3_epoch, found.disable_sampler_epoch, found.warmup_epochs) == (10, 8, 15, 5)
    assert describe(c)[0] == "schedule of 50 epochs scaled to 20; as given: warmup_epochs 5, stage2_epoch 10, disable_sampler_epoch 15"
    assert not any(line.startswith("schedule") for line in describe(LongtailTrainConfig(disable_sampler_epoch=15)))
    unscaled = timeline.settled(LongtailTrainConfig(epochs=20, schedule_epochs=0))
    assert (unscaled.stage2_epoch, unscaled.crt_epoch, unscaled.tail_focal_epoch) == (10, 40, -1)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, (224, 256)),
        ({"image_size": 96}, (96, 96)),
        ({"image_size": 224}, (224, 224)),
        ({"image_size": 512}, (512, 512)),
        ({"image_size": 96, "progressive_resize_epoch": 5}, (96, 96)),
        ({"image_size": 96, "progressive_image_size": 128}, (96, 128)),
        ({"progressive_image_size": 300}, (224, 300)),
        ({"progressive_resize_epoch": -1}, (224, 224)),
    ],
)
def test_an_image_size_that_is_given_is_exceeded_only_by_a_later_one_that_is_given_too(options, sizes):
    c = LongtailTrainConfig(**options)
    assert (phase_at(c, 0).image_size, phase_at(c, 49).image_size) == sizes
    assert (phase_at(timeline.settled(c), 0).image_size, phase_at(timeline.settled(c), 49).image_size) == sizes


def test_the_timeline_says_that_images_do_not_grow_and_what_would_make_them():
    said = "image_size 96 throughout, as given; with progressive_image_size it would change at epoch {}"
    assert describe(LongtailTrainConfig(image_size=96))[0] == said.format(30)
    assert describe(LongtailTrainConfig(image_size=96, epochs=20))[1] == said.format(12)
    for options in ({}, {"progressive_resize_epoch": -1}, {"progressive_resize_epoch": 50}, {"progressive_image_size": 128}):
        assert "throughout" not in " ".join(describe(LongtailTrainConfig(**{"image_size": "auto" if not options else 96} | options)))


def test_a_settled_schedule_stays_as_it_is_and_is_the_same_training():
    c = LongtailTrainConfig(epochs=20, stage2_epoch=3)
    once = timeline.settled(c)
    assert timeline.settled(once) == once and describe(once) == describe(c)[1:]
    assert [phase_at(once, epoch) for epoch in range(20)] == [phase_at(c, epoch) for epoch in range(20)]
    assert once.implied() == c.implied()


def test_a_schedule_for_other_epochs_is_scaled():
    whole, half = phases(**FULL), phases(**FULL, epochs=25, schedule_epochs=50)
    assert half[5].trained == "last_stage" and half[4].trained == "head" and half[10].trained == "all"
    switches = {round(change.epoch / 2) for change in changes(config(**FULL))}
    for epoch in range(25):
        if not {epoch, epoch + 1} & switches:
            assert half[epoch] == whole[2 * epoch], epoch
    scaled = config(epochs=25, schedule_epochs=50, lr=1.0, stage2_epoch=36)
    assert timeline.settled(scaled).stage2_epoch == 18 and timeline.settled(scaled).disable_sampler_epoch == 8
    assert describe(scaled)[0] == "schedule of 50 epochs scaled to 25"
    assert lr_at(scaled, 0) == pytest.approx(0.02) and lr_at(scaled, 1) < 1 and lr_at(scaled, 2) == pytest.approx(1.0)


def test_deferred_re_weighting_and_cosines_belong_to_ldam_only():
    assert column("reweighted", loss_type="ldam_drw") == steps((False, 40), (True, 10))
    assert all(column("cosine", loss_type="ldam_drw")) and not any(column("cosine"))
    assert not any(column("reweighted", loss_type="balanced_softmax"))


def test_a_classifier_trained_anew_is_trained_alone_and_on_balanced_draws_to_the_end():
    found = phases(loss_type="crt", crt_epoch=15, balance_sampler=True, disable_sampler_epoch=18)
    assert [phase.retrained for phase in found] == steps((False, 15), (True, 35))
    assert all(phase.trained == "head" and phase.balanced for phase in found[15:])
    assert found[14].trained == "last_stage" and not phases(loss_type="ce", crt_epoch=15)[20].retrained
    assert found[30].image_size == 256 and found[40].light and found[18].tail_focal  # the rest of the schedule goes on


def test_what_happens_in_the_same_epoch_does_not_hinder_the_new_classifier():
    found = phases(loss_type="crt", crt_epoch=20, disable_sampler_epoch=20)
    assert found[20].retrained and found[20].trained == "head" and found[20].balanced


def test_a_classifier_trained_anew_has_a_learning_rate_of_its_own():
    """It starts from `lr` again, with its share of the warm-up: the first training's rate has all but ended there."""
    c = config(loss_type="crt", crt_epoch=40)
    before = config(loss_type="ce")
    assert [lr_at(c, epoch) for epoch in range(40)] == [lr_at(before, epoch) for epoch in range(40)]
    assert lr_at(c, 40) == pytest.approx(5e-4 * 0.02) and lr_at(before, 41) < 2.5e-5
    for epoch in range(41, 50):
        cosine = 1e-6 + (5e-4 - 1e-6) * 0.5 * (1 + math.cos(math.pi * (epoch - 41) / 9))
        assert lr_at(c, epoch) == pytest.approx(cosine, rel=1e-12)
    assert [lr_at(config(loss_type="crt", scheduler="none", warmup_epochs=0), epoch) for epoch in (39, 40, 49)] == pytest.approx(
        [5e-4 * 1.2 * 0.4, 5e-4, 5e-4]
    )


def test_factors_after_the_restart_are_those_of_what_still_trains():
    late = config(loss_type="crt", crt_epoch=10, stage2_epoch=12, stage3_epoch=14, lr_restart_epoch=30, warmup_epochs=0, scheduler="none")
    assert [lr_at(late, epoch) for epoch in (9, 10, 13, 29, 30)] == pytest.approx([5e-4, 5e-4, 5e-4, 5e-4, 2e-4])


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ({"loss_type": "crt"}, 40),
        ({"loss_type": "crt", "epochs": 12, "schedule_epochs": 50}, 10),
        ({"loss_type": "crt", "epochs": 20}, 16),
        ({"loss_type": "crt", "epochs": 20, "schedule_epochs": 0}, 20),
        ({"loss_type": "crt", "crt_epoch": -1}, 50),
        ({"loss_type": "ce"}, 50),
    ],
)
def test_where_the_classifier_is_trained_anew(options, start):
    c = config(**options)
    assert timeline.retrained_from(c) == start
    assert [phase_at(c, epoch).retrained for epoch in range(c.epochs)] == steps((False, start), (True, c.epochs - start))


def test_a_few_shot_backbone_stays_frozen_unless_asked():
    assert set(column("trained", model_type="fewshot")) == {"head"}
    assert column("trained", model_type="fewshot", fewshot_freeze_backbone=False) == TABLE["trained"]
    assert column("trained", fewshot_freeze_backbone=True) == TABLE["trained"]


def test_an_earlier_end_is_not_undone_by_a_later_step_towards_it():
    assert column("trained", stage3_epoch=0) == ["all"] * 50
    assert column("trained", stage3_epoch=4) == steps(("head", 4), ("all", 46))
    assert column("lr_factor", stage3_epoch=4)[10] == 1.2
    assert column("mixup_alpha", mixup_disable_epoch=5) == steps((0.4, 5), (0.0, 45))
    assert column("mixup_alpha", mixup_decay_epoch2=5) == pytest.approx(steps((0.4, 5), (0.1, 10), (0.0, 35)))
    assert column("smoothing", smoothing_decay_epoch2=5) == steps((0.05, 5), (0.0, 45))


@pytest.mark.parametrize(("until", "level"), [(1, "head"), (10, "head"), (11, "last_stage"), (20, "last_stage"), (21, "all"), (50, "all")])
def test_a_checkpoint_has_to_hold_what_has_trained_so_far(until, level):
    assert widest(config(), until) == level


def test_a_new_classifier_does_not_undo_what_has_trained():
    assert widest(config(loss_type="crt"), 50) == "all" and widest(config(model_type="fewshot"), 50) == "head"


def test_the_timeline_is_readable():
    assert describe(config(**FULL)) == [
        "epoch 0: trained head, lr_factor 1, mixup_alpha 0.4, cutmix_alpha 0.6, smoothing 0.05, balanced true, image_size 224",
        "epoch 10: trained head -> last_stage, lr_factor 1 -> 1.2 (stage2_epoch)",
        "epoch 10: mixup_alpha 0.4 -> 0.2 (mixup_decay_epoch1)",
        "epoch 10: cutmix_alpha 0.6 -> 0 (cutmix_disable_epoch)",
        "epoch 12: mixup_alpha 0.2 -> 0.1 (mixup_decay_epoch2)",
        "epoch 12: smoothing 0.05 -> 0.02 (smoothing_decay_epoch1)",
        "epoch 15: mixup_alpha 0.1 -> 0 (mixup_disable_epoch)",
        "epoch 15: balanced true -> false (disable_sampler_epoch)",
        "epoch 18: smoothing 0.02 -> 0 (smoothing_decay_epoch2)",
        "epoch 18: tail_focal false -> true (tail_focal_epoch)",
        "epoch 20: trained last_stage -> all (stage3_epoch)",
        "epoch 25: lr_factor 1.2 -> 0.48 (lr_restart_epoch)",
        "epoch 30: image_size 224 -> 256 (progressive_resize_epoch)",
        "epoch 35: cosine false -> true, center false -> true (center_update_epoch)",
        "epoch 40: light false -> true (final_clean_epoch)",
    ]


def test_a_switch_that_changes_nothing_is_not_in_the_timeline():
    said = " ".join(describe(config(mixup_alpha=0.0, loss_type="crt", crt_epoch=5, label_smoothing=0.0)))
    assert "mixup" not in said and "smoothing" not in said and "disable_sampler" not in said and "center_update" not in said
    assert "retrained false -> true, balanced false -> true (crt_epoch)" in said and "stage3_epoch" not in said


def test_a_change_at_epoch_0_is_how_the_training_starts():
    lines = describe(config(stage2_epoch=-1, stage3_epoch=0, mixup_disable_epoch=0))
    assert lines[0].startswith("epoch 0: trained all, ") and "stage3" not in " ".join(lines)


epochs_drawn = st.integers(min_value=-1, max_value=12)


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries({option: epochs_drawn for option in EPOCH_OPTIONS}),
    st.sampled_from(["ce", "ldam_drw", "crt"]),
    st.sampled_from(["baseline", "fewshot"]),
    st.booleans(),
)
def test_a_phase_is_the_plain_fold_of_the_changes_so_far(options, loss_type, model_type, asked):
    c = config(epochs=10, loss_type=loss_type, model_type=model_type, balance_sampler=asked, use_center_loss=asked, **options)
    phase, pending = timeline.first_phase(c), list(changes(c))
    assert [change.epoch for change in pending] == sorted(change.epoch for change in pending)
    for epoch in range(10):
        while pending and pending[0].epoch <= epoch:
            change = pending.pop(0)
            new = dict(change.settings)
            if phase.retrained:
                new.pop("trained", None), new.pop("balanced", None)
            elif phase.trained == "all" and change.option == "stage2_epoch":
                new.pop("trained")
            for name in ("mixup_alpha", "smoothing"):
                if new.get(name, 0.0) > getattr(phase, name):
                    new.pop(name)
            idle = phase.retrained and change.option == "stage2_epoch"
            new.setdefault("lr_factor", phase.lr_factor * (1.0 if idle else change.lr_factor))
            phase = dataclasses.replace(phase, **new)
        expected = dataclasses.replace(phase, trained="head") if model_type == "fewshot" else phase
        assert phase_at(c, epoch) == expected
    assert all(change.epoch >= 10 for change in pending)
