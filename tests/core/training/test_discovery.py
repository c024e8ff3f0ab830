"""The discovery losses: the total is the formula, and every option that shapes it changes exactly what it says."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core.clustering.pseudo_labels import PseudoLabels
from core.data.loader import Batch
from core.losses.info_nce import info_nce
from core.losses.prototypical import prototypical
from core.losses.pseudo_weights import density_weights
from core.losses.ramp import gamma
from core.losses.soft_prototypical import soft_prototypical
from core.losses.supcon import supcon
from core.stages.discovery.config import TrainConfig
from core.training.discovery import PROTOTYPE_TEMPERATURE, DiscoveryTask, coverage, make_targets

N, DIM = 12, 6
LABELS = np.array([0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 2, 2])  # true classes; 2 is novel
LABELLED = np.arange(4)
HELD_OUT = 11
FIRST = 4  # first pseudo-labelled epoch
BASE = TrainConfig(
    temperature=0.3,
    sup_con_weight=0.35,
    pseudo_loss="soft",
    pseudo_loss_weight=0.5,
    pseudo_points="core",
    pseudo_coverage=0.3,
    pseudo_coverage_end=0.9,
    pseudo_for_labeled_mode="off",
    epochs=20,
    update_interval=3,
)


class Model(nn.Module):
    """Features are the inputs, projections a fixed map of them; the trunk notes that it was called."""

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(DIM, 5)
        torch.manual_seed(0)
        nn.init.normal_(self.map.weight)

    def trunk(self, views):
        return views

    def forward(self, x):
        return x, self.map(x)


class Loader:
    """One batch of all images that may be drawn."""

    steps = 1

    def __init__(self, n_views: int):
        self.indices = torch.arange(HELD_OUT)
        self.views = torch.randn(n_views * HELD_OUT, DIM, generator=torch.Generator().manual_seed(5))

    def epoch(self, _epoch):
        yield Batch(self.indices, self.views)


def pseudo() -> PseudoLabels:
    """Of all but the held-out image; 3, 6 and 9 are no core points, 5 is core but not agreed, 7 has no target."""
    indices = np.arange(HELD_OUT)
    targets = np.array([0, 0, 1, 1, 0, 0, 1, -1, 2, 2, 2])
    core = ~np.isin(indices, (3, 6, 9))
    rng = np.random.default_rng(1)
    prototypes = rng.standard_normal((3, DIM)).astype(np.float32)
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    return PseudoLabels(
        indices,
        np.array([str(i) for i in indices]),
        np.maximum(targets, 0),
        targets,
        core,
        core & (indices != 5),
        rng.random(len(indices)),
        np.where(targets < 0, 1, targets),  # k-means places the point that has no target
        np.linspace(0.1, 1.2, len(indices), dtype=np.float32),
        prototypes,
        rng.standard_normal(DIM).astype(np.float32) * 0.1,
        {},
        {},
    )


def task(labels=pseudo, first=FIRST, **options) -> DiscoveryTask:
    config = dataclasses.replace(BASE, **options)
    targets = make_targets(LABELS, LABELLED, labels() if labels else None, config, first if labels else None)
    model = Model()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    return DiscoveryTask(model, Loader(config.n_views), targets, config, lambda epoch: {}, torch.device("cpu"), optimizer)


def losses(epoch=FIRST, made=None, **options) -> dict[str, torch.Tensor]:
    made = made or task(**options)
    (batch,) = made.batches(epoch)
    return made.losses(batch, epoch)


def parts(made: DiscoveryTask) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return features, projections and the labels that the losses may know."""
    views = made.loader.views
    known = torch.tensor([0, 0, 1, 1] + [-1] * (HELD_OUT - 4))
    return views, made.model.map(views), known


def equal(found, wanted) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def different(one, other) -> None:
    assert not torch.isclose(one, other, rtol=1e-4)


@pytest.mark.parametrize("n_views", [2, 3])
@pytest.mark.parametrize("weight", [0.0, 0.35, 1.0])
def test_the_total_is_the_formula(n_views, weight):
    made = task(n_views=n_views, sup_con_weight=weight)
    found, (features, projections, known) = losses(FIRST + 1, made), parts(made)
    contrast = info_nce(projections, n_views, 0.3)
    supervised = supcon(projections, known, n_views, 0.07)
    equal(found["L_contrast"], contrast)
    equal(found["L_supcon"], supervised)
    assert found["gamma"].item() == pytest.approx(2 / 6)
    equal(found["L_total"], (1 - weight) * contrast + weight * supervised + 2 / 6 * 0.5 * found["L_pseudo"])
    equal(found["L_pseudo"], made._pseudo_loss(projections, features, made.loader.indices))


def test_before_the_first_pseudo_labels_there_is_no_pseudo_loss():
    for found in (losses(labels=None), losses(epoch=FIRST - 1)):
        assert "L_pseudo" not in found and found["gamma"].item() == 0
        equal(found["L_total"], 0.65 * found["L_contrast"] + 0.35 * found["L_supcon"])


@pytest.mark.parametrize("kind", ["soft", "supcon", "prototypical"])
@pytest.mark.parametrize("n_views", [2, 3])
def test_each_pseudo_loss_is_its_function(kind, n_views):
    made = task(pseudo_loss=kind, n_views=n_views, pseudo_weight_mode="density")
    features, projections, _known = parts(made)
    given = pseudo()
    clusters, weights = made.targets.pseudo[:HELD_OUT], made.targets.weights[:HELD_OUT]
    anchors = torch.from_numpy(given.prototypes)
    centred = F.normalize(features, dim=1) - torch.from_numpy(given.feature_mean)
    hard = prototypical(centred, clusters, anchors, PROTOTYPE_TEMPERATURE, clusters >= 0, weights, n_views)
    wanted = {
        "supcon": supcon(projections, clusters, n_views, 0.07, clusters >= 0, weights),
        "prototypical": hard,
        "soft": hard + soft_prototypical(centred, anchors, n_views, PROTOTYPE_TEMPERATURE),
    }
    equal(losses(made=made)["L_pseudo"], wanted[kind])


@pytest.mark.parametrize(
    "points, mode, images",
    [
        ("core", "off", [4, 5, 8, 10]),
        ("agreed", "off", [4, 8, 10]),
        ("all", "off", [4, 5, 6, 8, 9, 10]),
        ("core", "all", [0, 1, 2, 3, 4, 5, 8, 10]),
        ("agreed", "all", [0, 1, 2, 3, 4, 8, 10]),
        ("all", "all", [0, 1, 2, 3, 4, 5, 6, 8, 9, 10]),
    ],
)
def test_who_takes_part(points, mode, images):
    targets = task(pseudo_points=points, pseudo_for_labeled_mode=mode).targets
    assert np.flatnonzero(targets.pseudo >= 0).tolist() == images
    assert np.flatnonzero(targets.weights > 0).tolist() == images
    assert targets.pseudo[images].tolist() == pseudo().targets[images].tolist()


def test_the_held_out_image_has_neither_label_nor_target():
    targets = task(pseudo_points="all", pseudo_for_labeled_mode="all").targets
    assert targets.labels[HELD_OUT] == -1 == targets.pseudo[HELD_OUT] and targets.weights[HELD_OUT] == 0


def test_the_truth_of_unlabelled_images_is_never_used():
    shuffled = np.concatenate([LABELS[:4], 2 - LABELS[4:]])
    one, other = (make_targets(labels, LABELLED, pseudo(), BASE, FIRST) for labels in (LABELS, shuffled))
    assert torch.equal(one.labels, other.labels) and torch.equal(one.pseudo, other.pseudo)


@pytest.mark.parametrize("points", ["core", "margin", "density", "agreed", "all"])
@pytest.mark.parametrize("mode", ["off", "all"])
@pytest.mark.parametrize("kind", ["soft", "supcon", "prototypical"])
def test_only_images_with_a_target_move_the_hard_part(points, mode, kind):
    """The gradient with respect to a projection or feature is zero for images that do not take part (soft: of the hard part)."""
    made = task(pseudo_points=points, pseudo_for_labeled_mode=mode, pseudo_loss="prototypical" if kind == "soft" else kind)
    views = made.loader.views.clone().requires_grad_()
    made._pseudo_loss(made.model.map(views), views, made.loader.indices).backward()
    moved = views.grad.view(2, HELD_OUT, DIM).abs().sum((0, 2)) > 0
    assert torch.equal(moved, made.targets.pseudo[:HELD_OUT] >= 0)


def test_the_soft_loss_moves_every_image():
    made = task()
    views = made.loader.views.clone().requires_grad_()
    made._pseudo_loss(made.model.map(views), views, made.loader.indices).backward()
    assert (views.grad.view(2, HELD_OUT, DIM).abs().sum((0, 2)) > 0).all()


@pytest.mark.parametrize("points", ["margin", "density"])
@pytest.mark.parametrize("epoch", range(FIRST - 1, BASE.epochs + 1))
def test_by_rank_the_share_of_each_target_grows_with_the_epoch(points, epoch):
    given, config = pseudo(), dataclasses.replace(BASE, pseudo_points=points)
    targets = make_targets(LABELS, LABELLED, given, config, FIRST, epoch)
    share = 0.3 + 0.6 * min(max((epoch - FIRST) / (BASE.epochs - 1 - FIRST), 0), 1)
    assert coverage(config, FIRST, epoch) == pytest.approx(share)
    groups, values = (given.nearest, given.margins) if points == "margin" else (given.targets, given.densities)
    wanted = []
    for group in range(3):
        members = [i for i in range(4, HELD_OUT) if groups[i] == group]  # 0 to 3 are labelled: off
        wanted += sorted(members, key=lambda i: (-values[i], i))[: math.ceil(share * len(members) - 1e-9)]
    assert np.flatnonzero(targets.pseudo >= 0).tolist() == sorted(wanted)
    assert targets.pseudo[sorted(wanted)].tolist() == groups[sorted(wanted)].tolist()


@pytest.mark.parametrize("points", ["margin", "density"])
def test_by_rank_labelled_images_take_part_beside_the_share_and_do_not_count_in_it(points):
    config = dataclasses.replace(BASE, pseudo_points=points, pseudo_coverage=0.5, pseudo_coverage_end=0.5)
    off, everyone = (
        make_targets(LABELS, LABELLED, pseudo(), dataclasses.replace(config, pseudo_for_labeled_mode=mode), FIRST, FIRST)
        for mode in ("off", "all")
    )
    assert (off.pseudo[LABELLED] == -1).all() and torch.equal(off.pseudo[4:], everyone.pseudo[4:])
    assert everyone.pseudo[LABELLED].tolist() == [0, 0, 1, 1] and (everyone.weights[LABELLED] == 1).all()


def test_the_task_takes_the_targets_of_each_epoch():
    made = task()
    seen = []
    made.targets_of = lambda epoch: (seen.append(epoch), dataclasses.replace(made.targets, weights=torch.full((N,), float(epoch))))[1]
    for epoch in (3, 4):
        made.prepare(epoch)
        assert made.weights.tolist() == [epoch] * N
    assert seen == [3, 4]


@pytest.mark.parametrize("mode", ["none", "density", "inverse_density"])
def test_weights_are_those_of_the_densities_of_who_takes_part(mode):
    targets = task(pseudo_weight_mode=mode).targets
    images = [4, 5, 8, 10]
    equal(targets.weights[images], density_weights(torch.from_numpy(pseudo().densities[images]), mode).float())


@pytest.mark.parametrize("kind", ["soft", "supcon", "prototypical"])
def test_the_weights_reach_every_pseudo_loss(kind):
    values = [losses(pseudo_loss=kind, pseudo_weight_mode=mode, pseudo_points="all") for mode in ("none", "density", "inverse_density")]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        different(values[one]["L_pseudo"], values[other]["L_pseudo"])


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_the_pseudo_loss_has_its_weight(weight):
    found = losses(pseudo_loss_weight=weight)
    wanted = 0.65 * found["L_contrast"] + 0.35 * found["L_supcon"] + weight / 6 * found["L_pseudo"]
    equal(found["L_total"], wanted)


@pytest.mark.parametrize("mode, length", [("intervals", 6), ("total", 16)])
def test_gamma_ramps_and_is_never_nought_in_a_pseudo_labelled_epoch(mode, length):
    made = task(gamma_ramp=mode)
    found = [losses(epoch, made)["gamma"].item() for epoch in range(20)]
    wanted = [0.0] * FIRST + [min(1.0, (epoch - FIRST + 1) / length) for epoch in range(FIRST, 20)]
    assert found == pytest.approx(wanted)
    assert min(found[FIRST:]) > 0 and found[-1] == 1.0


def test_the_update_interval_sets_the_ramp():
    assert losses(update_interval=5)["gamma"].item() == pytest.approx(gamma(FIRST, FIRST, 5, 20))


def test_the_ramp_goes_on_over_refreshes():
    """A later segment gets new pseudo labels; gamma counts from the first ones."""
    assert losses(epoch=9, made=task(first=4))["gamma"].item() == pytest.approx(1.0)
    assert losses(epoch=9, made=task(first=9))["gamma"].item() == pytest.approx(1 / 6)


def test_contrast_on_unlabelled_images_only():
    made = task(contrast_unlabel_only=True)
    _features, projections, known = parts(made)
    found = losses(made=made)
    equal(found["L_contrast"], info_nce(projections, 2, 0.3, keep=known < 0))
    different(found["L_contrast"], losses()["L_contrast"])
    equal(found["L_supcon"], losses()["L_supcon"])


@pytest.mark.parametrize("option, part", [("temperature", "L_contrast"), ("sup_con_temperature", "L_supcon")])
def test_each_temperature_acts_on_its_loss_only(option, part):
    found, plain = losses(**{option: 0.9}), losses()
    different(found[part], plain[part])
    other = {"L_contrast": "L_supcon", "L_supcon": "L_contrast"}[part]
    equal(found[other], plain[other])
    made = task()
    _features, projections, known = parts(made)
    wanted = info_nce(projections, 2, 0.9) if option == "temperature" else supcon(projections, known, 2, 0.9)
    equal(found[part], wanted)


def test_the_supervised_temperature_is_that_of_pseudo_pairs_too():
    made = task(pseudo_loss="supcon", sup_con_temperature=0.5)
    clusters = made.targets.pseudo[:HELD_OUT]
    equal(losses(made=made)["L_pseudo"], supcon(parts(made)[1], clusters, 2, 0.5))


def test_a_step_reaches_the_parameters_and_puts_the_model_in_training_mode():
    made = task()
    made.model.eval()
    assert made.prepare(0) is made.optimizer
    losses(made=made)["L_total"].backward()
    assert made.model.training and made.model.map.weight.grad.abs().sum() > 0


def test_a_batch_without_any_target_still_runs_backward():
    found = losses(labels=lambda: dataclasses.replace(pseudo(), targets=np.full(HELD_OUT, -1)), pseudo_loss="supcon")
    assert found["L_pseudo"].item() == 0
    found["L_total"].backward()
