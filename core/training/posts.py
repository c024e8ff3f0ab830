"""What the loop trains for posts: towers and head on image + text, cached features where a tower is locked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.post_augment import augment_image
from core.losses.ldam import effective_number_weights
from core.losses.soft_cross_entropy import soft_cross_entropy
from core.models.clip_towers import Tower
from core.models.layer_decay import layer_of
from core.models.post_net import PostNet
from core.models.tokenizers import Tokenizer
from core.training import distributed, optimizers
from core.training.tally import Tally

_NO_DECAY = ("positional_embedding", "class_embedding", "cls_emb", "pos_embed", "cls_token")


@dataclass(frozen=True, eq=False)
class PostInputs:
    """Posts as the network takes them; a side that is not looked at is None.

    text: token ids (N, L) int64, or features (N, d) float32.
    image: pixels (N, 3, S, S) uint8, or features (N, V, d) float32 of the plain view and V - 1 augmented ones.
    keys: N names that augmentation draws from.
    """

    text: Tensor | None
    image: Tensor | None
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)


class PostLoss:
    """ce, focal, cb or combo, each of the size of ce where it starts.

    An untrained classifier gives 1/C to every class, where the focal factor (Lin et al. 2017, arXiv:1708.02002) is (1 - 1/C)^gamma:
    the loss is divided by it. Class weights of effective numbers (Cui et al. 2019, arXiv:1901.05555) have mean 1 over the training
    posts. So a learning rate means the same for all four.

    Args:
        loss: its name. gamma: focal exponent. beta: of the effective numbers.
        class_counts: (C,) training posts of each class, each above 0.
    """

    def __init__(self, loss: str, gamma: float, beta: float, class_counts: Tensor) -> None:
        n_classes, counts = len(class_counts), class_counts.float()
        self.weights = self.gammas = None
        self.scale = 1.0
        if loss in ("cb", "combo"):
            weights = effective_number_weights(class_counts, beta).float()
            self.weights = weights * counts.sum() / (weights * counts).sum()
        if loss in ("focal", "combo"):
            self.gammas = torch.full_like(counts, gamma)
            self.scale = (1 - 1 / n_classes) ** -gamma
        self.n_classes = n_classes

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, a scalar, of logits (B, C) against labels (B,)."""
        return self.scale * soft_cross_entropy(logits, F.one_hot(labels, self.n_classes).float(), self.weights, self.gammas)


def rate(step: int, total: int, warmup_ratio: float, use_cosine: bool) -> float:
    """Return what the learning rates are multiplied by at a step (0-based) of `total`: a linear rise, then flat or a cosine to 0."""
    warm = round(warmup_ratio * total)
    if step < warm:
        return (step + 1) / warm
    return (1 + math.cos(math.pi * (step - warm) / max(total - warm, 1))) / 2 if use_cosine else 1.0


class PostsTask:
    """The posts family's task for `core.training.loop.fit`.

    Args:
        net: on its device; towers that never train are locked.
        pretrained: sides (`visual`, `text`) whose tower starts from weights: they wait for `freeze_epochs` and learn at `lr`.
        loss: of logits and labels.
        inputs: the training posts. labels: (N,) int64.
        evaluate: metrics after an epoch, on the main process.
        config: the configuration.
        device: where the network lives.
    """

    def __init__(
        self,
        net: PostNet,
        pretrained: tuple[str, ...],
        loss: PostLoss,
        inputs: PostInputs,
        labels: Tensor,
        evaluate: Callable[[int], dict[str, float]],
        config: Any,
        device: torch.device,
    ) -> None:
        self.net, self.loss, self.inputs, self.labels = net, loss, inputs, labels
        self.evaluate, self.config, self.device = evaluate, config, device
        self.waiting = tuple(net.towers[side] for side in pretrained if side in net.towers and not net.towers[side].locked)
        self.optimizer = torch.optim.AdamW(groups_of(net, pretrained, config), lr=config.lr, weight_decay=config.weight_decay)
        self.counted = Tally()
        self.wrapped: Any = None
        self.step = 0
        self.become(0)

    @property
    def steps(self) -> int:
        """The number of batches of an epoch."""
        full, rest = divmod(len(self.inputs), self.config.batch_size)
        return max(1, full + (rest >= self._world))

    @property
    def _world(self) -> int:
        return distributed.world_size()

    def become(self, epoch: int) -> None:
        """Lock or free the pretrained towers as a (global, 0-based) epoch has them."""
        for tower in self.waiting:
            tower.lock(epoch < self.config.freeze_epochs)
        self.wrapped = distributed.wrap(self.net)

    def factor(self, step: int) -> float:
        """Return what the learning rates are multiplied by at a global step."""
        return rate(step, self.config.epochs * self.steps, self.config.warmup_ratio, self.config.use_cosine)

    def prepare(self, epoch: int) -> torch.optim.Optimizer:
        """Set what an epoch trains, and the mode; return the optimiser."""
        if epoch == self.config.freeze_epochs or self.wrapped is None:
            self.become(epoch)
        self.step = epoch * self.steps
        self.net.train()
        return self.optimizer

    def batches(self, epoch: int) -> Iterator[tuple[Tensor | None, Tensor | None, Tensor]]:
        """Yield this rank's (text, image, labels) of an epoch: a pure function of (seed, epoch)."""
        rng = np.random.default_rng([self.config.seed, epoch])
        order = rng.permutation(len(self.inputs))
        views = rng.integers(0, self._views, len(order))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        with ThreadPoolExecutor(max(1, self.config.num_workers)) as pool:
            for start in range(0, self.steps * self.config.batch_size, self.config.batch_size):
                rows = order[start : start + self.config.batch_size]
                text = self._text(rows, generator)
                share = slice(distributed.rank(), len(rows) // self._world * self._world, self._world)
                mine = rows[share]
                image = self._image(mine, views[mine], epoch, pool)
                labels = self.labels[torch.from_numpy(mine)].to(self.device)
                yield None if text is None else text[share].to(self.device), image, labels

    def losses(self, batch: tuple[Tensor | None, Tensor | None, Tensor], epoch: int) -> dict[str, Tensor]:
        """Return L_total of one global batch, equal on every rank."""
        text, image, labels = batch
        logits = distributed.gather(self.wrapped(text, image).float())
        labels = distributed.gather(labels)
        self.counted.add(logits.argmax(dim=1), labels)
        return {"L_total": self.loss(logits, labels)}

    def stepped(self) -> None:
        """Set the learning rates of the next step."""
        self.step += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * self.factor(self.step) * group["lr_scale"]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the network's weights and buffers."""
        yield from self.net.state_dict().items()

    def tally(self) -> dict[str, float]:
        """Return the training accuracy of the epoch."""
        return self.counted.read()

    @property
    def _views(self) -> int:
        image = self.inputs.image
        return image.shape[1] if image is not None and image.ndim == 3 else 1

    def _text(self, rows: np.ndarray, generator: torch.Generator) -> Tensor | None:
        if self.inputs.text is None:
            return None
        text = self.inputs.text[torch.from_numpy(rows)]
        if text.is_floating_point() or not self.config.word_dropout:
            return text
        return drop_tokens(text, self.config.word_dropout, generator, self.net.reading.tokenizer)

    def _image(self, rows: np.ndarray, views: np.ndarray, epoch: int, pool: ThreadPoolExecutor) -> Tensor | None:
        if self.inputs.image is None:
            return None
        if self.inputs.image.ndim == 3:
            return self.inputs.image[torch.from_numpy(rows), torch.from_numpy(views)].to(self.device)
        pixels = self.inputs.image[torch.from_numpy(rows)]
        if self.config.augment:
            keys = [f"{self.inputs.keys[row]}/{epoch}" for row in rows]
            made = pool.map(lambda one, key: augmented(one, self.config.seed, key), pixels, keys)
            pixels = torch.stack(list(made))
        return self.net.reading.normalise(pixels.to(self.device))


def augmented(pixels: Tensor, seed: int, key: str, variant: int = 0) -> Tensor:
    """Return a cropped, flipped, recoloured variant of an image (3, S, S) uint8."""
    made = augment_image(pixels.permute(1, 2, 0).contiguous().numpy(), variant + 1, seed, key)[variant]
    return torch.from_numpy(made).permute(2, 0, 1).contiguous()


def drop_tokens(ids: Tensor, share: float, generator: torch.Generator, tokenizer: Tokenizer) -> Tensor:
    """Drop each token of texts (B, L) with probability `share`, the rest closing up; start and end stay."""
    position = torch.arange(ids.shape[1])[None, :]
    end = tokenizer.lengths(ids)[:, None] - 1
    dropped = (torch.rand(ids.shape, generator=generator) < share) & (position > 0) & (position < end)
    kept = torch.where(dropped, tokenizer.padding, ids)
    return kept.gather(1, dropped.long().argsort(dim=1, stable=True))


def groups_of(net: PostNet, pretrained: tuple[str, ...], config: Any) -> list[dict[str, Any]]:
    """Return the optimiser's groups: the head and towers from scratch at `head_lr`, pretrained towers at `lr`, falling by layer.

    A layer k below a tower's top has lr * layer_decay^k (Bao et al. 2021, arXiv:2106.08254, appendix).
    """
    groups = optimizers.decayed("head", net.head.parameters(), config.weight_decay, config.head_lr / config.lr)
    found: dict[str, dict[str, Any]] = {}
    for side, tower in net.towers.items():
        if tower.locked:
            continue
        layers, top = layer_of(tower)
        for name, parameter in tower.trainable():
            below = top - layers[name] if side in pretrained else 0
            plain = parameter.ndim < 2 or name.endswith(_NO_DECAY)
            scale = config.layer_decay**below if side in pretrained else config.head_lr / config.lr
            title = f"{side} {below}{' without decay' if plain else ''}"
            group = {"name": title, "params": [], "weight_decay": 0.0 if plain else config.weight_decay, "lr_scale": scale}
            found.setdefault(title, group)["params"].append(parameter)
    return groups + list(found.values())


def trained_state(net: PostNet, pretrained: tuple[str, ...], epoch: int, config: Any, never: tuple[Tower, ...]) -> dict[str, Tensor]:
    """Return references to all that training may have changed in `epoch` finished epochs: what a checkpoint holds.

    Args:
        never: towers that never train.
    """
    state = net.state_dict()
    kept = {name for name in state if name.startswith("head.") or name == "logit_bias"}
    for side, tower in net.towers.items():
        if tower in never or (side in pretrained and epoch <= config.freeze_epochs):
            continue
        low_rank = side in pretrained and config.lora_rank
        kept |= {f"{side}.{name}" for name, _ in tower.trainable()} if low_rank else {name for name in state if name.startswith(f"{side}.")}
    return {name: value for name, value in state.items() if name in kept}
