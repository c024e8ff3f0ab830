"""The classifier beside the contrast: its total is the formula, and from random prototypes it finds a class that nobody has labelled."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core.data.loader import Batch
from core.evaluation.gcd import accuracy
from core.losses.info_nce import info_nce
from core.losses.self_distillation import self_distillation
from core.losses.supcon import supcon
from core.losses.teacher_temperature import teacher_temperature
from core.models.cosine_classifier import CosineClassifier
from core.stages.discovery.config import TrainConfig
from core.training.discovery import DiscoveryTask, make_targets

DIM, EACH = 8, 20
CLASSES = np.repeat([3, 5, 9], EACH)  # 9 is novel
LABELLED = np.r_[:10, EACH : EACH + 10]
BASE = TrainConfig(objective="both", temperature=0.3, sup_con_weight=0.35, entropy_weight=2.0, classifier_weight=0.7, epochs=20)


class Model(nn.Module):
    """Features are a linear map of the inputs, projections another one of these."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tail, self.head, self.classifier = nn.Linear(DIM, DIM), nn.Linear(DIM, 5), CosineClassifier(DIM, 3, seed=4)

    def trunk(self, views):
        return views

    def forward(self, x):
        features = self.tail(x)
        return features, self.head(features), self.classifier(features)

    def trainable_state(self):
        return self.state_dict()


class Loader:
    """Two noisy views of all images, which lie around three directions."""

    steps = 1

    def __init__(self):
        generator = torch.Generator().manual_seed(5)
        centres = torch.eye(DIM)[[0, 3, 6]].repeat_interleave(EACH, 0) + 0.8
        self.indices = torch.arange(len(CLASSES))
        self.images = centres + 0.1 * torch.randn(len(CLASSES), DIM, generator=generator)
        self.views = self.images.repeat(2, 1) + 0.05 * torch.randn(2 * len(CLASSES), DIM, generator=generator)

    def epoch(self, _epoch):
        yield Batch(self.indices, self.views)


def task(**options) -> DiscoveryTask:
    config = dataclasses.replace(BASE, **options)
    model = Model()
    labels = np.where(np.isin(np.arange(len(CLASSES)), LABELLED), CLASSES, -1)
    targets = make_targets(labels, LABELLED, None, config, None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    return DiscoveryTask(model, Loader(), targets, config, lambda epoch: {}, torch.device("cpu"), optimizer)


def losses(made: DiscoveryTask, epoch: int) -> dict[str, torch.Tensor]:
    (batch,) = made.batches(epoch)
    return made.losses(batch, epoch)


@pytest.mark.parametrize("epoch", [0, 2, 9])  # the teacher's temperature falls in the first 3
@pytest.mark.parametrize("objective", ["classifier", "both"])
def test_the_total_is_the_formula(objective, epoch):
    made = task(objective=objective, teacher_temperature=0.05)
    found = losses(made, epoch)
    _features, projections, cosines = made.model(made.loader.views)
    known = torch.from_numpy(np.where(np.isin(np.arange(len(CLASSES)), LABELLED), CLASSES, -1))
    codes = {3: 0, 5: 1}
    rows = [row for row in range(len(cosines)) if known[row % len(CLASSES)] >= 0]
    answers = torch.tensor([codes[int(known[row % len(CLASSES)])] for row in rows])
    class_loss = F.cross_entropy(cosines[rows] / 0.1, answers)
    distilled = self_distillation(cosines, 2, 0.1, teacher_temperature(epoch, 20, 0.05), 2.0)
    torch.testing.assert_close(found["L_class"], class_loss)
    torch.testing.assert_close(found["L_distill"], distilled)
    wanted = 0.65 * distilled + 0.35 * class_loss
    if objective == "both":
        contrast = 0.65 * info_nce(projections, 2, 0.3) + 0.35 * supcon(projections, known, 2, 0.07)
        wanted = contrast + 0.7 * wanted
    assert ("L_contrast" in found) == (objective == "both")
    torch.testing.assert_close(found["L_total"], wanted)


def test_without_labels_the_class_loss_is_0_and_the_head_stays_in_the_graph():
    made = task(objective="classifier")
    made.codes[:] = -1
    found = losses(made, 0)
    found["L_total"].backward()
    assert found["L_class"].item() == 0
    assert all(p.grad is not None for p in made.model.parameters())


@pytest.mark.parametrize("objective", ["classifier", "both"])
def test_the_classifier_finds_a_class_that_nobody_has_labelled(objective):
    made = task(objective=objective)

    def right() -> float:
        with torch.no_grad():
            answers = made.model(made.loader.images)[2].argmax(dim=1).numpy()
        return accuracy(CLASSES, answers, {3, 5}, "v2").all

    before = right()
    for epoch in range(20):
        for _step in range(5):
            made.optimizer.zero_grad()
            losses(made, epoch)["L_total"].backward()
            made.optimizer.step()
    assert before < 0.7 and right() == 1.0
