"""What the loop trains for SuperCLIP: images against the sentences of their classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.loader import Batch
from core.losses.class_sentences import superclip_class_loss
from core.losses.image_text import clip_contrast, multi_positive_contrast
from core.losses.ldam import effective_number_weights
from core.losses.word_supervision import WordFrequency, word_supervision
from core.models.clip_sentences import SentenceClip, class_means
from core.training import distributed, optimizers
from core.training.tally import Tally


def class_weights(counts: Tensor, method: str, exponent: float) -> Tensor:
    """Return class weights (C,) in float32 of mean 1 over the training images.

    `inverse_freq` is 1/n, `sqrt_inverse` 1/sqrt(n), `effective_num` (1-b)/(1-b^n) with b = 0.9999 (Cui et al. 2019,
    arXiv:1901.05555); each to the power `exponent`, so that 0 weighs all alike.
    """
    counts = counts.double()
    raw = {
        "inverse_freq": lambda: 1 / counts,
        "sqrt_inverse": lambda: counts.rsqrt(),
        "effective_num": lambda: effective_number_weights(counts),
    }[method]() ** exponent
    return (raw * counts.sum() / (raw * counts).sum()).float()


def weighs_classes(config: Any) -> bool:
    """Say whether the class term is weighted; `auto` does where sampling does not correct for the classes' sizes already."""
    return not config.use_weighted_sampling if config.use_class_weights == "auto" else bool(config.use_class_weights)


def channels_last(x: Tensor) -> Tensor:
    """Return images or feature maps (B, C, H, W) channels last, as convolutions are fastest; anything else as it is."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


@torch.no_grad()
def nearest(images: Tensor, texts: Tensor) -> Tensor:
    """Return for each image embedding (B, d) the row (B,) of the text embedding (S, d) with the largest cosine."""
    return (images @ F.normalize(texts, dim=1).T).argmax(dim=1)


class KeptViews:
    """Stands in for a ViewLoader where the frozen part's outputs are kept: the same draws, one of the V kept views an image.

    Args:
        outputs: (V, N, ...) of all images of the pool.
        n, batch_size, weights, seed, rank, world_size: as in `core.data.loader.ViewLoader`.
        rows: (n,) which of the pool's images are trained on; batches name images by place in `rows`.
    """

    def __init__(
        self, outputs: Tensor, rows: np.ndarray, batch_size: int, weights: np.ndarray | None, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.outputs, self.rows, self.weights, self.seed = outputs, torch.from_numpy(rows), weights, seed
        self.batch_size, self.rank, self.world_size = min(batch_size, len(rows)), rank, world_size
        self.steps = max(1, len(rows) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield `steps` batches, a pure function of (seed, epoch); `views` are the kept outputs (B, ...)."""
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, epoch])))
        total, n, share = self.steps * self.batch_size, len(self.rows), self.batch_size // self.world_size
        chosen = rng.permutation(n)[:total] if self.weights is None else rng.choice(n, total, p=self.weights / self.weights.sum())
        views = torch.from_numpy(rng.integers(0, len(self.outputs), total))
        positions = torch.from_numpy(chosen.astype(np.int64))
        for step in range(self.steps):
            start = step * self.batch_size + self.rank * share
            mine = slice(start, start + share)
            yield Batch(positions[mine], self.outputs[views[mine], self.rows[positions[mine]]])


class ClipTask:
    """The SuperCLIP family's task for `core.training.loop.fit`.

    Args:
        model: towers and sentences, on their device.
        labels: (n,) classes of the training images.
        words_of: (S, V) which words each sentence has, for word supervision; None without.
        loader: batches; `frozen_input` says that they hold the frozen part's outputs already.
        evaluate: metrics after an epoch, on the main process.
        config: the configuration.
        device: where the model lives.
    """

    def __init__(
        self,
        model: SentenceClip,
        labels: Tensor,
        words_of: Tensor | None,
        loader: Any,
        frozen_input: bool,
        evaluate: Callable[[int], dict[str, float]],
        config: Any,
        device: torch.device,
    ) -> None:
        self.model, self.loader, self.frozen_input, self.config, self.device = model, loader, frozen_input, config, device
        self.labels, self.evaluate = labels.to(device), evaluate
        counts = torch.bincount(labels, minlength=model.n_classes)
        weights = class_weights(counts, config.weight_method, config.weight_smooth_factor)
        self.class_weights = weights.to(device) if weighs_classes(config) else None
        self.counted = Tally()
        self.words_of = None if words_of is None else words_of.to(device)
        self.frequency = None if words_of is None else WordFrequency(words_of.shape[1]).to(device)
        # Sentences lie class by class: class c has `per_class[c]` of them from `first[c]` on.
        self.per_class = torch.bincount(model.class_of, minlength=model.n_classes)
        self.first = self.per_class.cumsum(0) - self.per_class
        groups = optimizers.decayed("towers", model.parameters(), config.weight_decay)
        self.optimizer = optimizers.over_groups("adamw", groups, config.learning_rate, 0.0, config.weight_decay)
        self.wrapped = distributed.wrap(model)

    @property
    def steps(self) -> int:
        """The number of batches of an epoch."""
        return self.loader.steps

    def prepare(self, epoch: int) -> torch.optim.Optimizer:
        """Put the model into training mode, whatever an evaluation left it in."""
        self.model.train()
        return self.optimizer

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (what the trained part takes (B, ...), labels (B,), sentence numbers (B,)) of this rank.

        An image with several class sentences draws one of them, from torch's own generator, which the loop seeds.
        """
        for batch in self.loader.epoch(epoch):
            x = channels_last(batch.views.to(self.device, non_blocking=True).float())  # kept in bf16 where they were computed so
            labels = self.labels[batch.indices.to(self.device, non_blocking=True)]
            drawn = (torch.rand(len(labels)).to(self.device) * self.per_class[labels]).long()
            yield x, labels, self.first[labels] + drawn

    def losses(self, batch: tuple[Tensor, Tensor, Tensor], epoch: int) -> dict[str, Tensor]:
        """Return L_total and its parts for one global batch, equal on every rank."""
        x, labels, drawn = batch
        c, model = self.config, self.model
        x = x if self.frozen_input else model.towers.visual.frozen(x)
        labels, drawn = distributed.gather(labels), distributed.gather(drawn)
        # The class term needs every sentence; the contrast alone only those that were drawn.
        needed, place = torch.arange(len(model.class_of), device=self.device), drawn
        if not c.use_superclip_loss:
            needed, place = drawn.unique(return_inverse=True)
        out = self.wrapped(x, needed)
        images, texts = distributed.gather(out["image"].float()), out["text"].float()
        losses = {"L_contrastive": self._contrast(images, texts[place], labels, out["scale"])}
        total = losses["L_contrastive"]
        if c.use_superclip_loss:
            classes = class_means(texts, model.class_of, model.n_classes)
            self.counted.add(nearest(images, classes), labels)
            losses["L_class"] = superclip_class_loss(images, classes, labels, out["scale"], self.class_weights)
            total = c.class_loss_weight * losses["L_class"] + c.contrastive_loss_weight * total
        else:  # among the sentences that were drawn: that of the nearest one is the class that is answered
            self.counted.add(model.class_of[needed[nearest(images, texts)]], labels)
        if self.frequency is not None and self.words_of is not None:
            present = self.words_of[drawn]
            self.frequency.update(present)
            losses["L_word"] = word_supervision(distributed.gather(out["words"].float()), present, self.frequency.weights())
            total = total + c.word_supervision_weight * losses["L_word"]
        return {"L_total": total, **losses, "temperature": 1 / out["scale"]}

    def stepped(self) -> None:
        """Nothing follows an optimiser step."""

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the trained weights and buffers, and the word counts."""
        yield from self.model.trained_state().items()
        if self.frequency is not None:
            yield from ((f"frequency.{name}", value) for name, value in self.frequency.state_dict().items())

    def tally(self) -> dict[str, float]:
        """Return the training accuracy of the epoch."""
        return self.counted.read()

    @torch.no_grad()
    def validation_losses(self, images: Tensor, sentences: Tensor, labels: Tensor) -> dict[str, float]:
        """Return {'L_class', 'L_contrastive'} of image embeddings (n, d), all sentences' (S, d) and labels (n,), as in training.

        The contrast is the mean over batches of the training's size, in an order and with sentences that are the same every epoch.
        """
        images, sentences, labels, model = images.to(self.device), sentences.to(self.device), labels.to(self.device), self.model
        classes = class_means(sentences, model.class_of, model.n_classes)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).to(self.device)
        total = 0.0
        for rows in order.split(self.config.batch_size):
            drawn = self.first[labels[rows]] + rows % self.per_class[labels[rows]]
            total += len(rows) * float(self._contrast(images[rows], sentences[drawn], labels[rows], model.scale))
        part = superclip_class_loss(images, classes, labels, model.scale, self.class_weights)
        return {"L_class": float(part), "L_contrastive": total / len(labels)}

    def _contrast(self, images: Tensor, texts: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
        if self.config.contrastive_targets == "instance":
            return clip_contrast(images, texts, scale)
        return multi_positive_contrast(images, texts, labels, scale)
