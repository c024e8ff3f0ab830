"""What is drawn anew or changes midway through a long-tail training really learns afterwards, and so does its moving average."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from core.models.classifiers import Classifier, linear_head
from core.stages.longtail.config import LongtailTrainConfig
from core.training import timeline
from core.training.longtail import LabelLoss, LongtailTask
from core.training.loop import Plan, fit
from tests.core.stages.longtail.tiny import EPOCH_OPTIONS

CPU = torch.device("cpu")
COUNTS = torch.tensor([160, 80, 40, 20])
SWITCH, EPOCHS = 16, 20


def config(**options) -> LongtailTrainConfig:
    """Return a configuration whose only switch is at an epoch where the cosine of the learning rate has all but ended."""
    fixed = {option: -1 for option in EPOCH_OPTIONS} | {"stage3_epoch": 0, "balance_sampler": False, "label_smoothing": 0.0}
    return LongtailTrainConfig(**fixed | {"epochs": EPOCHS, "lr": 0.01, "mixup_alpha": 0.0, "cutmix_alpha": 0.0, "dropout": 0.0} | options)


def blobs(seed: int) -> tuple[Tensor, Tensor]:
    """Return points (N, 12, 1, 1) of four classes of very different sizes, and their labels (N,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(4), COUNTS)
    centres = torch.randn(4, 12, generator=torch.Generator().manual_seed(9))
    return (centres[labels] + 0.5 * torch.randn(len(labels), 12, generator=generator))[:, :, None, None], labels


class Blobs:
    """A loader of blobs, balanced or each point once."""

    steps = 10

    def __init__(self, balanced: bool):
        self.points, self.labels = blobs(0)
        self.weights, self.again = ((1 / COUNTS)[self.labels] if balanced else torch.ones(len(self.labels))), balanced

    def epoch(self, epoch: int):
        """Yield batches of 30 points."""
        generator = torch.Generator().manual_seed(epoch)
        for rows in torch.multinomial(self.weights, 300, self.again, generator=generator).chunk(self.steps):
            yield SimpleNamespace(views=self.points[rows], indices=rows)


def task_of(**options) -> LongtailTask:
    """Return the task of a configuration on blobs."""
    c = config(**options)
    net = nn.Sequential(nn.Flatten(), linear_head(12, 24, 3), nn.ReLU())
    model = Classifier(net, 24, nn.ModuleDict({"label": linear_head(24, 4, 5)}), 0.0)
    loss = LabelLoss(c, COUNTS, COUNTS.sum() / (4 * COUNTS), torch.tensor([3]))
    points, labels = blobs(0)

    def class_means(of: Classifier) -> tuple[Tensor, Tensor]:
        return of.net(points).detach(), labels

    return LongtailTask(model, loss, labels, {}, lambda phase: Blobs(phase.balanced), class_means, lambda epoch: {}, c, CPU)


@torch.no_grad()
def balanced_accuracy(model: Classifier) -> float:
    """Return the mean recall on points that were not trained on; the model's mode is as before."""
    was_training, (points, labels) = model.training, blobs(1)
    right = (model.eval()(points)["label"].argmax(dim=1) == labels).float()
    model.train(was_training)
    return torch.stack([right[labels == c].mean() for c in range(4)]).mean().item()


def accuracies(task: LongtailTask) -> list[float]:
    """Train to the end; return what the scored model reaches after each epoch."""
    found: list[float] = []
    plan = Plan(0, EPOCHS, lambda epoch: timeline.lr_at(task.config, epoch), CPU, clip_norm=1.0)
    fit(task, plan, lambda epoch, metrics: found.append(balanced_accuracy(task.scored)))
    return found


SWITCHES = {
    "crt": {"loss_type": "crt", "crt_epoch": SWITCH},
    "crt of a cosine head": {"loss_type": "crt", "crt_epoch": SWITCH, "use_cosine_classifier": True, "center_update_epoch": 4},
    "crt, flat rate": {"loss_type": "crt", "crt_epoch": SWITCH, "scheduler": "none", "lr_restart_epoch": 1},
    "cosine head": {"use_cosine_classifier": True, "center_update_epoch": SWITCH},
    "center loss": {"use_center_loss": True, "center_update_epoch": SWITCH},
    "re-weighting": {"loss_type": "ldam_drw", "drw_epoch": SWITCH},
}


@pytest.mark.parametrize("use_ema", [False, True])
@pytest.mark.parametrize("kind", SWITCHES)
def test_what_changes_midway_learns_afterwards(kind, use_ema):
    """Four epochs of ten steps after the switch bring back what was reached before it; a new classifier starts at chance."""
    found = accuracies(task_of(use_ema=use_ema, **SWITCHES[kind]))
    assert found[SWITCH - 1] > 0.9
    assert found[-1] >= found[SWITCH - 1] - 0.01, found


@pytest.mark.parametrize("use_ema", [False, True])
def test_a_classifier_trained_anew_recovers_from_chance(use_ema):
    task = task_of(use_ema=use_ema, **SWITCHES["crt"])
    fit(task, Plan(0, SWITCH, lambda epoch: timeline.lr_at(task.config, epoch), CPU), lambda *_: None)
    reached = balanced_accuracy(task.scored)
    task.prepare(SWITCH)
    assert balanced_accuracy(task.scored) < 0.6 < 0.9 < reached
    fit(task, Plan(SWITCH, EPOCHS, lambda epoch: timeline.lr_at(task.config, epoch), CPU), lambda *_: None)
    assert balanced_accuracy(task.scored) >= reached - 0.01


def test_a_classifier_trained_anew_sees_the_averaged_backbone_which_is_what_was_scored():
    task = task_of(use_ema=True, ema_decay=0.99, **SWITCHES["crt"])
    fit(task, Plan(0, SWITCH, lambda epoch: 0.01, CPU), lambda *_: None)
    scored = {name: value.clone() for name, value in task.scored.state_dict().items() if name.startswith("net.")}
    assert not torch.equal(scored["net.1.weight"], task.model.net[1].weight)
    task.prepare(SWITCH)
    for model in (task.model, task.scored):
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in scored.items())
    assert int(task.ema.n_averaged) == 0 and torch.equal(task.model.heads["label"].weight, task.scored.heads["label"].weight)


def test_the_average_keeps_little_of_the_first_weights_after_960_steps():
    """.999 ** 959 = .38 of them without a warm-up; with it the product of min(.999, (1 + n) / (10 + n)), which is 0.0000 of them."""
    task = task_of(use_ema=True, ema_decay=0.999)
    kept, expected = task.ema.module.heads["label"].bias, 1.0
    with torch.no_grad():
        task.model.heads["label"].bias.fill_(1.0)
        task.stepped()
        assert torch.equal(kept, torch.ones(4))
        task.model.heads["label"].bias.fill_(0.0)
        for n in range(1, 960):
            task.stepped()
            expected *= min(0.999, (1 + n) / (10 + n))
            if n in (1, 5, 40):
                torch.testing.assert_close(kept, torch.full((4,), expected), rtol=1e-4, atol=1e-9)
    assert kept.max() < 1e-6 < 0.38


def test_the_average_settles_at_its_own_decay():
    task = task_of(use_ema=True, ema_decay=0.5)
    bias = task.model.heads["label"].bias
    for n in range(12):
        with torch.no_grad():
            bias.fill_(float(n == 11))
        task.stepped()
    torch.testing.assert_close(task.ema.module.heads["label"].bias, torch.full((4,), 0.5))  # (1 + 11) / (10 + 11) is above it
