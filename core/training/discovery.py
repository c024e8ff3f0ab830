"""What the loop trains for category discovery: contrast over views, supervised contrast, and the pseudo-label loss.

total = (1 - w) * L_contrast + w * L_supcon + gamma(epoch) * pseudo_loss_weight * L_pseudo      (spec: gcd.md; GCD, Vaze et al. 2022)

A classifier of known and novel classes (SimGCD, Wen et al. 2023) adds classifier_weight * ((1 - w) * L_distill + w * L_class), or takes
the place of the two contrastive losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.clustering.pseudo_labels import PseudoLabels
from core.data.loader import ViewLoader
from core.losses.info_nce import info_nce
from core.losses.prototypical import prototypical
from core.losses.pseudo_weights import density_weights
from core.losses.ramp import gamma
from core.losses.self_distillation import self_distillation
from core.losses.soft_prototypical import soft_prototypical
from core.losses.supcon import supcon
from core.losses.teacher_temperature import teacher_temperature
from core.models.discovery import DiscoveryModel
from core.training import distributed, recipes, schedule
from core.training.tally import Tally
from core.training.view_cache import CachedViews

PROTOTYPE_TEMPERATURE = 0.1
CLASSIFIER_TEMPERATURE = 0.1


@dataclass(frozen=True)
class Targets:
    """What the losses know of each training image.

    Attributes:
        labels: (N,) class of labelled images, -1 elsewhere.
        codes: (N,) place of that class among the labelled ones: the classifier's class, as it is the cluster of the evaluation.
        pseudo: (N,) cluster of the images that take part in the pseudo loss, -1 elsewhere.
        weights: (N,) their weights.
        prototypes: (K, d) prototypes of centred features, None while there are no pseudo labels.
        feature_mean: (d,) what centres the features.
        first_pseudo_epoch: global epoch of the first pseudo labels, None while there are none.
    """

    labels: Tensor
    codes: Tensor
    pseudo: Tensor
    weights: Tensor
    prototypes: Tensor | None = None
    feature_mean: Tensor | None = None
    first_pseudo_epoch: int | None = None


def make_targets(
    labels: np.ndarray, labelled: np.ndarray, pseudo: PseudoLabels | None, config: Any, first_epoch: int | None, epoch: int = 0
) -> Targets:
    """Build the targets from the split and, if there are any, the pseudo labels.

    Args:
        labels: (N,) true classes; only those at `labelled` are read.
        labelled: indices of labelled images.
        pseudo: pseudo labels of this segment.
        config: a stage configuration with the pseudo options.
        first_epoch: global epoch at which pseudo labels first took part.
        epoch: global epoch that the targets are for; points that are taken up to a coverage become more (or fewer) with it.
    """
    known = np.full(len(labels), -1, np.int64)
    known[labelled] = labels[labelled]
    codes = np.full(len(labels), -1, np.int64)
    codes[labelled] = np.unique(labels[labelled], return_inverse=True)[1]
    told = torch.from_numpy(known), torch.from_numpy(codes)
    clusters, weights = np.full(len(labels), -1, np.int64), np.zeros(len(labels), np.float32)
    if pseudo is None:
        return Targets(*told, torch.from_numpy(clusters), torch.from_numpy(weights))
    labelled_points = known[pseudo.indices] >= 0
    part = pseudo.taking_part(config.pseudo_points, coverage(config, first_epoch, epoch), labelled_points)
    part = part & ~labelled_points if config.pseudo_for_labeled_mode == "off" else part | labelled_points
    where = pseudo.indices[part]
    clusters[where] = pseudo.targets_of(config.pseudo_points)[part]
    weights[where] = density_weights(torch.from_numpy(pseudo.densities[part]), config.pseudo_weight_mode).numpy()
    anchors = (torch.from_numpy(pseudo.prototypes), torch.from_numpy(pseudo.feature_mean))
    return Targets(*told, torch.from_numpy(clusters), torch.from_numpy(weights), *anchors, first_epoch)


def coverage(config: Any, first_epoch: int | None, epoch: int) -> float:
    """Return the share of each target's unlabelled points that take part in a global epoch, where points are taken by rank."""
    if config.pseudo_points not in recipes.COVERED:
        return 1.0
    return schedule.linear(epoch, first_epoch or 0, config.epochs, config.pseudo_coverage, config.pseudo_coverage_end)


class DiscoveryTask:
    """The discovery family's task for `core.training.loop.fit`.

    Args:
        model: trunk, tail and head.
        loader: yields this rank's batches of an epoch (indices and views, or indices and cached trunk outputs).
        targets: what is known of each image.
        config: the resolved stage configuration.
        evaluate: called after each epoch on the main process; returns metrics.
        device: where the model lives.
        optimizer: of the model's trained parameters.
        targets_of: gives the targets of a global epoch, where they change with it.
    """

    def __init__(
        self,
        model: DiscoveryModel,
        loader: ViewLoader | CachedViews,
        targets: Targets,
        config: Any,
        evaluate: Callable[[int], dict[str, float]],
        device: torch.device,
        optimizer: torch.optim.Optimizer,
        targets_of: Callable[[int], Targets] | None = None,
    ):
        self.optimizer, self.targets_of = optimizer, targets_of
        self.model, self.loader, self.config, self.evaluate, self.device = model, loader, config, evaluate, device
        self.wrapped = distributed.wrap(model)
        self._take(targets)
        self.steps = loader.steps
        self.counted = Tally()
        self.to_tail: Callable[[Tensor], Tensor] = loader.restored if isinstance(loader, CachedViews) else model.trunk

    def prepare(self, epoch: int) -> torch.optim.Optimizer:
        """Put the model into training mode and take the epoch's targets; every epoch trains the same parameters."""
        self.model.train()
        if self.targets_of is not None:
            self._take(self.targets_of(epoch))
        return self.optimizer

    def _take(self, targets: Targets) -> None:
        self.targets, device = targets, self.device
        self.labels, self.codes, self.pseudo = targets.labels.to(device), targets.codes.to(device), targets.pseudo.to(device)
        self.weights = targets.weights.to(device)
        self.prototypes = None if targets.prototypes is None else targets.prototypes.to(device)
        self.feature_mean = None if targets.feature_mean is None else targets.feature_mean.to(device)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (indices (B,), trunk outputs (V*B, ...)) of this rank."""
        for batch in self.loader.epoch(epoch):
            views = batch.views.to(self.device, non_blocking=True)
            yield batch.indices.to(self.device, non_blocking=True), views

    def losses(self, batch: tuple[Tensor, Tensor], epoch: int) -> dict[str, Tensor]:
        """Return L_total and its parts for one global batch, equal on every rank."""
        indices, views = batch
        n_views, config = self.config.n_views, self.config
        features, projections, *cosines = self.wrapped(self.to_tail(views))
        projections = distributed.gather_views(projections.float(), n_views)
        indices = distributed.gather(indices)
        total, losses = projections[:0].sum(), dict[str, Tensor]()
        if config.objective != "classifier":
            total, losses = self._contrast(projections, self.labels[indices])
        if config.objective in recipes.WITH_CLASSIFIER:
            weight = config.classifier_weight if config.objective == "both" else 1.0
            classified, more = self._classified(distributed.gather_views(cosines[0], n_views), self.codes[indices], epoch)
            total, losses = total + weight * classified, losses | more
        ramp = gamma(epoch, self.targets.first_pseudo_epoch, config.update_interval, config.epochs, config.gamma_ramp)
        if ramp > 0:
            pseudo = self._pseudo_loss(projections, distributed.gather_views(features.float(), n_views), indices)
            total = total + ramp * config.pseudo_loss_weight * pseudo
            losses["L_pseudo"] = pseudo
        return {"L_total": total, **losses, "gamma": torch.tensor(ramp, device=total.device)}

    def _contrast(self, projections: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the two contrastive losses, and each of them."""
        config = self.config
        labelled = labels >= 0
        keep = ~labelled if config.contrast_unlabel_only else None
        contrast = info_nce(projections, config.n_views, config.temperature, keep=keep)
        supervised = supcon(projections, labels, config.n_views, config.sup_con_temperature, keep=labelled)
        count_nearest_means(self.counted, projections.detach(), labels, config.n_views)
        total = (1 - config.sup_con_weight) * contrast + config.sup_con_weight * supervised
        return total, {"L_contrast": contrast, "L_supcon": supervised}

    def _classified(self, cosines: Tensor, codes: Tensor, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the classifier's losses, and each of them; cosines (V*B, K), codes (B,) with -1 for no label."""
        config = self.config
        teacher = teacher_temperature(epoch, config.epochs, config.teacher_temperature)
        distilled = self_distillation(cosines, config.n_views, CLASSIFIER_TEMPERATURE, teacher, config.entropy_weight)
        rows = codes.repeat(config.n_views)
        labelled = rows >= 0
        told = cosines[labelled] / CLASSIFIER_TEMPERATURE
        classes = F.cross_entropy(told, rows[labelled]) if len(told) else cosines[:0].sum()
        if config.objective == "classifier":  # where there are projections, they are counted
            self.counted.add(told.detach().argmax(dim=1), rows[labelled])
        total = (1 - config.sup_con_weight) * distilled + config.sup_con_weight * classes
        return total, {"L_distill": distilled, "L_class": classes}

    def stepped(self) -> None:
        """Nothing follows a step."""

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the trained weights and buffers."""
        yield from self.model.trainable_state().items()

    def tally(self) -> dict[str, float]:
        """Return the training accuracy of the epoch."""
        return self.counted.read()

    def _pseudo_loss(self, projections: Tensor, features: Tensor, indices: Tensor) -> Tensor:
        clusters, weights, n_views = self.pseudo[indices], self.weights[indices], self.config.n_views
        if self.config.pseudo_loss == "supcon":
            return supcon(projections, clusters, n_views, self.config.sup_con_temperature, clusters >= 0, weights)
        if self.prototypes is None or self.feature_mean is None:
            raise ValueError(f"pseudo_loss={self.config.pseudo_loss} needs the prototypes of pseudo labels")
        centred = F.normalize(features, dim=1) - self.feature_mean
        hard = prototypical(centred, clusters, self.prototypes, PROTOTYPE_TEMPERATURE, clusters >= 0, weights, n_views)
        if self.config.pseudo_loss == "prototypical":
            return hard
        return hard + soft_prototypical(centred, self.prototypes, n_views, PROTOTYPE_TEMPERATURE)


def count_nearest_means(tally: Tally, projections: Tensor, labels: Tensor, n_views: int) -> None:
    """Count the labelled images of a batch whose last view is nearest to its own class's mean of first views.

    There is no classifier here; this is the accuracy of one that the batch itself makes, among the known classes in it.

    Args:
        tally: counts.
        projections: (V*B, d), view-major.
        labels: (B,) class of labelled images, -1 elsewhere.
        n_views: V.
    """
    views, labelled = F.normalize(projections, dim=1).unflatten(0, (n_views, -1)), labels >= 0
    classes, own = labels[labelled].unique(return_inverse=True)
    if not len(classes):
        return
    sums = torch.zeros(len(classes), views.shape[2], device=views.device).index_add(0, own, views[0][labelled])
    tally.add((views[-1][labelled] @ F.normalize(sums, dim=1).T).argmax(dim=1), own)
