"""What SuperCLIP training starts from: pool, parts, towers, sentences, and what the frozen part of them gives, kept on disk."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core import digest
from core.cores import threads
from core.data.classification import ClassificationData
from core.data.images import ImageSet
from core.data.loader import ViewLoader, prefetched
from core.data.views import ResizedImages, ViewSpec, augment, draw_parameters, evaluation_parameters
from core.errors import UserError
from core.losses.word_supervision import words_present
from core.models import embedding_cache
from core.models.clip import ClipTowers, Temperature, build_towers
from core.models.clip_sentences import SentenceClip, class_means
from core.models.embedding_cache import EmbeddingKey
from core.models.split import compact
from core.models.word_head import WordHead
from core.progress import bar
from core.stages import machine
from core.stages.clip import folds
from core.stages.clip.config import TrainClipConfig
from core.stages.clip.data import Pool
from core.training import distributed, precision
from core.training.clip import KeptViews, channels_last, class_weights
from core.training.finite import require_outputs

FORWARD_BATCH = 128
MAX_WORKERS = 4  # more threads only take turns: a view is one short computation
MEMORY_LIMIT = 8 << 30  # bytes of kept views
CROP_SHIFT = 1 / 16  # how far random crops of 224 px move within 256
NO_COLOUR = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "jitter_prob": 0.0}
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "none": {**NO_COLOUR, "crop": "centre", "flip_prob": 0.0},
    "light": NO_COLOUR,
    "standard": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.03, "rotate": 15.0, "scale": 0.1, "shift": 0.05},
    "strong": {"rotate": 30.0, "scale": 0.25, "shift": 0.1, "gray_prob": 0.1},
}


class Rows:
    """Some images of a `ResizedImages`, as a ViewLoader takes them."""

    def __init__(self, images: ResizedImages, rows: np.ndarray) -> None:
        self.images, self.rows, self.size = images, rows, images.size

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: np.ndarray) -> Tensor:
        """Return (B, 3, R, R) uint8."""
        return self.images.batch(self.rows[np.asarray(indices)])


@dataclass
class Materials:
    """Data and machine of one SuperCLIP training.

    Attributes:
        pool: all images; rows: which of them are train, val and test.
        data: the three parts, as evaluation takes them.
        spec: how training views are made.
    """

    pool: Pool
    rows: folds.Rows
    data: ClassificationData
    spec: ViewSpec
    device: torch.device
    number_format: str
    num_workers: int
    kept: list[Tensor | None] = field(default_factory=list)

    def part(self, name: str) -> ImageSet:
        """Return the train, val or test images."""
        return getattr(self.data, name)

    def thumbnails(self, part: str, indices: np.ndarray) -> list[np.ndarray]:
        """Return the original images at `indices`, uint8 (H, W, 3) each."""
        return list(self.part(part).source.load(np.asarray(indices)))

    @cached_property
    def resized(self) -> ResizedImages:
        """All images, resized once."""
        return self.pool.resized(self.spec)

    def views(self, rows: np.ndarray, parameters: np.ndarray) -> Iterator[Tensor]:
        """Yield batches (B, 3, S, S) of views on the device."""

        def build(step: int) -> Tensor:
            part = slice(step * FORWARD_BATCH, (step + 1) * FORWARD_BATCH)
            return augment(self.resized.batch(rows[part]), parameters[part], self.spec)

        for batch in prefetched(build, -(-len(rows) // FORWARD_BATCH), max(1, min(self.num_workers, MAX_WORKERS))):
            yield batch.to(self.device, non_blocking=True, memory_format=torch.channels_last)

    @torch.no_grad()
    def frozen(self, towers: ClipTowers, view: int = -1, seed: int = 0) -> Tensor:
        """Return the frozen part's outputs (N, ...) of all images of the pool, from the cache or computed into it.

        view: -1 = the plain image; else the number of an augmented view, drawn from `seed`.
        """
        about = towers.visual.frozen_digest()
        everything = np.arange(len(self.pool.images))
        form = self._form(towers)
        parameters = evaluation_parameters(self.spec, len(everything))
        if view >= 0:
            rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, view])))
            parameters = draw_parameters(self.spec, len(everything), 1, rng)[:, 0]
        transform = dataclasses.asdict(self.spec) | {"seed": seed} if view >= 0 else self.spec.plain()
        key = EmbeddingKey(
            about,
            self.pool.images.source.digest,
            digest.of_json([transform, view, *(["bf16"] if form.dtype == torch.bfloat16 else [])]),
            self.number_format,
        )
        found = embedding_cache.cached(
            _cache(),
            key,
            len(everything),
            lambda: embedding_cache.embedded(
                lambda x: compact(towers.visual.frozen(x)).flatten(1),
                towers,
                self.views(everything, parameters),
                partial(precision.autocast, self.device, self.number_format),
                "frozen part" if view < 0 else f"view {view + 1}",
            ),
        )
        return found.tensor.view(-1, *form.shape)

    def _form(self, towers: ClipTowers) -> Tensor:
        """Return an empty tensor of the shape and number format in which one image's frozen outputs are kept."""
        was_training = towers.training
        towers.eval()
        side = self.spec.image_size
        with precision.autocast(self.device, self.number_format):
            output = compact(towers.visual.frozen(torch.zeros(1, 3, side, side, device=self.device)))
        towers.train(was_training)
        return torch.empty(output.shape[1:], dtype=torch.bfloat16 if output.dtype == torch.bfloat16 else torch.float32)

    def loader(self, towers: ClipTowers, config: TrainClipConfig) -> tuple[Any, bool]:
        """Return the training batches, and whether they hold the frozen part's outputs instead of images."""
        place = (distributed.rank(), distributed.world_size())
        labels, weights = self.data.train.labels, None
        if config.use_weighted_sampling:
            counts = torch.from_numpy(self.data.class_counts)
            weights = class_weights(counts, config.weight_method, config.weight_smooth_factor).double().numpy()[labels]
        batch_size = min(config.batch_size, len(labels))
        if batch_size % place[1]:
            raise UserError(f"batch_size = {batch_size} cannot be shared by {place[1]} processes; take a multiple of that")
        if config.lock_image or config.view_cache:
            kept = self._kept_views(towers, config)
            return KeptViews(kept, self.rows["train"], batch_size, weights, config.seed, *place), True
        workers = max(1, min(self.num_workers, MAX_WORKERS))
        return ViewLoader(Rows(self.resized, self.rows["train"]), self.spec, batch_size, 1, weights, config.seed, *place, workers), False

    def _kept_views(self, towers: ClipTowers, config: TrainClipConfig) -> Tensor:
        """Return (V, N, ...): the plain image alone, or `view_cache` augmented views."""
        needed = max(1, config.view_cache) * self._bytes(towers)
        if needed > MEMORY_LIMIT:
            raise UserError(f"view_cache = {config.view_cache} needs {needed / 2**30:.1f} GiB; keep fewer views")
        views = [-1] if not config.view_cache else range(config.view_cache)
        return torch.stack([self.frozen(towers, view, config.seed) for view in views])

    @torch.no_grad()
    def embeddings(self, model: SentenceClip, rows: np.ndarray) -> Tensor:
        """Return the image embeddings (n, d) float32 of plain images on the CPU; the model's mode is as before."""
        if not len(rows):
            return torch.zeros(0, model.towers.embed_dim)
        was_training, found = model.training, []
        model.eval()
        with precision.autocast(self.device, self.number_format):
            for x in self._inputs(model.towers, rows):
                found.append(model.embed(x).float().cpu())
        model.train(was_training)
        return torch.cat(found)

    @torch.no_grad()
    def features(self, towers: ClipTowers, rows: np.ndarray) -> np.ndarray:
        """Return the image network's features (n, width) float32 of plain images; the towers' mode is as before."""
        was_training, found = towers.training, []
        towers.eval()
        with precision.autocast(self.device, self.number_format):
            for x in self._inputs(towers, rows):
                found.append(towers.visual.trained(x)[0].float().cpu())
        towers.train(was_training)
        return torch.cat(found).numpy()

    @torch.no_grad()
    def embedded(self, model: SentenceClip, part: str) -> tuple[Tensor, Tensor]:
        """Return the embeddings of a part's plain images (n, d) and of all sentences (S, d), float32 on the CPU; the mode is as before."""
        images, was_training = self.embeddings(model, self.rows[part]), model.training
        model.eval()
        with precision.autocast(self.device, self.number_format):
            sentences = model.encode_sentences(torch.arange(len(model.class_of), device=self.device)).float().cpu()
        model.train(was_training)
        return images, sentences

    @torch.no_grad()
    def logits_of(self, model: SentenceClip, images: Tensor, sentences: Tensor, part: str) -> np.ndarray:
        """Return the logits (n, C) float32 of image embeddings (n, d) and the embeddings of all sentences (S, d)."""
        classes = class_means(sentences.to(self.device), model.class_of, model.n_classes)
        found = model.logits(images.to(self.device), classes).float().cpu().numpy()
        return require_outputs(found, f"{part} images")

    def logits(self, model: SentenceClip, part: str) -> np.ndarray:
        """Return the logits (n, C) float32 of a part's plain images; the model's mode is as before."""
        return self.logits_of(model, *self.embedded(model, part), part)

    def _inputs(self, towers: ClipTowers, rows: np.ndarray) -> Iterator[Tensor]:
        """Yield batches of what `trained` takes, of plain images: kept outputs where something is frozen and they fit."""
        kept = self._plain(towers)
        if kept is not None:
            for start in range(0, len(rows), FORWARD_BATCH):
                yield channels_last(kept[torch.from_numpy(rows[start : start + FORWARD_BATCH])].to(self.device).float())
            return
        steps = -(-len(rows) // FORWARD_BATCH)
        for views in bar(self.views(rows, evaluation_parameters(self.spec, len(rows))), "images", total=steps):
            yield towers.visual.frozen(views)

    def _plain(self, towers: ClipTowers) -> Tensor | None:
        if not self.kept:
            frozen = towers.visual.frozen_digest() and self._bytes(towers) <= MEMORY_LIMIT
            self.kept.append(self.frozen(towers) if frozen else None)
        return self.kept[0]

    def _bytes(self, towers: ClipTowers) -> int:
        return len(self.pool.images) * self._form(towers).nbytes


def parted(pool: Pool, rows: folds.Rows) -> ClassificationData:
    """Return the three parts of a pool as evaluation takes them."""
    train, val, test = (pool.subset(rows[part]) for part in ("train", "val", "test"))
    return ClassificationData(pool.name, pool.class_names, train, val, test)


def gather(config: TrainClipConfig, pool: Pool, towers: ClipTowers) -> Materials:
    """Build the materials of a training on this machine."""
    device = machine.settle(config.gpu, threads(config))
    rows = folds.parts(pool, config)
    data = parted(pool, rows)
    spec = view_spec(config, towers)
    return Materials(pool, rows, data, spec, device, precision.mixed_precision(config.use_amp, device), config.num_workers)


def view_spec(config: TrainClipConfig, towers: ClipTowers) -> ViewSpec:
    """Return how views are made: evaluation views as the towers' weights were trained to see, training views changed from there."""
    views, changes = towers.preprocessing.views(config.img_size), dict(AUGMENTATIONS[config.augmentation])
    if views["resize"] == config.img_size and changes.get("crop") != "centre":
        # A published CLIP sees the whole square, which leaves no room for random crops: images are shifted instead, as far.
        changes["shift"] = max(changes.get("shift", 0.0), CROP_SHIFT)
    return ViewSpec(**views, **changes)


def make_towers(config: TrainClipConfig) -> ClipTowers:
    """Build the towers on the CPU with their locks and frozen stages; say so when a frozen one has learnt nothing yet."""
    towers = build_towers(
        config.image_encoder_name,
        config.text_encoder_name,
        config.embed_dim,
        config.img_size,
        config.image_weights,
        config.text_weights,
        config.image_pretrained,
        config.text_pretrained,
        config.context_length,
        Temperature(config.temperature, config.learnable_temperature),
        config.seed,
    )
    towers.visual.freeze_stages(config.grad_from_block)
    if config.lock_image:
        towers.lock_image()
    if config.lock_text:
        towers.lock_text()
    if not any(p.requires_grad for p in towers.visual.parameters()) and not any(p.requires_grad for p in towers.text.parameters()):
        raise UserError("lock_image and lock_text leave nothing to train in these towers; unlock one of them")
    return towers


def sentence_model(config: TrainClipConfig, pool: Pool, towers: ClipTowers, m: Materials) -> tuple[SentenceClip, Tensor | None]:
    """Return the model on its device and, for word supervision, which words (S, V) each sentence has."""
    texts = [text for sentences in pool.sentences for text in sentences]
    class_of = torch.repeat_interleave(torch.tensor([len(sentences) for sentences in pool.sentences]))
    tokens = towers.tokenizer(texts)
    for text in [text for text, cut in zip(texts, tokens.cut.tolist(), strict=True) if cut]:
        print(f"taxon: a sentence is longer than {tokens.ids.shape[1]} tokens and loses its end: '{text[:60]}...'", file=sys.stderr)
    towers.to(m.device).to(memory_format=torch.channels_last)
    fixed, words, words_of = None, None, None
    if towers.text.locked:
        fixed = _fixed_text(towers, tokens.ids, m)
    if config.word_supervision:
        present = words_present(tokens.ids, tokens.word_mask, towers.tokenizer.vocabulary)
        words_of = present[:, present.any(dim=0)]
        words = WordHead(_token_width(towers, config.img_size, m.device), words_of.shape[1], config.seed)
    model = SentenceClip(towers, tokens.ids, class_of, words, fixed)
    return model.to(m.device), words_of


def _fixed_text(towers: ClipTowers, ids: Tensor, m: Materials) -> Tensor:
    key = EmbeddingKey(towers.text.digest(), digest.of_array(ids.numpy()), "token ids", m.number_format)
    batches = [part.to(m.device) for part in ids.split(FORWARD_BATCH)]
    make = partial(precision.autocast, m.device, m.number_format)

    def encode() -> np.ndarray:
        return embedding_cache.embed(towers.text_features, towers, batches, make, "texts")

    return torch.from_numpy(embedding_cache.cached(_cache(), key, len(ids), encode).values)


@torch.no_grad()
def _token_width(towers: ClipTowers, image_size: int, device: torch.device) -> int:
    was_training = towers.training
    towers.eval()
    width = towers.image_tokens(torch.zeros(1, 3, image_size, image_size, device=device)).shape[2]
    towers.train(was_training)
    return width


def _cache() -> Any:
    from core.places import cache_home

    return cache_home() / "embeddings"
