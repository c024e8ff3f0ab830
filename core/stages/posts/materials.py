"""What every stage on posts starts from: rows, machine, network; built from the configuration, checked first."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core import digest
from core.cores import threads
from core.data import post_splits, text_cleaning
from core.data.posts import CLASS_NAMES, Posts
from core.errors import UserError
from core.lineage import NOTHING, Lineage
from core.models import clip, clip_names
from core.models.post_heads import PostClassifier
from core.models.post_net import PostNet
from core.stages import leakage, machine
from core.stages.posts import checks, features, results
from core.stages.posts.checks import MODALITIES
from core.stages.posts.config import OptimizeClipConfig, PostsData
from core.training import precision
from core.training.posts import PostInputs

PARTS = ("train", "val", "test")
REMEDY = "figures on held-out posts would mean nothing: remove these rows"
_UNUSED = "clip:small-32x1"  # stands in for a side that is not looked at: no weights are asked for it


@dataclass
class Materials:
    """Rows and machine of one stage.

    Attributes:
        rows: posts by part; test may be absent.
        texts: their cleaned texts.
        cut: how many texts a part has that are longer than the context.
        lineage: what a training on these rows has learnt from, its weights' own included.
    """

    config: OptimizeClipConfig
    rows: dict[str, Posts]
    device: torch.device
    number_format: str
    texts: dict[str, list[str]] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    lineage: Lineage = NOTHING

    def __post_init__(self):
        rules = text_cleaning.rules_of(self.config.cleaning)
        self.texts = {part: [text_cleaning.clean(text, rules) for text in posts.texts] for part, posts in self.rows.items()}

    @property
    def class_names(self) -> tuple[str, ...]:
        """C names."""
        return self.rows["train"].class_names

    @property
    def class_counts(self) -> np.ndarray:
        """(C,) training posts of each class."""
        return np.bincount(self.rows["train"].truth, minlength=len(self.class_names))

    @property
    def digest(self) -> str:
        """The sha256 of all parts."""
        return digest.of_json({part: posts.digest for part, posts in self.rows.items()})

    def inputs(self, net: PostNet, part: str) -> PostInputs:
        """Return a part as the network takes it: features where a tower is locked for good."""
        return PostInputs(self._text(net, part), self._image(net, part), self.rows[part].guids)

    def image_features(self, net: PostNet, part: str, view: int = 0) -> np.ndarray:
        """Return the locked image tower's features (N, d) of a view of a part."""
        return features.image_features(
            net, self.rows[part], self.config.image_size, self.device, self.number_format, view, self.config.seed
        )

    def _text(self, net: PostNet, part: str) -> Tensor | None:
        if net.text is None:
            return None
        tokens = net.reading.tokenizer(self.texts[part])
        self.cut[part] = int(tokens.cut.sum())
        if not never_trains(self.config, "text"):
            return tokens.ids
        return torch.from_numpy(features.text_features(net, self.texts[part], self.device, self.number_format))

    def _image(self, net: PostNet, part: str) -> Tensor | None:
        if net.visual is None:
            return None
        if not never_trains(self.config, "image"):
            return features.pixels_of(self.rows[part], self.config.image_size, net.reading.preprocessing)
        views = self.config.cached_views if part == "train" and self.config.augment else 0
        found = [self.image_features(net, part, view) for view in range(1 + views)]
        return torch.from_numpy(np.stack(found, axis=1))


def load_rows(config: PostsData) -> dict[str, Posts]:
    """Read the parts that the configuration names.

    Raises:
        UserError: a part is missing or unreadable, has no labels, a class has no training post, two parts share a post, or a row of
            one was made from a post that a later one holds.
    """
    files = {part: csv_of(config, part) for part in PARTS}
    rows = {part: _read(config, part, file) for part, file in files.items() if part != "test" or file is not None}
    check_rows(rows)
    for part, later in (("train", ("val", "test")), ("val", ("test",))):
        held_out = {name: rows[name] for name in later if name in rows}
        file = files[part]
        if file is not None:
            results.refuse_sources(post_splits.read_column(file, "source_guid"), held_out, f"{part}_csv", REMEDY)
    refuse_leaks(rows)
    return rows


def load_part(config: PostsData, part: str) -> Posts:
    """Return the labelled posts of a part, from `<part>_csv` or data_dir; UserError without either."""
    return _read(config, part, csv_of(config, part))


def _read(config: PostsData, part: str, path: Path | None) -> Posts:
    if path is None:
        raise UserError(f"no {part} posts: give data_dir with {part}.csv (prepare_posts writes it), or {part}_csv")
    posts = post_splits.read_csv(path, config.data_root)
    if posts.labels is None:
        raise UserError(f"{part}_csv = '{path}' has no label at all; give the CSV of labelled posts")
    return posts


def csv_of(config: PostsData, part: str) -> Path | None:
    """Return the CSV of a part: `<part>_csv` where given, else that of data_dir; None where there is none."""
    from core.tracking import uri

    folder, given = _folder(config.data_dir), getattr(config, f"{part}_csv")
    if given:
        return uri.resolve(given, f"{part}_csv")
    return folder / f"{part}.csv" if folder and (folder / f"{part}.csv").is_file() else None


def _folder(data_dir: str) -> Path | None:
    if not data_dir:
        return None
    from core.tracking import uri

    folder = uri.resolve(data_dir, "data_dir")
    if (folder / "posts").is_dir() and not (folder / "train.csv").is_file():
        folder /= "posts"
    if not folder.is_dir():
        raise UserError(f"data_dir = '{data_dir}' is no folder; give the one that holds train.csv and val.csv")
    return folder


def check_rows(rows: dict[str, Posts]) -> None:
    """Raise UserError when a class has no training post, or a part has no labels."""
    for part, posts in rows.items():
        if posts.labels is None:
            raise UserError(f"the {part} posts have no labels; training and validation need them")
    counts = np.bincount(rows["train"].truth, minlength=len(rows["train"].class_names))
    absent = [name for name, count in zip(rows["train"].class_names, counts, strict=True) if not count]
    if absent:
        raise UserError(f"class {', '.join(absent)} has no training post; add some to the training CSV")


def refuse_leaks(rows: dict[str, Posts]) -> None:
    """Raise UserError when two parts share a post by guid, image file or text: test posts may not choose the epoch either."""
    for ours, part in (("train", "val"), ("train", "test"), ("val", "test")):
        pair = (rows[ours], rows[part]) if part in rows else None
        found = [leak for leak in post_splits.leaks(*pair) if leak.by != post_splits.BY_LOOK] if pair else []
        if found:
            first, name = found[0], {"train": "training", "val": "validation"}[ours]
            n_posts = len({leak.held_out for leak in found})
            raise UserError(
                f"{n_posts} {part} posts are in the {name} posts too, e.g. guid {first.held_out} (same {first.by} as "
                f"{first.train}): figures on them would mean nothing; remove them from {name} (prepare_posts splits without)"
            )


def gather(config: OptimizeClipConfig, rows: dict[str, Posts]) -> Materials:
    """Build the materials of a stage on this machine; UserError where its weights have learnt from what it holds out."""
    record = leakage.admit(config, results.parts_of(rows), "posts")
    device = machine.settle(config.gpu, threads(config))
    return Materials(config, rows, device, precision.mixed_precision(config.use_amp, device), lineage=record)


def never_trains(config: OptimizeClipConfig, side: str) -> bool:
    """Say whether the image or text tower stays as it is in every epoch."""
    return getattr(config, f"lock_{side}") or (is_pretrained(config, side) and config.freeze_epochs >= config.epochs)


def is_pretrained(config: OptimizeClipConfig, side: str) -> bool:
    """Say whether a tower (`image` or `text`) starts from weights."""
    if _weights(config, side):
        return True
    name, tag = _name(config, side), getattr(config, f"{side}_pretrained")
    tower = (
        clip_names.image_tower(name, tag, config.image_size) if side == "image" else clip_names.text_tower(name, tag, config.context_length)
    )
    return tower.pretrained


def build_net(config: OptimizeClipConfig, class_names: tuple[str, ...] = CLASS_NAMES) -> PostNet:
    """Build the network on the CPU, its towers locked or given LoRA as the configuration says.

    Raises:
        UserError: unknown names, weights that are absent, unsafe or of another tower, or LoRA where nothing takes it.
    """
    used = _used(config)
    towers = clip.build_towers(
        **_sizes(config)
        | {
            f"{side}_{name}": find(config, side) if used[side] else unused
            for side in used
            for name, find, unused in (("encoder_name", _name, _UNUSED), ("weights", _weights, ""), ("pretrained", _tag, ""))
        }
    )
    head = PostClassifier(
        towers.text.width,
        towers.visual.width,
        len(class_names),
        checks.head_of(config),
        MODALITIES[config.modality],
        config.dropout,
        config.seed,
    )
    net = PostNet(towers, head, len(class_names))
    _prepare_towers(net, config)
    return net


def build_arguments(config: OptimizeClipConfig, net: PostNet | None = None) -> dict[str, Any]:
    """Return the arguments of build_towers that build the same towers without any weights: all JSON values.

    net: the built network, whose weights may have decided what its names leave open.
    """
    used = _used(config)
    names: dict[str, Any] = {
        f"{side}_encoder_name": plain_name(_name(config, side), config, side) if used[side] else _UNUSED for side in used
    }
    sides = {"image": net.visual, "text": net.text} if net is not None else {}
    settings = {side: tower.settings for side, tower in sides.items() if tower is not None and used[side]}
    return _sizes(config) | names | ({"settings": settings} if settings else {})


def frozen_image(config: OptimizeClipConfig) -> OptimizeClipConfig:
    """Return the configuration of the image tower alone, locked: whose features stand beside n-grams."""
    return dataclasses.replace(config, modality="image", lock_image=True, lora_rank=0, head_variant="base")


def _used(config: OptimizeClipConfig) -> dict[str, bool]:
    return {side: config.modality in ("both", side) for side in ("image", "text")}


def _sizes(config: OptimizeClipConfig) -> dict[str, Any]:
    used = _used(config)
    return {
        "embed_dim": config.embed_dim,
        "image_size": config.image_size if used["image"] else 32,
        "context_length": config.context_length if used["text"] else 0,
        "seed": config.seed,
    }


def _prepare_towers(net: PostNet, config: OptimizeClipConfig) -> None:
    low_rank = 0
    for side, tower in (("image", net.visual), ("text", net.text)):
        if tower is None:
            continue
        if never_trains(config, side):
            tower.lock()
        elif config.lora_rank and is_pretrained(config, side):
            low_rank += tower.add_lora(config.lora_rank, 16.0, config.seed)
    if config.lora_rank and not low_rank:
        raise UserError(
            f"lora_rank = {config.lora_rank}, but no pretrained tower trains; raise epochs above freeze_epochs, or leave it out"
        )


def _name(config: OptimizeClipConfig, side: str) -> str:
    return getattr(config, f"{side}_encoder_name") or config.model_name


def _tag(config: OptimizeClipConfig, side: str) -> str:
    return getattr(config, f"{side}_pretrained")


def _weights(config: OptimizeClipConfig, side: str) -> str:
    whole = clip_names.whole_clip(_name(config, side), config.weights) if side == "text" else config.weights
    return getattr(config, f"{side}_weights") or whole


def digest_of(rows: dict[str, Posts]) -> str:
    """Return the digest of the posts of all parts."""
    return digest.of_json({part: posts.digest for part, posts in rows.items()})


def plain_name(name: str, config: OptimizeClipConfig, side: str) -> str:
    """Return the name that builds the same tower without the weights that `name` or a tag implies."""
    tag = getattr(config, f"{side}_pretrained")
    tower = (
        clip_names.image_tower(name, tag, config.image_size) if side == "image" else clip_names.text_tower(name, tag, config.context_length)
    )
    if tower.kind == "timm":
        return tower.model.partition(".")[0]
    if tower.kind == "small" or (tower.source and not tower.tag):
        return tower.model
    quick = tower.quick_gelu and "quickgelu" not in tower.model
    return f"clip:{tower.model}{'-quickgelu' if quick else ''}"
