"""Names of CLIP towers: what the user writes, and which network, configuration and weights it means."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from core.errors import UserError, nearest
from core.models import clip_files, preprocessing, sentence_files, sentence_names
from core.models import small as small_cnn
from core.models import weights as weight_files
from core.models.clip_files import ClipConfig
from core.models.preprocessing import OLDER, Preprocessing
from core.models.tokenizers import VOCABULARY

SMALL = "clip:small"
_SMALL = re.compile(r"clip:small(?:-(\d+)x(\d+))?$")
_SMALL_DEFAULT = {"image": (192, 4), "text": (128, 3)}
_SMALL_CONTEXT = 64
_HEAD_WIDTH = 32
_HUB_NAMES = {
    "openai/clip-vit-base-patch32": "ViT-B-32",
    "openai/clip-vit-base-patch16": "ViT-B-16",
    "openai/clip-vit-large-patch14": "ViT-L-14",
    "openai/clip-vit-large-patch14-336": "ViT-L-14-336",
}


@dataclass(frozen=True)
class TowerName:
    """One tower, named."""

    kind: str
    """`timm`, `open_clip`, `small` or `hf`."""
    model: str
    """timm name (with its tag), open_clip name, `clip:small-<width>x<layers>`, or `hf`, whose files say the rest."""
    tag: str = ""
    """Pretraining tag of open_clip, `default` for timm's own weights; '' starts from scratch (or from a given file)."""
    embed_dim: int = 0
    """Embedding width of the open_clip model; 0 where any will do."""
    config: dict[str, Any] = field(default_factory=dict)
    """The tower's part of an open_clip configuration (vision_cfg or text_cfg); of `hf` encoder, tokenizer and context_length."""
    quick_gelu: bool = False
    """The weights were trained with QuickGELU, x * sigmoid(1.702 x)."""
    source: str = ""
    """Folder or hub repository that the name is, which holds weights; '' where it is none."""
    preprocessing: Preprocessing = Preprocessing()
    """How the image tower's images are made; only the colours are of any use for a text tower."""

    @property
    def pretrained(self) -> bool:
        """The name means published weights."""
        return bool(self.tag or self.source)


def image_tower(name: str, pretrained: str, image_size: int) -> TowerName:
    """Return the image tower of `name`: a timm model, `small_cnn`, an open_clip model, or `clip:small[-<width>x<layers>]`.

    Args:
        name: `resnet18`, `resnet18.a1_in1k`, `clip:ViT-B/32`, `ViT-B-32`, `openai/clip-vit-base-patch32`, `clip:small-64x2`.
        pretrained: pretraining tag; for timm also `default`. A tag within `name` counts too.
        image_size: side of the input in pixels.

    Raises:
        UserError: unknown name or tag, or an image size that the small tower cannot divide into patches.
    """
    import timm

    if not name.startswith("clip:") and (name == small_cnn.NAME or timm.is_model(name.partition(".")[0])):
        model, _, tag = name.partition(".")
        wanted = tag or pretrained
        full = f"{model}.{wanted}" if wanted not in ("", "default") else model
        return TowerName("timm", full, wanted)
    if _SMALL.match(name):
        width, layers = _small_size(name, "image")
        vision = {
            "image_size": image_size,
            "patch_size": _small_patch(image_size),
            "width": width,
            "layers": layers,
            "head_width": _HEAD_WIDTH,
        }
        return _from_scratch(
            TowerName("small", f"{SMALL}-{width}x{layers}", config=vision, preprocessing=OLDER), pretrained, "image_pretrained"
        )
    found = _open_clip(name, pretrained, "image")
    return replace(found, config={**found.config, "image_size": image_size})


def text_tower(name: str, pretrained: str, context_length: int) -> TowerName:
    """Return the text tower of `name`: an open_clip model with CLIP's tokenizer, `clip:small[-<width>x<layers>]`, or a sentence encoder.

    Args:
        name: `clip:ViT-B/32`, `ViT-B-32`, `openai/clip-vit-base-patch32`, `clip:small-32x2`, `hf:<folder or owner/name>`.
        pretrained: pretraining tag. A tag within `name` counts too.
        context_length: tokens a text may have; 0 takes the model's own.

    Raises:
        UserError: unknown name or tag, a tower that needs a tokenizer from the hub, or a sentence encoder whose files are not there.
    """
    if sentence_names.is_named(name):
        return _sentence_encoder(name, pretrained, context_length)
    if _SMALL.match(name):
        width, layers = _small_size(name, "text")
        text = {"width": width, "layers": layers, "heads": width // _HEAD_WIDTH, "vocab_size": VOCABULARY}
        text["context_length"] = context_length or _SMALL_CONTEXT
        return _from_scratch(TowerName("small", f"{SMALL}-{width}x{layers}", config=text), pretrained, "text_pretrained")
    found = _open_clip(name, pretrained, "text")
    if found.config.get("hf_model_name") or found.config.get("hf_tokenizer_name"):
        raise UserError(
            f"text_encoder_name={name} needs a tokenizer of its own from the hub; give a tower with CLIP's, such as clip:ViT-B/32"
        )
    return replace(found, config={**found.config, "context_length": context_length or found.config.get("context_length", 77)})


def _sentence_encoder(name: str, pretrained: str, context_length: int) -> TowerName:
    if pretrained:
        raise UserError(f"text_pretrained={pretrained}: {name} brings its own weights; leave it empty")
    found = sentence_files.read(name)
    if context_length > found.longest:
        raise UserError(f"context_length={context_length}: {name} reads {found.longest} tokens at most; give that or less")
    said = {"encoder": found.config, "tokenizer": found.tokenizer, "context_length": context_length or found.context_length}
    return TowerName("hf", "hf", config=said, source=name.removeprefix(sentence_names.PREFIX))


def whole_clip(text_encoder_name: str, weights: str) -> str:
    """Return the file of a whole CLIP that holds a text tower too: '' for a sentence encoder, which is part of none."""
    return "" if sentence_names.is_named(text_encoder_name) else weights


def _open_clip(name: str, pretrained: str, side: str) -> TowerName:
    from core.models.open_clip_alone import open_clip

    published = _published(name)
    if published is not None and published.model and not pretrained:
        return _configured(name, published, side)
    model, tag = _known(name, side)
    config = open_clip.get_model_config(model)
    tag = pretrained or tag
    cfg = open_clip.pretrained.get_pretrained_cfg(model, tag) if tag else {}
    if tag and not cfg:
        tags = open_clip.list_pretrained_tags_by_model(model)
        known = f"; it has {', '.join(tags)}" if tags else ": it has none"
        raise UserError(f"{side}_pretrained={tag}: {model} has no weights of that name{known}{nearest(tag, tags)}")
    part = dict(config["vision_cfg" if side == "image" else "text_cfg"])
    part.pop("timm_model_pretrained", None)
    quick = bool(config.get("quick_gelu") or cfg.get("quick_gelu"))
    source = name if weight_files.is_hub_id(name) and not pretrained and tag else ""
    return TowerName("open_clip", model, tag, config["embed_dim"], part, quick, source, preprocessing.of_open_clip(cfg, f"{model} {tag}"))


def _published(name: str) -> ClipConfig | None:
    """Return the configuration of a folder, or of a repository that the hub's cache holds; None for a name that is neither (disk)."""
    if Path(name).is_dir():
        return clip_files.beside(weight_files.snapshot(Path(name)))
    kept = weight_files.cached(name, clip_files.CONFIGS[:2]) if weight_files.is_hub_id(name) else None
    return None if kept is None else clip_files.beside(kept)


def _configured(name: str, published: ClipConfig, side: str) -> TowerName:
    part = dict(published.model["vision_cfg" if side == "image" else "text_cfg"])
    part.pop("timm_model_pretrained", None)
    seen = published.preprocessing or Preprocessing()
    return TowerName("open_clip", name, "", published.model["embed_dim"], part, published.quick_gelu[side], name, seen)


def _known(name: str, side: str) -> tuple[str, str]:
    """Return (open_clip model, tag that the name implies)."""
    from core.models.open_clip_alone import open_clip

    if name in _HUB_NAMES:
        return _HUB_NAMES[name], "openai"
    for model, tag in open_clip.list_pretrained():
        if "/" in name and open_clip.pretrained.get_pretrained_cfg(model, tag).get("hf_hub", "").rstrip("/") == name:
            return model, tag
    models = open_clip.list_models()
    plain = name.removeprefix("clip:").replace("/", "-")
    if plain not in models and Path(name).is_dir():
        raise UserError(
            f"{side}_encoder_name={name} has no {' or '.join(clip_files.CONFIGS[:2])} of a CLIP; give {side}_weights={name} and a name"
        )
    if plain not in models:
        import timm

        close = nearest(plain, [*models, *(timm.list_models() if side == "image" else []), "small"])
        kinds = "a timm model, an open_clip model (clip:ViT-B/32)" if side == "image" else "an open_clip model (clip:ViT-B/32)"
        kinds += ", a folder with config.json and model.safetensors, a CLIP that is in the hub's cache"
        kinds += ", hf:<folder or owner/name of a sentence encoder>" if side == "text" else ""
        raise UserError(f"{side}_encoder_name={name} is unknown; give {kinds} or {SMALL}{close}")
    return plain, ""


def _small_size(name: str, side: str) -> tuple[int, int]:
    match = _SMALL.match(name)
    assert match is not None
    width, layers = (int(n) for n in match.groups()) if match[1] else _SMALL_DEFAULT[side]
    if width < _HEAD_WIDTH or width % _HEAD_WIDTH or layers < 1:
        raise UserError(
            f"{side}_encoder_name={name}: the width must be a multiple of {_HEAD_WIDTH} and there must be a layer, as in clip:small-64x2"
        )
    return width, layers


def _small_patch(image_size: int) -> int:
    """Return the largest patch that leaves a grid of at least 4 x 4."""
    for patch in (16, 14, 8, 7, 4, 2):
        if image_size % patch == 0 and image_size // patch >= 4:
            return patch
    raise UserError(f"img_size={image_size} cannot be divided into patches by {SMALL}; give a multiple of 16")


def _from_scratch(tower: TowerName, pretrained: str, option: str) -> TowerName:
    if pretrained:
        raise UserError(f"{option}={pretrained}: {SMALL} has no published weights; leave it empty")
    return tower
