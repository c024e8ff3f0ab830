"""Every row of the long-tail schedule, seen by its effect: gradients, draws, sizes, targets, losses, groups, averages."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.classification import Attribute, ClassificationData, tail_classes
from core.data.images import ArrayImages, ImageSet, empty_set
from core.models.classifiers import CosineHead, FewShotHead
from core.stages.longtail import materials
from core.stages.longtail.config import LongtailTrainConfig
from core.training import timeline
from core.training.longtail import LabelLoss, LongtailTask, mix
from core.training.loop import Plan, fit
from core.training.timeline import Phase
from tests.core.stages.longtail.tiny import EPOCH_OPTIONS

CPU = torch.device("cpu")
COUNTS = (10, 7, 4, 3)
N = sum(COUNTS)
ATTRIBUTES = {
    "crop": Attribute(("apple", "corn"), np.array([0, 0, 1, 1])),
    "disease": Attribute(("none", "rot", "rust"), np.array([0, 1, 2, 1])),
    "severity": Attribute(("healthy", "general", "serious"), np.array([0, 1, 1, 1])),
}
NEVER = {option: -1 for option in EPOCH_OPTIONS}
NO_MIXING = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}


def config(**options) -> LongtailTrainConfig:
    """Return a tiny configuration in which nothing switches and nothing is mixed or dropped unless asked for."""
    tiny = {
        "backbone": "small_cnn",
        "pretrained": False,
        "image_size": 12,
        "batch_size": 6,
        "epochs": 4,
        "warmup_epochs": 0,
        "dropout": 0.0,
    }
    tiny |= {"stage3_epoch": 0, "label_smoothing": 0.0, "loss_type": "ce", "balance_sampler": False}
    tiny |= {"num_workers": 1, "use_amp": False, "gpu": "cpu", "threads": 1}
    return LongtailTrainConfig(**NEVER | NO_MIXING | tiny | options)


def pictures(counts=COUNTS, seed: int = 0) -> ImageSet:
    """Return noise whose colour tells the class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = np.random.default_rng(seed).integers(0, 120, (len(labels), 14, 14, 3), dtype=np.uint8)
    pixels[..., 0] += (labels * 40).astype(np.uint8)[:, None, None]
    return ImageSet(tuple(f"train/{i}" for i in range(len(labels))), labels, ArrayImages(pixels))


def data_of(counts=COUNTS) -> ClassificationData:
    return ClassificationData("tiny", tuple("abcdefgh"[: len(counts)]), pictures(counts), empty_set(), empty_set(), ATTRIBUTES)


def task_of(counts=COUNTS, **options) -> LongtailTask:
    """Return the task of a configuration on pictures in memory, as the stage builds it."""
    c, data = config(**options), data_of(counts)
    model, about = materials.build_model(c, data, pretrained=False)
    m = materials.Materials(data, CPU, "fp32", about["mean"], about["std"], 1)
    numbers = torch.from_numpy(data.class_counts)
    loss = LabelLoss(c, numbers, torch.from_numpy(data.weights), torch.from_numpy(tail_classes(data.class_counts)))
    named = {name: torch.from_numpy(ATTRIBUTES[name].of_class) for name in materials.attributes_of(c, data)}
    labels = torch.from_numpy(data.train.labels)

    def class_means(model):
        return torch.from_numpy(m.outputs(model, "train", m.current_size("train"))["features"]), labels

    return LongtailTask(model, loss, labels, named, lambda phase: m.loader(phase, c), class_means, lambda epoch: {}, c, CPU)


def train(task: LongtailTask, start: int, stop: int, watch=lambda epoch: None) -> dict[str, float]:
    """Train as the stage does; `watch(finished epochs)` is called after each; return the last epoch's metrics."""
    c, found = task.config, {}
    plan = Plan(start, stop, lambda e: timeline.lr_at(c, e), CPU, seed=c.seed, accumulate=c.accumulation_steps, clip_norm=c.clip_norm)

    def on_epoch(finished, metrics):
        found.clear(), found.update(metrics)
        watch(finished)

    fit(task, plan, on_epoch)
    return found


def copies(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def first_part_trained(name: str, backbone: str) -> int:
    """Return from which level on (0 head, 1 last stage, 2 all) a parameter or buffer trains."""
    if not name.startswith("net."):
        return 0
    return 1 if {"small_cnn": "blocks.2.", "resnet10t": "layer4."}[backbone] in name else 2


@pytest.mark.parametrize("backbone", ["small_cnn", "resnet10t"])
def test_each_level_moves_what_it_trains_and_statistics_of_what_is_frozen_rest(backbone):
    task = task_of(backbone=backbone, stage2_epoch=1, stage3_epoch=2, epochs=3, image_size=12 if backbone == "small_cnn" else 32)
    names = {name for name in task.model.state_dict() if name != "logit_bias"}
    with_gradients: dict[int, set[str]] = {}
    before = copies(task.model)
    for epoch in range(3):
        task.prepare(epoch)
        task.losses(next(iter(task.batches(epoch))), epoch)["L_total"].backward()
        with_gradients[epoch] = {name for name, p in task.model.named_parameters() if p.grad is not None}
        task.model.zero_grad()
        task.model.load_state_dict(before)
        train(task, epoch, epoch + 1)
        after = copies(task.model)
        trained = {name for name in names if first_part_trained(name, backbone) <= epoch}
        assert with_gradients[epoch] == {name for name, _ in task.model.named_parameters()} & trained
        assert moved(before, after) == trained
        before = after
    assert backbone == "small_cnn" or any("running_mean" in name for name in names)


def test_a_few_shot_backbone_never_moves_unless_asked():
    for frozen in (True, False):
        task = task_of(model_type="fewshot", fewshot_freeze_backbone=frozen, stage3_epoch=1, fewshot_hidden=16)
        before = copies(task.model)
        train(task, 0, 2)
        assert any(name.startswith("net.") for name in moved(before, copies(task.model))) == (not frozen)


def draws(task: LongtailTask, epochs: int) -> np.ndarray:
    """Return how often each class was drawn."""
    labels = task.labels.numpy()
    return sum(np.bincount(labels[task.loader._draw(epoch)[0]], minlength=len(COUNTS)) for epoch in range(epochs))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_balanced_draws_take_each_image_by_a_power_of_its_class_size_until_the_plain_shuffle(power):
    task = task_of(balance_sampler=True, sampler_power=power, disable_sampler_epoch=1)
    expected = np.array(COUNTS) ** (1 - power)
    assert draws(task, 400) / (400 * N) == pytest.approx(expected / expected.sum(), abs=0.02)
    drawn = torch.cat([targets.argmax(dim=1) for _images, targets in task.batches(0)])
    assert drawn.tolist() == task.labels[torch.from_numpy(task.loader._draw(0)[0])].tolist()
    task.prepare(1)
    for epoch in (1, 2):
        seen = torch.cat([batch.indices for batch in task.loader.epoch(epoch)])
        assert sorted(seen.tolist()) == list(range(N)) and seen.tolist() != list(range(N))


def test_without_the_sampler_every_image_is_seen_once_from_the_start():
    task = task_of()
    assert sorted(torch.cat([batch.indices for batch in task.loader.epoch(0)]).tolist()) == list(range(N))


def test_the_last_images_of_an_epoch_that_fill_no_batch_are_left_to_other_epochs():
    task = task_of(batch_size=7, mixup_alpha=0.4, mixup_prob=1.0)
    assert task.steps == 3 == len(list(task.batches(0)))
    assert all(images.shape[0] == targets.shape[0] == 7 for images, targets in task.batches(0))
    seen = set(np.concatenate([task.loader._draw(epoch)[0] for epoch in range(6)]).tolist())
    assert seen == set(range(N))


def test_a_batch_larger_than_the_data_is_all_of_it():
    task = task_of(batch_size=1000, mixup_alpha=0.4, mixup_prob=1.0)
    ((images, targets),) = task.batches(0)
    assert images.shape == (N, 3, 12, 12) and targets.shape == (N, len(COUNTS)) and task.steps == 1
    assert np.isfinite(train(task, 0, 1)["L_total"])


@pytest.mark.parametrize("batch_size", [1, 5])
def test_odd_batches_are_mixed_and_trained(batch_size):
    for options in ({"mixup_alpha": 0.4, "mixup_prob": 1.0}, {"cutmix_alpha": 0.6, "cutmix_prob": 1.0}):
        task = task_of(batch_size=batch_size, **options)
        for images, targets in task.batches(0):
            assert images.shape == (batch_size, 3, 12, 12)
            torch.testing.assert_close(targets.sum(dim=1), torch.ones(batch_size))
        assert np.isfinite(train(task, 0, 1)["L_total"])


def test_the_network_sees_the_new_size_from_its_epoch_on():
    task, seen = task_of(progressive_resize_epoch=1, progressive_image_size=16), []
    task.model.net.register_forward_pre_hook(lambda _module, given: seen.append(tuple(given[0].shape[2:])))
    train(task, 0, 1)
    assert set(seen) == {(12, 12)}
    seen.clear()
    train(task, 1, 2)
    assert set(seen) == {(16, 16)}


def test_light_augmentation_keeps_colours_and_angles_and_the_running_loader_yields_it():
    c = config(final_clean_epoch=1)
    flat = np.broadcast_to(np.array([200, 90, 30], np.uint8), (8, 14, 14, 3)).copy()
    images = ImageSet(tuple(map(str, range(8))), np.repeat([0, 1], 4), ArrayImages(flat))
    m = materials.Materials(
        ClassificationData("flat", ("a", "b"), images, empty_set(), empty_set()), CPU, "fp32", (0.5,) * 3, (0.5,) * 3, 1
    )
    standard, light = (
        torch.cat([batch.views for batch in m.loader(timeline.phase_at(c, epoch), c).epoch(epoch)]).mean(dim=(2, 3)) for epoch in (0, 1)
    )
    assert standard.std(dim=0).min() > 0.01
    torch.testing.assert_close(light, (torch.tensor([200, 90, 30]) / 255 - 0.5).div(0.5).expand_as(light), rtol=0, atol=0.01)
    before, after = (m.loader(timeline.phase_at(c, epoch), c).spec for epoch in (0, 1))
    assert before.warps and not after.warps and before.rotate == 20 and after.flip_prob == 0.5
    task = task_of(final_clean_epoch=1)
    assert task.loader.spec.warps
    task.prepare(1)
    assert not task.loader.spec.warps


def batch(n: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 3, 8, 8, generator=generator), torch.arange(n) % 4


@pytest.mark.parametrize("n", [1, 5, 6])
def test_mixup_mixes_images_and_labels_with_the_same_weight(n):
    torch.manual_seed(1)
    images, labels = batch(n)
    mixed, targets = mix(images, labels, Phase(mixup_alpha=0.4), SimpleNamespace(cutmix_prob=1.0, mixup_prob=1.0), 4)
    rolled, one_hot = images.roll(1, 0), F.one_hot(labels, 4).float()
    share = ((mixed - rolled) * (images - rolled)).sum() / (images - rolled).square().sum().clamp_min(1e-9)
    share = share if n > 1 else torch.tensor(1.0)
    torch.testing.assert_close(mixed, share * images + (1 - share) * rolled)
    torch.testing.assert_close(targets, share * one_hot + (1 - share) * one_hot.roll(1, 0))
    assert n == 1 or 0 < share < 1


def test_cutmix_exchanges_a_rectangle_and_its_share_of_the_label():
    torch.manual_seed(3)
    images, labels = batch()
    found = set()
    for _ in range(8):
        mixed, targets = mix(images, labels, Phase(cutmix_alpha=0.6, mixup_alpha=0.4), SimpleNamespace(cutmix_prob=1.0, mixup_prob=1.0), 4)
        foreign = (mixed != images).any(dim=1)
        assert torch.equal(torch.where(foreign[:, None], images.roll(1, 0), images), mixed)
        share, one_hot = foreign.float().mean().item(), F.one_hot(labels, 4).float()
        torch.testing.assert_close(targets, (1 - share) * one_hot + share * one_hot.roll(1, 0))
        found.add(share)
    assert len(found) > 3


@pytest.mark.parametrize(
    ("phase", "probabilities"),
    [
        (Phase(), (1.0, 1.0)),
        (Phase(mixup_alpha=0.4), (1.0, 0.0)),
        (Phase(cutmix_alpha=0.6), (0.0, 1.0)),
        (Phase(mixup_alpha=0.4, cutmix_alpha=0.6), (0.0, 0.0)),
    ],
)
def test_an_alpha_or_a_chance_of_0_leaves_batches_as_they_are(phase, probabilities):
    images, labels = batch()
    mixed, targets = mix(images, labels, phase, SimpleNamespace(cutmix_prob=probabilities[0], mixup_prob=probabilities[1]), 4)
    assert torch.equal(mixed, images) and torch.equal(targets, F.one_hot(labels, 4).float())


@pytest.mark.parametrize(("cutmix_prob", "mixup_prob"), [(0.5, 0.7), (0.0, 0.7), (0.25, 0.0)])
def test_batches_are_mixed_as_often_as_asked(cutmix_prob, mixup_prob):
    torch.manual_seed(0)
    images, labels = batch(2)
    chances, kinds = SimpleNamespace(cutmix_prob=cutmix_prob, mixup_prob=mixup_prob), {"cut": 0, "mixed": 0}
    for _ in range(600):
        mixed, _targets = mix(images, labels, Phase(mixup_alpha=50.0, cutmix_alpha=50.0), chances, 4)
        kept = (mixed == images).float().mean().item()
        kinds["mixed"] += kept < 0.05
        kinds["cut"] += 0.05 <= kept < 1
    assert kinds["cut"] / 600 == pytest.approx(cutmix_prob, abs=0.07)
    assert kinds["mixed"] / 600 == pytest.approx((1 - cutmix_prob) * mixup_prob, abs=0.07)


def is_mixed(task: LongtailTask, epoch: int) -> bool:
    return any((targets.max(dim=1).values < 1).any() for _images, targets in task.batches(epoch))


def test_mixing_fades_and_ends_where_the_schedule_says():
    task = task_of(mixup_alpha=0.4, mixup_prob=1.0, cutmix_alpha=0.6, cutmix_prob=0.5, cutmix_disable_epoch=1, mixup_disable_epoch=3)
    alphas = []
    for epoch in range(4):
        task.prepare(epoch)
        torch.manual_seed(epoch)
        assert is_mixed(task, epoch) == (epoch < 3)
        alphas.append((task.phase.mixup_alpha, task.phase.cutmix_alpha))
    assert alphas == [(0.4, 0.6), (0.4, 0.0), (0.4, 0.0), (0.0, 0.0)]


def test_a_smaller_alpha_mixes_less():
    """Beta(a, a) puts more of its weight near 0 and 1 the smaller a is."""
    shares = {}
    for alpha in (0.4, 0.1):
        torch.manual_seed(0)
        images, labels = batch(2)
        drawn = [mix(images, labels, Phase(mixup_alpha=alpha), SimpleNamespace(cutmix_prob=0, mixup_prob=1), 4)[1] for _ in range(300)]
        shares[alpha] = np.mean([targets[0].max().item() for targets in drawn])
    assert shares[0.1] > shares[0.4] + 0.04


def test_targets_are_smoothed_as_the_phase_says():
    task = task_of(label_smoothing=0.05, smoothing_decay_epoch1=1, smoothing_decay_epoch2=2)
    seen, loss = [], task.loss

    def spy(logits, targets, phase):
        seen.append(targets)
        return loss(logits, targets, phase)

    spy.counts = loss.counts
    task.loss = spy
    for epoch, smoothing in enumerate((0.05, 0.02, 0.0)):
        task.prepare(epoch)
        images, targets = next(iter(task.batches(epoch)))
        task.losses((images, targets), epoch)
        torch.testing.assert_close(seen[-1], targets * (1 - smoothing) + smoothing / 4)


def label_loss(**options) -> LabelLoss:
    counts = torch.tensor(COUNTS)
    return LabelLoss(config(**options), counts, counts.sum() / (len(counts) * counts), torch.tensor([3]))


def plain(logits: Tensor, labels: Tensor, weights=(1,) * 4, gammas=(0,) * 4) -> float:
    """Return the mean over the batch of -w_y (1 - p_y)^gamma_y log p_y, in Python floats."""
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        p = math.exp(row[label]) / sum(math.exp(z) for z in row)
        total += -weights[label] * (1 - p) ** gammas[label] * math.log(p)
    return total / len(labels)


LOGITS, LABELS = torch.randn(6, 4, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 3, 1, 3, 2, 0])
INVERSE = [N / (4 * count) for count in COUNTS]


def compute(loss: LabelLoss, phase: Phase, labels: Tensor = LABELS, logits: Tensor = LOGITS) -> float:
    return loss(logits, F.one_hot(labels, 4).float(), phase).item()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, plain(LOGITS, LABELS)),
        ({"loss_type": "logit_adjustment"}, plain(LOGITS, LABELS)),
        ({"loss_type": "crt"}, plain(LOGITS, LABELS)),
        ({"loss_type": "weighted_ce"}, plain(LOGITS, LABELS, INVERSE)),
        ({"use_class_weights": True}, plain(LOGITS, LABELS, INVERSE)),
        ({"loss_type": "focal"}, plain(LOGITS, LABELS, gammas=(1.5,) * 4)),
        ({"loss_type": "focal", "focal_gamma": 2.0, "use_class_weights": True}, plain(LOGITS, LABELS, INVERSE, (2.0,) * 4)),
        ({"loss_type": "balanced_softmax"}, plain(LOGITS + torch.tensor(COUNTS).log(), LABELS)),
    ],
)
def test_each_loss_is_its_plain_formula(options, expected):
    assert compute(label_loss(**options), Phase()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss_type", ["ce", "balanced_softmax"])
def test_from_its_epoch_on_the_loss_of_tail_samples_is_focal_and_that_of_others_as_before(loss_type):
    loss = label_loss(loss_type=loss_type)
    logits = LOGITS + torch.tensor(COUNTS).log() if loss_type == "balanced_softmax" else LOGITS
    for i, label in enumerate(LABELS.tolist()):
        one = slice(i, i + 1)
        before, after = (compute(loss, Phase(tail_focal=focal), LABELS[one], LOGITS[one]) for focal in (False, True))
        assert before == pytest.approx(plain(logits[one], LABELS[one]), rel=1e-5)
        assert after == pytest.approx(plain(logits[one], LABELS[one], gammas=(0, 0, 0, 1.5)), rel=1e-5)
        assert (after < before) == (label == 3)
    assert compute(loss, Phase(tail_focal=True)) == pytest.approx(plain(logits, LABELS, gammas=(0, 0, 0, 1.5)), rel=1e-5)


def test_balanced_softmax_corrects_for_what_is_drawn_not_for_what_there_is():
    """Under the sampler class c is drawn in proportion to n_c^(1 - power): that is the prior the network would learn."""
    loss = label_loss(loss_type="balanced_softmax", sampler_power=0.5, balance_sampler=True)
    drawn = torch.tensor(COUNTS).double().sqrt().log()
    assert compute(loss, Phase(balanced=True)) == pytest.approx(plain(LOGITS + drawn, LABELS), rel=1e-5)
    assert compute(loss, Phase()) == pytest.approx(plain(LOGITS + torch.tensor(COUNTS).log(), LABELS), rel=1e-5)
    even = label_loss(loss_type="balanced_softmax", sampler_power=1.0)
    assert compute(even, Phase(balanced=True)) == pytest.approx(plain(LOGITS, LABELS), rel=1e-5)


def test_ldam_takes_margins_from_its_own_class_and_weights_only_when_deferred():
    loss = label_loss(loss_type="ldam_drw")
    margins = torch.tensor([0.5 * (3 / count) ** 0.25 for count in COUNTS])
    shifted = LOGITS - 30 * margins * F.one_hot(LABELS, 4)
    assert compute(loss, Phase(cosine=True)) == pytest.approx(plain(shifted, LABELS), rel=1e-4)
    effective = [(1 - 0.9999) / (1 - 0.9999**count) for count in COUNTS]
    effective = [weight / (sum(effective) / 4) for weight in effective]
    assert compute(loss, Phase(cosine=True, reweighted=True)) == pytest.approx(plain(shifted, LABELS, effective), rel=1e-3)


@pytest.mark.parametrize("options", [{}, {"use_class_weights": True}, {"loss_type": "balanced_softmax"}])
def test_a_classifier_trained_anew_has_plain_cross_entropy_on_its_balanced_draws(options):
    assert compute(label_loss(**options), Phase(retrained=True, balanced=True)) == pytest.approx(plain(LOGITS, LABELS), rel=1e-5)


def group_sizes(task: LongtailTask) -> dict[str, int]:
    return {group["name"]: len(group["params"]) for group in task.optimizer.param_groups}


def test_the_groups_of_the_optimiser_hold_what_trains_with_and_without_decay():
    task = task_of(stage2_epoch=1, stage3_epoch=2, weight_decay=0.3)
    sizes = [(task.prepare(epoch), group_sizes(task))[1] for epoch in range(3)]
    assert sizes == [
        {"heads": 1, "heads without decay": 1},
        {"backbone": 2, "backbone without decay": 4, "heads": 1, "heads without decay": 1},
        {"backbone": 6, "backbone without decay": 12, "heads": 1, "heads without decay": 1},
    ]
    for group in task.optimizer.param_groups:
        assert group["weight_decay"] == (0.0 if group["name"].endswith("without decay") else 0.3)
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])


@pytest.mark.parametrize(("model_type", "scale"), [("baseline", 1.0), ("fewshot", 5.0)])
def test_a_few_shot_head_learns_faster(model_type, scale):
    task = task_of(model_type=model_type, fewshot_freeze_backbone=False, lr=0.01, scheduler="none")
    train(task, 0, 1)
    rates = {group["name"]: group["lr"] for group in task.optimizer.param_groups}
    assert rates["heads"] == rates["heads without decay"] == pytest.approx(scale * 0.01) and rates["backbone"] == pytest.approx(0.01)


def test_moments_of_what_goes_on_training_are_carried_over_and_new_parameters_start_without():
    task = task_of(stage3_epoch=1, center_update_epoch=2, use_center_loss=True, use_cosine_classifier=True)
    train(task, 0, 1)
    head = task.model.heads["label"]
    kept = {name: value.clone() for name, value in task.optimizer.state[head.weight].items()}
    task.prepare(1)
    assert all(torch.equal(task.optimizer.state[head.weight][name], value) for name, value in kept.items())
    assert kept["step"] == task.steps and kept["exp_avg"].abs().sum() > 0
    assert {id(p) for p in task.optimizer.state} == {id(p) for p in head.parameters()}
    train(task, 1, 2)
    backbone = next(iter(task.model.net.parameters()))
    task.prepare(2)
    assert task.optimizer.state[backbone]["step"] == task.steps
    new = [task.model.heads["label"].weight, task.center.centres]
    assert not any(p in task.optimizer.state for p in new)
    train(task, 2, 3)
    assert all(p in task.optimizer.state for p in new)


def test_the_cosine_head_takes_over_the_linear_ones_directions_joins_the_optimiser_and_trains():
    task = task_of(center_update_epoch=1, use_cosine_classifier=True)
    train(task, 0, 1)
    linear = task.model.heads["label"].weight.detach().clone()
    task.prepare(1)
    head = task.model.heads["label"]
    assert isinstance(head, CosineHead) and head.scale == 30 and task.center is None
    torch.testing.assert_close(head.weight.detach(), F.normalize(linear, dim=1))
    assert group_sizes(task)["heads"] == 1 and "heads without decay" not in group_sizes(task)
    before = head.weight.detach().clone()
    train(task, 1, 2)
    assert (head.weight.detach() - before).abs().max() > 1e-5


def test_a_few_shot_head_keeps_its_hidden_layer_below_the_cosines():
    task = task_of(model_type="fewshot", fewshot_hidden=16, center_update_epoch=1, use_cosine_classifier=True)
    task.prepare(1)
    head = task.model.heads["label"]
    assert isinstance(head, FewShotHead) and isinstance(head.last, CosineHead) and group_sizes(task)["heads"] == 2


def test_the_centres_start_as_class_means_join_the_optimiser_act_and_train():
    task = task_of(center_update_epoch=1, use_center_loss=True, center_loss_weight=0.3)
    assert "L_center" not in train(task, 0, 1)
    task.prepare(1)
    features, labels = task.class_means(task.model)
    features = F.normalize(features, dim=1)
    for label in range(4):
        torch.testing.assert_close(task.center.centres[label].detach(), features[labels == label].mean(dim=0), rtol=1e-4, atol=1e-5)
    groups = {group["name"]: group for group in task.optimizer.param_groups}
    assert groups["centers"]["params"] == [task.center.centres] and groups["centers"]["weight_decay"] == 0
    losses = task.losses(next(iter(task.batches(1))), 1)
    torch.testing.assert_close(losses["L_total"], losses["L_label"] + 0.3 * losses["L_center"])
    before, backbone = task.center.centres.detach().clone(), copies(task.model.net)
    losses["L_center"].backward()
    assert task.center.centres.grad.abs().sum() > 0
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in task.model.net.parameters())
    assert train(task, 1, 2)["L_center"] > 0
    assert (task.center.centres.detach() - before).abs().max() > 1e-5 and moved(backbone, copies(task.model.net))


def test_the_center_loss_is_the_plain_formula_of_the_features_the_network_gives():
    task = task_of(center_update_epoch=0, use_center_loss=True)
    task.start_fresh()
    images, targets = next(iter(task.batches(0)))
    features = F.normalize(task.model(images)["features"].detach(), dim=1)
    distances = [(row - task.center.centres[label]).square().sum() for row, label in zip(features, targets.argmax(dim=1), strict=True)]
    torch.testing.assert_close(task.losses((images, targets), 0)["L_center"], torch.stack(distances).mean())


def test_a_new_classifier_is_drawn_for_crt_and_only_heads_train_on_class_balanced_draws():
    task = task_of(loss_type="crt", crt_epoch=1, sampler_power=0.0)
    train(task, 0, 1)
    before, old = copies(task.model), task.model.heads["label"]
    task.prepare(1)
    assert task.model.heads["label"] is not old
    assert (task.model.heads["label"].weight - before["heads.label.weight"]).abs().max() > 0.01
    assert draws(task, 400) / (400 * N) == pytest.approx([0.25] * 4, abs=0.02)
    assert set(group_sizes(task)) == {"heads", "heads without decay"} and not task.optimizer.state
    train(task, 1, 3)
    assert moved(before, copies(task.model)) == {"heads.label.weight", "heads.label.bias"}


@pytest.mark.parametrize("seed", [1, 2])
def test_the_new_classifier_is_none_of_the_old_ones_and_the_same_on_every_resume(seed):
    one, other = (task_of(loss_type="crt", crt_epoch=1, seed=seed) for _ in range(2))
    start = one.model.heads["label"].weight.detach().clone()
    for task in (one, other):
        task.prepare(1)
    assert torch.equal(one.model.heads["label"].weight, other.model.heads["label"].weight)
    assert not torch.equal(one.model.heads["label"].weight, start)


def test_crt_after_the_cosine_switch_retrains_a_cosine_head():
    task = task_of(loss_type="crt", crt_epoch=2, center_update_epoch=1, use_cosine_classifier=True)
    task.prepare(1)
    cosine = task.model.heads["label"]
    task.prepare(2)
    assert isinstance(task.model.heads["label"], CosineHead) and task.model.heads["label"] is not cosine


def test_further_heads_are_weighted_and_learn_from_what_the_class_says_of_them():
    task = task_of(model_type="multitask", label_smoothing=0.1, mixup_alpha=0.4, mixup_prob=1.0)
    images, targets = next(iter(task.batches(0)))
    losses = task.losses((images, targets), 0)
    out = task.model(images)
    assert {name: out[name].shape[1] for name in task.attributes} == {"crop": 2, "disease": 3, "severity": 3}
    for name, attribute in ATTRIBUTES.items():
        coarse = torch.zeros(len(images), len(attribute.names))
        for label, value in enumerate(attribute.of_class):
            coarse[:, value] += targets[:, label]
        coarse = coarse * 0.9 + 0.1 / coarse.shape[1]
        torch.testing.assert_close(losses[f"L_{name}"], F.cross_entropy(out[name], coarse))
    total = losses["L_label"] + 0.3 * losses["L_crop"] + 0.3 * losses["L_disease"] + 0.5 * losses["L_severity"]
    torch.testing.assert_close(losses["L_total"], total)
    before = copies(task.model.heads)
    train(task, 0, 1)
    assert moved(before, copies(task.model.heads)) == set(before)


class Average:
    """The plain formula beside the fast one: d * average + (1 - d) * weights after every step; d = min(decay, (1 + n)/(10 + n))."""

    def __init__(self, task: LongtailTask, decay: float):
        self.task, self.decay, self.values, self.updates = task, decay, {}, 0
        stepped = task.stepped

        def step():
            stepped()
            decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
            self.updates += 1
            for name, value in task.model.state_dict().items():
                if value.is_floating_point():
                    kept = self.values.get(name)
                    self.values[name] = value.clone() if kept is None else decay * kept + (1 - decay) * value

        task.stepped = step

    def holds(self) -> None:
        found = self.task.scored.state_dict()
        assert self.values.keys() <= found.keys()
        for name, value in self.values.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_the_average_holds_weights_and_buffers_and_survives_every_switch():
    switches = {"stage2_epoch": 1, "stage3_epoch": 2, "progressive_resize_epoch": 2, "disable_sampler_epoch": 2, "final_clean_epoch": 3}
    options = {"backbone": "resnet10t", "image_size": 32, "progressive_image_size": 48, "balance_sampler": True, "batch_size": 8}
    task = task_of(use_ema=True, ema_decay=0.6, center_update_epoch=3, use_cosine_classifier=True, **switches, **options)
    average = Average(task, 0.6)
    for epoch in range(4):
        if epoch == 3:  # the linear head's average becomes a cosine head
            average.values["heads.label.weight"] = F.normalize(average.values["heads.label.weight"], dim=1)
            del average.values["heads.label.bias"]
        train(task, epoch, epoch + 1)
        average.holds()
        assert moved(copies(task.model), copies(task.scored))
    assert average.updates == 4 * task.steps and isinstance(task.scored.heads["label"], CosineHead)
    assert any(name.endswith("running_var") for name in average.values)


def test_the_average_of_a_new_classifier_starts_anew():
    task = task_of(use_ema=True, ema_decay=0.9, loss_type="crt", crt_epoch=1)
    train(task, 0, 1)
    task.prepare(1)
    assert torch.equal(task.scored.heads["label"].weight, task.model.heads["label"].weight)
    train(task, 1, 2)
    assert not torch.equal(task.scored.heads["label"].weight, task.model.heads["label"].weight)


def test_without_an_average_the_model_itself_is_scored():
    task = task_of()
    assert task.ema is None and task.scored is task.model


def test_accumulated_batches_are_one_step_of_the_optimiser_and_of_the_average():
    task = task_of(accumulation_steps=3, use_ema=True)
    train(task, 0, 1)
    assert task.steps == 4 and int(task.ema.n_averaged) == 2
    assert task.optimizer.state[task.model.heads["label"].weight]["step"] == 2


def test_each_switch_is_announced_as_it_happens():
    task, said = task_of(stage3_epoch=1, mixup_alpha=0.4, mixup_disable_epoch=2), []
    task.announce = said.append
    train(task, 0, 4)
    assert said == ["epoch 1: trained head -> all", "epoch 2: mixup_alpha 0.4 -> 0"]
