"""What the loop trains for long-tailed classification: one phase an epoch, its loss, its draws, its mixing.

What each epoch is like is said by core/training/timeline.py; this file makes it true.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.transforms.v2 import CutMix, MixUp

from core.losses import label
from core.losses.center import CenterLoss
from core.losses.ldam import effective_number_weights
from core.losses.soft_cross_entropy import smooth, soft_cross_entropy
from core.models.classifiers import Classifier, CosineHead, linear_head
from core.training import distributed, optimizers, timeline
from core.training.tally import Tally
from core.training.timeline import Phase

Tensors = tuple[Tensor, ...] | list[Tensor]
TASK_WEIGHTS = {"crop": 0.3, "disease": 0.3, "severity": 0.5}  # against 1 of the label


class LabelLoss:
    """The label's loss in a phase: one mean over the batch, whatever classes it is made of.

    Args:
        config: loss_type, use_class_weights, focal_gamma, sampler_power.
        class_counts: (C,) training images a class.
        class_weights: (C,) class weights.
        tail: (T,) ids of the tail classes.
    """

    def __init__(self, config: Any, class_counts: Tensor, class_weights: Tensor, tail: Tensor) -> None:
        self.config, self.counts, self.weights = config, class_counts, class_weights.float()
        self.kind = label.LOSSES[config.loss_type]
        self.loss = label.function(self.kind.loss)
        self.effective = effective_number_weights(class_counts).float()
        self.tail = torch.zeros(len(class_counts), device=class_counts.device).index_fill(0, tail, 1.0)

    def __call__(self, logits: Tensor, targets: Tensor, phase: Phase) -> Tensor:
        """Return the loss of logits (B, C) in float32 against soft targets (B, C)."""
        c, kind = self.config, self.kind
        if phase.retrained:
            return soft_cross_entropy(logits, targets)
        if kind.prior:
            logits = label.function(kind.prior)(logits, self.seen_counts(phase))
        if kind.margins:
            logits = label.function(kind.margins)(logits, targets, self.counts)
        weights = self.weights if c.use_class_weights or kind.weighted else None
        if phase.reweighted:
            weights = self.effective
        gammas = torch.full_like(self.tail, c.focal_gamma) if kind.focal else self.tail * c.focal_gamma
        found: Tensor = self.loss(logits, targets, weights, gammas if kind.focal or phase.tail_focal else None)
        return found

    def seen_counts(self, phase: Phase) -> Tensor:
        """Return (C,) counts in proportion to how often each class is drawn: the prior that the loss corrects for."""
        return self.counts.double() ** (1 - self.config.sampler_power) if phase.balanced else self.counts


def mix(images: Tensor, labels: Tensor, phase: Phase, config: Any, n_classes: int) -> tuple[Tensor, Tensor]:
    """Return a batch's images (B, 3, H, W) and soft targets (B, C), cut and mixed, mixed up, or as they are.

    Drawn from torch's own generator, which the loop seeds. An odd batch is mixed with itself rolled by one.
    """
    if phase.cutmix_alpha and torch.rand(()) < config.cutmix_prob:
        return CutMix(alpha=phase.cutmix_alpha, num_classes=n_classes)(images, labels)
    if phase.mixup_alpha and torch.rand(()) < config.mixup_prob:
        return MixUp(alpha=phase.mixup_alpha, num_classes=n_classes)(images, labels)
    return images, F.one_hot(labels, n_classes).float()


class LongtailTask:
    """The long-tail family's task for `core.training.loop.fit`.

    Args:
        model: the classifier, on its device.
        loss: the label's loss.
        labels: (N,) classes of the training images.
        attributes: name -> (C,) value of each class: targets of the further heads.
        make_loader: the loader of a phase's batches (one view an image).
        class_means: called with the model, returns features (N, d) and labels (N,) from which the centres of a center loss start.
        evaluate: metrics after an epoch, on the main process.
        config: the configuration.
        device: where the model lives.
        announce: told of each switch.
    """

    def __init__(
        self,
        model: Classifier,
        loss: LabelLoss,
        labels: Tensor,
        attributes: Mapping[str, Tensor],
        make_loader: Callable[[Phase], Any],
        class_means: Callable[[Classifier], tuple[Tensor, Tensor]],
        evaluate: Callable[[int], dict[str, float]],
        config: Any,
        device: torch.device,
        announce: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.model, self.loss, self.config, self.device = model, loss, config, device
        self.labels, self.attributes = labels.to(device), {name: values.to(device) for name, values in attributes.items()}
        self.make_loader, self.class_means, self.evaluate, self.announce = make_loader, class_means, evaluate, announce
        self.n_classes = len(loss.counts)
        self.center: CenterLoss | None = None
        self.counted = Tally()
        self.ema = averaged(model, config.ema_decay) if config.use_ema else None
        self.become(timeline.phase_at(config, 0))

    @property
    def scored(self) -> Classifier:
        """The classifier that is evaluated, saved as best and registered: the moving average, where there is one."""
        return cast(Classifier, self.ema.module) if self.ema is not None else self.model

    @property
    def steps(self) -> int:
        """The number of batches of an epoch of the present phase."""
        return self.loader.steps

    def become(self, phase: Phase) -> None:
        """Take the shape that `phase` has, for a start or for loading a checkpoint of it: weights are not computed."""
        for model in self._models():
            if phase.cosine:
                model.to_cosine()
        if phase.center and self.center is None:
            self.center = CenterLoss(self.n_classes, self.model.feature_dim).to(self.device)
        self.model.set_trained(phase.trained)
        self.optimizer = self._optimizer()
        self.wrapped = distributed.wrap(self.model)
        self.loader = self.make_loader(phase)
        self.phase = phase

    def start_fresh(self) -> None:
        """Compute what a training that starts in its first phase needs of its data."""
        if self.center is not None:
            self.center.from_features(*self.class_means(self.model))

    def prepare(self, epoch: int) -> torch.optim.Optimizer:
        """Switch to the phase of an epoch and return the optimiser of what it trains."""
        phase = timeline.phase_at(self.config, epoch)
        if phase != self.phase:
            self._switch(self.phase, phase)
            self.announce(f"epoch {epoch}: {_difference(self.phase, phase)}")
            self.phase = phase
        self.model.train()
        return self.optimizer

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images (B, 3, S, S), soft targets (B, C)) of this rank, mixed as the phase says."""
        for batch in self.loader.epoch(epoch):
            images = batch.views.to(self.device, non_blocking=True, memory_format=torch.channels_last)
            labels = self.labels[batch.indices.to(self.device, non_blocking=True)]
            yield mix(images, labels, self.phase, self.config, self.n_classes)

    def losses(self, batch: tuple[Tensor, Tensor], epoch: int) -> dict[str, Tensor]:
        """Return L_total and its parts for one global batch, equal on every rank."""
        images, targets = batch
        outputs = {name: distributed.gather(value.float()) for name, value in self.wrapped(images).items()}
        targets = distributed.gather(targets)
        self.counted.add(outputs["label"].argmax(dim=1), targets.argmax(dim=1))  # of a mixed image the class with the larger share
        losses = {"L_label": self.loss(outputs["label"], smooth(targets, self.phase.smoothing), self.phase)}
        total = losses["L_label"]
        for name, of_class in self.attributes.items():
            coarse = targets @ F.one_hot(of_class, outputs[name].shape[1]).float()
            losses[f"L_{name}"] = soft_cross_entropy(outputs[name], smooth(coarse, self.phase.smoothing))
            total = total + TASK_WEIGHTS.get(name, 1.0) * losses[f"L_{name}"]
        if self.center is not None:
            losses["L_center"] = self.center(outputs["features"], targets)
            total = total + self.config.center_loss_weight * losses["L_center"]
        return {"L_total": total, **losses}

    def stepped(self) -> None:
        """Move the average along."""
        if self.ema is not None:
            self.ema.update_parameters(self.model)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights, the average's and the centres."""
        yield from self.model.state_dict().items()
        if self.ema is not None:
            yield from ((f"average.{name}", value) for name, value in self.ema.module.state_dict().items())
        if self.center is not None:
            yield from ((f"center.{name}", value) for name, value in self.center.state_dict().items())

    def tally(self) -> dict[str, float]:
        """Return the training accuracy of the epoch."""
        return self.counted.read()

    def end_with(self, model: Classifier) -> None:
        """Let a model be the scored one, after the training: of another epoch it may have another head, size or backbone."""
        self.model, self.ema = model, None

    def _switch(self, before: Phase, after: Phase) -> None:
        if after.retrained and not before.retrained:
            self._start_classifier_anew()
        if after.cosine and not before.cosine:
            for model in self._models():
                model.to_cosine()
        if after.center and not before.center:
            self.center = CenterLoss(self.n_classes, self.model.feature_dim).to(self.device)
            self.start_fresh()
        if (after.image_size, after.balanced, after.light, after.retrained) != (
            before.image_size,
            before.balanced,
            before.light,
            before.retrained,
        ):
            self.loader = self.make_loader(after)
        self.model.set_trained(after.trained)
        old, self.optimizer = self.optimizer, self._optimizer()
        optimizers.carry_over(old, self.optimizer)
        self.wrapped = distributed.wrap(self.model)

    def _start_classifier_anew(self) -> None:
        """Draw a new label head. An average starts again from it, on the averaged backbone, which is what has been scored so far."""
        if self.ema is not None:
            self.model.load_state_dict(self.ema.module.state_dict())
            self.ema.n_averaged.zero_()
        for model in self._models():
            reset_label_head(model, self.config.seed)

    def _models(self) -> list[Classifier]:
        return [self.model] if self.ema is None else [self.model, self.scored]

    def _optimizer(self) -> torch.optim.Optimizer:
        """Return the optimiser over what trains: backbone, heads, centres."""
        c = self.config
        head_scale = c.fewshot_head_lr_scale if c.model_type == "fewshot" else 1.0
        groups = optimizers.decayed("backbone", self.model.net.parameters(), c.weight_decay)
        groups += optimizers.decayed("heads", self.model.heads.parameters(), c.weight_decay, head_scale)
        if self.center is not None:
            groups += optimizers.decayed("centers", self.center.parameters(), 0.0)
        return optimizers.over_groups(c.optimizer, groups, c.lr, c.momentum, c.weight_decay)


def reset_label_head(model: Classifier, seed: int) -> None:
    """Give a classifier a new, untrained label head: linear, or the cosine head made from one (Kang et al. 2020, cRT)."""
    old = model.heads["label"]
    linear = linear_head(model.feature_dim, len(model.logit_bias), seed + 1)
    fresh = CosineHead.from_linear(linear) if isinstance(old, CosineHead) else linear
    model.heads["label"] = fresh.to(model.logit_bias.device)


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Return the exponential moving average of a model's parameters and buffers; it starts as the model after the first step.

    The decay of step n is min(decay, (1 + n) / (10 + n)) (as TensorFlow's `num_updates`): an average that starts at its full decay
    would hold the first weights for thousands of steps, .38 of them after 960 at .999.
    """

    def update(averages: Tensors, current: Tensors, steps: Tensor | int) -> None:
        n = int(steps)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averages, current, steps)

    return AveragedModel(copy.deepcopy(model), multi_avg_fn=update, use_buffers=True)


def _difference(before: Phase, after: Phase) -> str:
    names = [name for name in before.__dataclass_fields__ if getattr(before, name) != getattr(after, name)]
    return ", ".join(f"{name} {timeline.shown(getattr(before, name))} -> {timeline.shown(getattr(after, name))}" for name in names)
