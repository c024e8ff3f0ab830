"""What long-tail training and evaluation start from: data, views, model; built from the configuration, checked first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from core.cores import threads
from core.data import longtail
from core.data.classification import ClassificationData, tail_classes
from core.data.images import ImageSet
from core.data.loader import ViewLoader, evaluation_batches
from core.data.views import ResizedImages, ViewSpec, resize_all
from core.errors import UserError
from core.models import backbones
from core.models.classifiers import Classifier, FewShotHead, linear_head
from core.models.weights import digest_of
from core.progress import bar
from core.stages import machine
from core.stages.longtail.config import LongtailImages, LongtailMachine, LongtailTrainConfig
from core.training import distributed, precision
from core.training.finite import require_outputs
from core.training.timeline import Phase, first_phase, phase_at

FORWARD_BATCH = 128
TASKS = ("crop", "disease", "severity")
# Leaves: colour tells diseases apart, so that it varies little; scale and angle vary with the photographer.
STANDARD: dict[str, Any] = {
    "brightness": 0.2,
    "contrast": 0.2,
    "saturation": 0.2,
    "hue": 0.03,
    "rotate": 20.0,
    "scale": 0.15,
    "shift": 0.05,
}
LIGHT: dict[str, Any] = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "jitter_prob": 0.0}


@dataclass
class Materials:
    """Data and machine of one long-tail stage."""

    data: ClassificationData
    device: torch.device
    number_format: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_workers: int
    kept: dict[tuple[str, int], ResizedImages] = field(default_factory=dict)

    def part(self, name: str) -> ImageSet:
        """Return the train, val or test images."""
        return getattr(self.data, name)

    def spec(self, size: int, light: bool = False) -> ViewSpec:
        """Return how views of a side of `size` pixels are made."""
        return ViewSpec(image_size=size, mean=self.mean, std=self.std, **(LIGHT if light else STANDARD))

    def resized(self, part: str, size: int) -> ResizedImages:
        """Return a part's images resized for views of `size`; those of another size are let go."""
        if (part, size) not in self.kept:
            for other in [key for key in self.kept if key[0] == part]:
                del self.kept[other]
            self.kept[part, size] = resize_all(self.part(part).source, self.spec(size))
        return self.kept[part, size]

    def thumbnails(self, part: str, indices: np.ndarray) -> list[np.ndarray]:
        """Return the original images at `indices`, uint8 (H, W, 3) each."""
        return list(self.part(part).source.load(np.asarray(indices)))

    def current_size(self, part: str) -> int:
        """Return the size at which a part's images are kept."""
        return next(size for name, size in self.kept if name == part)

    def loader(self, phase: Phase, config: LongtailTrainConfig) -> ViewLoader:
        """Return the batches of a phase: balanced draws or each image once, of its size, with its augmentation."""
        weights = None
        if phase.balanced:
            power = 1.0 if phase.retrained else config.sampler_power
            weights = (1.0 / self.data.class_counts**power)[self.data.train.labels]
        place = (distributed.rank(), distributed.world_size())
        workers = max(1, min(self.num_workers, 4))
        spec = self.spec(phase.image_size, phase.light)
        images = self.resized("train", phase.image_size)
        return ViewLoader(images, spec, config.batch_size, 1, weights, config.seed, *place, workers)

    @torch.no_grad()
    def outputs(self, model: Classifier, part: str, size: int) -> dict[str, np.ndarray]:
        """Return logits and features (N, ...) float32 of a part's images as they are; the model's mode is as before."""
        was_training = model.training
        model.eval()
        images, spec = self.resized(part, size), self.spec(size)
        found: dict[str, list[torch.Tensor]] = {}
        batches = evaluation_batches(images, spec, FORWARD_BATCH, num_workers=max(1, min(self.num_workers, 4)))
        with precision.autocast(self.device, self.number_format):
            for _indices, views in bar(batches, part, total=-(-len(images) // FORWARD_BATCH)):
                views = views.to(self.device, non_blocking=True, memory_format=torch.channels_last)
                for name, value in model(views).items():
                    found.setdefault(name, []).append(value.float().cpu())
        model.train(was_training)
        return {name: require_outputs(torch.cat(parts).numpy(), f"{part} images") for name, parts in found.items()}


def load_data(config: LongtailImages) -> ClassificationData:
    """Load the images that the configuration names; a validation part is split off where it names none."""
    dirs, metas = longtail.places(config)
    train, val, test = ((dirs[part], metas[part]) for part in longtail.PARTS)
    return longtail.load(train[0], val[0], test[0], train[1], val[1], test[1], config.class_weights, config.val_share, config.seed)


def gather(config: LongtailMachine, data: ClassificationData, mean: tuple[float, ...], std: tuple[float, ...]) -> Materials:
    """Build the materials of a stage on this machine."""
    device = machine.settle(config.gpu, threads(config))
    return Materials(data, device, precision.mixed_precision(config.use_amp, device), mean, std, config.num_workers)


def build_model(config: LongtailTrainConfig, data: ClassificationData, pretrained: bool) -> tuple[Classifier, dict[str, Any]]:
    """Build the classifier on the CPU; return it and facts of its backbone: mean, std, digest of the pretrained weights."""
    first_size = first_phase(config).image_size
    try:
        weights = config.weights if pretrained else ""
        backbone = backbones.build(config.backbone, first_size, 0, weights, pretrained, config.seed)
    except UserError as error:
        raise UserError(str(error).replace("model_name", "backbone")) from None
    n_classes, dim = len(data.class_names), backbone.feature_dim
    heads: dict[str, nn.Module] = {"label": linear_head(dim, n_classes, config.seed)}
    if config.model_type == "fewshot":
        heads["label"] = FewShotHead(dim, n_classes, config.fewshot_hidden, config.fewshot_dropout, config.seed)
    elif config.model_type == "multitask":
        heads |= {name: linear_head(dim, len(data.attributes[name].names), config.seed) for name in attributes_of(config, data)}
    frozen = config.model_type == "fewshot" and config.fewshot_freeze_backbone
    model = Classifier(backbone.tail, dim, nn.ModuleDict(heads), config.dropout, frozen_backbone=frozen)
    for size in {first_size, *(phase_at(config, epoch).image_size for epoch in range(config.epochs))}:
        _try_size(model, config.backbone, size, "image_size" if size == first_size else "progressive_image_size")
    return model.to(memory_format=torch.channels_last), {"mean": backbone.mean, "std": backbone.std, "backbone": digest_of(backbone.tail)}


def attributes_of(config: LongtailTrainConfig, data: ClassificationData) -> tuple[str, ...]:
    """Return the attributes that have a head of their own."""
    if config.model_type != "multitask":
        return ()
    found = tuple(name for name in TASKS if name in data.attributes)
    if not found:
        raise UserError(f"model_type = multitask needs {', '.join(TASKS)} in the metadata, but none is known; give train_meta with them")
    return found


def _try_size(model: Classifier, name: str, size: int, option: str) -> None:
    """Raise UserError when the network does not take images of `size` pixels, which `option` asks for."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UserError(f"{option} = {size}: {name} does not take it ({' '.join(str(error).split())[:160]}); use another size") from None
    finally:
        model.train(was_training)


def require_validation(config: LongtailTrainConfig, data: Any) -> None:
    """Raise UserError when what the configuration chooses by needs validation images that are not there."""
    select_by = config.select_by
    none = f"but there are none and {'each class is one image or group' if config.val_share else 'val_share = 0 splits none off'}"
    if not len(data.val) and select_by != "last":
        raise UserError(f"select_by = {select_by} needs validation images, {none}; give val_dir or val_meta, or use select_by = last")
    if not len(data.val) and config.loss_type == "logit_adjustment":
        raise UserError(f"loss_type = logit_adjustment chooses tau on validation images, {none}; give val_dir or val_meta")
    if select_by == "tail_accuracy" and not np.isin(data.val.labels, tail_classes(data.class_counts)).any():
        raise UserError("select_by = tail_accuracy: none of the rarest 25 % of the classes has validation images; use balanced_accuracy")
