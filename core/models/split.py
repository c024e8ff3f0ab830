"""Split a backbone into a frozen trunk and a trained tail, so that the trunk's outputs can be cached.

A network's `forward_features` is read as a list of steps (attribute paths called in order): stem, stages, closing layers. The
trunk runs the stem and the first `grad_from_block` stages, the tail the rest and the network's own pooling. Both are shallow
copies of the network that share its parameters and have given up the parts they do not run.
"""

from __future__ import annotations

import copy
import importlib
from collections import OrderedDict
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.errors import UserError
from core.models import class_token
from core.models.small import SmallCNN
from core.models.sync_batch_norm import SyncBatchNorm


@dataclass(frozen=True)
class Family:
    """How the networks of one class run: every name is an attribute path of the network."""

    title: str
    owner: str
    """module:class whose `forward_features` the steps below spell out."""
    stem: tuple[str, ...]
    """Steps before the first stage (modules or methods)."""
    stages: tuple[str, ...]
    """One container of stages, or each stage by name."""
    closing: tuple[str, ...] = ()
    """Steps after the last stage and before pooling."""
    early: tuple[str, ...] = ()
    """Further modules that only the stem's methods use."""


FAMILIES = (
    Family(
        title="ViT (vit_*, deit_*)",
        owner="timm.models.vision_transformer:VisionTransformer",
        stem=("patch_embed", "_pos_embed", "patch_drop", "norm_pre"),
        stages=("blocks",),
        closing=("norm",),
        early=("pos_drop",),
    ),
    Family("ResNet", "timm.models.resnet:ResNet", ("conv1", "bn1", "act1", "maxpool"), ("layer1", "layer2", "layer3", "layer4")),
    Family("ConvNeXt", "timm.models.convnext:ConvNeXt", ("stem",), ("stages",), ("norm_pre",)),
    Family(
        "EfficientNet and MobileNetV2", "timm.models.efficientnet:EfficientNet", ("conv_stem", "bn1"), ("blocks",), ("conv_head", "bn2")
    ),
    Family("MobileNetV3", "timm.models.mobilenetv3:MobileNetV3", ("conv_stem", "bn1"), ("blocks",)),
    Family("RegNet", "timm.models.regnet:RegNet", ("stem",), ("s1", "s2", "s3", "s4"), ("final_conv",)),
    Family("Swin", "timm.models.swin_transformer:SwinTransformer", ("patch_embed",), ("layers",), ("norm",)),
    Family("small_cnn", f"{SmallCNN.__module__}:{SmallCNN.__name__}", (), ("blocks",)),
)


class Network(nn.Module):
    """What is used of a network of timm or of `small_cnn` beside what every module has; for annotations, nothing is made of it."""

    pretrained_cfg: dict[str, Any]

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to the last feature map or tokens."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map what `forward_features` gave to pooled features (B, d) with `pre_logits`."""
        raise NotImplementedError


class FrozenTrunk(nn.Module):
    """The part before the first trained stage: no gradients, always in evaluation mode; without steps it is the identity.

    It maps images (B, 3, H, W) to whatever its last stage gives: (B, tokens, width) for a ViT, (B, C, h, w) for a CNN.
    """

    def __init__(self, net: nn.Module | None, steps: tuple[str, ...]) -> None:
        super().__init__()
        self.net = net
        self.steps = steps
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FrozenTrunk:
        """Stay in evaluation mode whatever `mode` says: frozen BatchNorm and dropout must not move."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Run the frozen steps. no_grad and not inference_mode: under the latter autocast loses its speed on the CPU."""
        with torch.no_grad():
            return _run(self.net, self.steps, x)


class TrainedTail(nn.Module):
    """The trained part: the trunk's output to pooled features (B, feature_dim), not normalised.

    Args:
        net: the network (or what is left of it).
        steps: attribute paths to run before `net.forward_head(x, pre_logits=True)`; None runs `net` itself from the image.
        freeze_batch_norm: keep BatchNorm layers on their running statistics; their scale and shift are trained all the same.
    """

    def __init__(self, net: nn.Module, steps: tuple[str, ...] | None, freeze_batch_norm: bool = False) -> None:
        super().__init__()
        self.net = cast(Network, net)
        self.steps = steps
        self.freeze_batch_norm = freeze_batch_norm
        self.requires_grad_(True)
        self.train()

    def train(self, mode: bool = True) -> TrainedTail:
        """Set the mode; with `freeze_batch_norm` the BatchNorm layers stay in evaluation mode."""
        super().train(mode)
        if self.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, (_BatchNorm, SyncBatchNorm)):
                    module.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Map the trunk's output to pooled features (B, feature_dim)."""
        if self.steps is None:
            return self.net(x)
        before, last, closing = self._around_last_block()
        x = _run(self.net, before, x)
        if last:
            block = attrgetter(last)(self.net)
            x = class_token.last_block(block, x) if class_token.fits(self.net, block) else block(x)
        return self.net.forward_head(_run(self.net, closing, x), pre_logits=True)

    def _around_last_block(self) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
        """Return the steps before the last of a ViT's blocks, that one ('' where none trains), and those after it."""
        steps = self.steps or ()
        at = max((place for place, step in enumerate(steps) if step.startswith("blocks.")), default=-1)
        return (steps, "", ()) if at < 0 else (steps[:at], steps[at], steps[at + 1 :])


def compact(output: Tensor) -> Tensor:
    """Return a trunk's output (B, ...) as caches keep it: in bf16 where it was computed under bf16 autocast, else as it is.

    A ViT's residual stream stays in float32 under autocast, though its blocks add numbers of bf16: what this rounds away is of the size
    of one block's own rounding. Pooled features (B, d) are small, and stay. Whoever uses it puts the format back that the output had,
    so that what follows computes as before.
    """
    kind = output.device.type
    bf16 = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16
    return output.to(torch.bfloat16) if bf16 and output.ndim > 2 and output.is_floating_point() else output


def split(net: nn.Module, name: str, grad_from_block: int, freeze_batch_norm: bool = False) -> tuple[FrozenTrunk, TrainedTail]:
    """Return (trunk, tail) of `net`; together they compute exactly what `net` computed.

    Args:
        net: a network without a classifier (timm's num_classes=0).
        name: what to call it in errors.
        grad_from_block: index of the first trained stage (ViT: block). 0 trains the whole network, stem included, and works
            for any network; the number of stages trains only what follows the last one.
        freeze_batch_norm: see TrainedTail.

    Raises:
        UserError: `grad_from_block` is out of range, or the network's family cannot be split.
    """
    if grad_from_block < 0:
        raise UserError(f"grad_from_block={grad_from_block} is negative; give 0 (train the whole model) or the first trained block")
    if grad_from_block == 0:
        return FrozenTrunk(None, ()), TrainedTail(net, None, freeze_batch_norm)
    family = family_of(net)
    if family is None:
        titles = ", ".join(known.title for known in FAMILIES)
        raise UserError(
            f"model_name={name} cannot be split at grad_from_block={grad_from_block}: supported families are {titles}; "
            "grad_from_block=0 trains the whole of any timm model"
        )
    stages = _stage_paths(net, family)
    if grad_from_block > len(stages):
        raise UserError(
            f"grad_from_block={grad_from_block} is beyond the {len(stages)} stages of {name}; give 0 (whole model) to {len(stages)}"
        )
    before, after = stages[:grad_from_block], stages[grad_from_block:]
    trunk = FrozenTrunk(_part(net, family, trunk=True, keep=before), family.stem + before)
    tail = TrainedTail(_part(net, family, trunk=False, keep=after), after + family.closing, freeze_batch_norm)
    return trunk, tail


def family_of(net: nn.Module) -> Family | None:
    """Return the family whose `forward_features` is exactly `net`'s, or None: a subclass with its own forward does not fit."""
    for family in FAMILIES:
        module, cls = family.owner.split(":")
        try:
            owner = getattr(importlib.import_module(module), cls)
        except (ImportError, AttributeError):
            continue
        if type(net).forward_features is owner.forward_features if isinstance(net, owner) else False:
            return family
    return None


def last_stage_modules(net: nn.Module) -> list[nn.Module]:
    """Return the modules of the last stage of `net` and of all that follows it: closing layers, norm and pooling.

    For a network of a known family the stage is that of `split` (a ViT's last block). For another one it is the last child that
    has a matrix or a kernel among its parameters (a norm alone is a closing layer); where one child holds all parameters, the last
    such child of that one.

    Args:
        net: a network without a classifier, whole or a TrainedTail.

    Returns:
        Modules, none inside another; empty where nothing in `net` has a matrix or a kernel.
    """
    if isinstance(net, TrainedTail):
        net = net.net
    family = family_of(net)
    if family is None:
        return _last_children(net)
    last = net._modules.get(family.stages[-1])
    if last is not None and len(family.stages) == 1:
        last = list(last.children())[-1]
    others = {*family.stem, *family.early, *family.stages}
    return [module for module in (last, *(m for name, m in net._modules.items() if name not in others)) if module is not None]


def _last_children(net: nn.Module) -> list[nn.Module]:
    children = list(net.children())
    filled = [child for child in children if any(True for _ in child.parameters())]
    if len(filled) == 1 and any(True for _ in filled[0].children()):
        return [*_last_children(filled[0]), *children[children.index(filled[0]) + 1 :]]
    stages = [index for index, child in enumerate(children) if any(p.ndim > 1 for p in child.parameters())]
    return children[stages[-1] :] if stages else []


def _run(net: nn.Module | None, steps: tuple[str, ...], x: Tensor) -> Tensor:
    for step in steps:
        x = attrgetter(step)(net)(x)
    return x


def _stage_paths(net: nn.Module, family: Family) -> tuple[str, ...]:
    if len(family.stages) > 1:
        return family.stages
    (container,) = family.stages
    return tuple(f"{container}.{index}" for index in range(len(getattr(net, container))))


def _part(net: nn.Module, family: Family, trunk: bool, keep: tuple[str, ...]) -> nn.Module:
    """Return a shallow copy of `net` with only the stages in `keep` and, for the trunk, the stem; for the tail, the rest."""
    part = copy.copy(net)
    early = {*family.stem, *family.early}
    part._modules = OrderedDict(
        (name, module) for name, module in net._modules.items() if name not in family.stages and (name in early) == trunk
    )
    # Loose parameters of a network (class token, position embedding) belong to its stem.
    part._parameters = dict(net._parameters) if trunk else {}
    part._buffers = dict(net._buffers) if trunk else {}
    for path in keep:
        container, _, index = path.partition(".")
        if not index:
            part._modules[container] = net._modules[container]
            continue
        # Stages keep their number, so that a checkpoint's names are those of the whole network.
        kept = cast(nn.Module, part._modules.setdefault(container, nn.Sequential()))
        kept.add_module(index, net.get_submodule(path))
    return part
