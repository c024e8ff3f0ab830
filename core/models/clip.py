"""CLIP: an image tower and a text tower with one embedding space, over timm and open_clip."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError
from core.models import backbones, clip_names, clip_weights, sentence_tower
from core.models import weights as weight_files
from core.models.clip_names import TowerName
from core.models.clip_towers import ImageTower, OpenClipImageTower, TimmImageTower, Tower
from core.models.preprocessing import OLDER, Preprocessing
from core.models.tokenizers import VOCABULARY, ClipTokenizer, Tokenizer

MAX_SCALE = 100.0
# The half of an open_clip model that is built only because its builder makes both.
_UNUSED_IMAGE = {"image_size": 8, "patch_size": 8, "width": 8, "layers": 1, "head_width": 8}
_UNUSED_TEXT = {"context_length": 3, "vocab_size": 4, "width": 8, "heads": 1, "layers": 1}


@dataclass(frozen=True)
class Temperature:
    """The contrast's temperature."""

    value: float = 0.07
    """At the start; 0 takes that of the weights, which both towers must then share."""
    learnable: bool = True
    """Train it (its logarithm); else it stays."""


class ClipTowers(nn.Module):
    """Image and text towers, and the scale of their cosines.

    Args:
        image, text: towers of one embedding width.
        tokenizer: fits the text tower's context.
        preprocessing: how the image tower's inputs are made.
        temperature: above 0.

    Example:
        >>> towers = build_towers("resnet18", "clip:small", image_weights="resnet18.safetensors")
        >>> logits = towers.scale() * cosine(towers.encode_image(images), towers.encode_text(towers.tokenizer(sentences).ids))
    """

    def __init__(
        self,
        image: ImageTower,
        text: Tower,
        tokenizer: Tokenizer,
        preprocessing: Preprocessing,
        temperature: Temperature,
    ) -> None:
        super().__init__()
        self.visual, self.text, self.tokenizer = image, text, tokenizer
        self.preprocessing = preprocessing
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(temperature.value)), requires_grad=temperature.learnable)

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, what the image tower's inputs are normalised by (range 0..1)."""
        return self.preprocessing.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel, what the image tower's inputs are normalised by (range 0..1)."""
        return self.preprocessing.std

    @property
    def embed_dim(self) -> int:
        """Width of both embeddings."""
        return self.text.embed_dim

    def scale(self) -> Tensor:
        """Return 1/temperature, a scalar of at most 100, with its gradient.

        The parameter itself is brought back to the bound, as CLIP does (arXiv:2103.00020, section 2.5): clamping the value
        alone would leave a parameter that once passed the bound without gradient for good.
        """
        with torch.no_grad():
            self.logit_scale.clamp_(max=math.log(MAX_SCALE))
        return self.logit_scale.exp()

    def image_features(self, images: Tensor) -> Tensor:
        """Return what the image tower's body gives, (B, visual.width): the part that does not change while it is locked."""
        return self.visual.features(images)

    def text_features(self, token_ids: Tensor) -> Tensor:
        """Return what the text tower's body gives, (B, text.width), of token ids (B, context)."""
        return self.text.features(token_ids)

    def encode_image(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to embeddings (B, embed_dim), not normalised."""
        return self.visual(images)

    def encode_text(self, token_ids: Tensor) -> Tensor:
        """Map token ids (B, context) to embeddings (B, embed_dim), not normalised."""
        return self.text(token_ids)

    def image_tokens(self, images: Tensor) -> Tensor:
        """Return the patch tokens (B, T, token width) of images: a ViT's patches, a CNN's last feature map by place."""
        return self.visual.features_and_tokens(images)[1]

    def encode_image_and_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return `encode_image` and `image_tokens` from one pass."""
        features, tokens = self.visual.features_and_tokens(images)
        return self.visual.projection(features), tokens

    def lock_image(self, locked: bool = True) -> None:
        """Freeze the image tower's body (a timm tower's projection trains on), or free it again."""
        self.visual.lock(locked)

    def lock_text(self, locked: bool = True) -> None:
        """Freeze the text tower's body (a sentence encoder's projection trains on), or free it again."""
        self.text.lock(locked)


def build_towers(
    image_encoder_name: str,
    text_encoder_name: str,
    embed_dim: int = 512,
    image_size: int = 224,
    image_weights: str = "",
    text_weights: str = "",
    image_pretrained: str = "",
    text_pretrained: str = "",
    context_length: int = 0,
    temperature: Temperature | None = None,
    seed: int = 1,
    settings: Mapping[str, Any] | None = None,
) -> ClipTowers:
    """Build two towers on the CPU in float32; the global random state is left as it was. Nothing is ever unpickled.

    Args:
        image_encoder_name: a timm model (`resnet18`, gets a linear projection), `small_cnn`, an open_clip model
            (`clip:ViT-B/32`, `ViT-B-32`, `openai/clip-vit-base-patch32` with OpenAI's weights), `clip:small-<width>x<layers>`, or a
            folder or cached hub repository with a CLIP in transformers' or open_clip's format (configuration and safetensors).
        text_encoder_name: an open_clip model with CLIP's tokenizer, `clip:small-<width>x<layers>`, or a sentence encoder
            `hf:<folder or owner/name>`, which gets a linear projection unless `embed_dim` is its own width.
        embed_dim: width of the shared space; published CLIP weights have theirs.
        image_size: side of the square input in pixels.
        image_weights, text_weights: .safetensors of the tower, of a whole CLIP or (timm) of the plain network; its folder, or a hub id.
            A configuration beside it decides activation and preprocessing. A given file overrides a tag.
        image_pretrained, text_pretrained: tag of published weights (`openai`; timm: `default` or its own); '' = none but the name's.
        context_length: tokens a text may have; 0 takes the text model's own.
        temperature: of the contrast; 0.07 and learnable by default.
        seed: initialises what no weights are loaded for.
        settings: by side, the `settings` of a tower that is built again without its files, whatever its name now means.

    Raises:
        UserError: unknown name or tag, weights absent, out of reach, damaged, pickled or of another tower, sizes that do not fit.
    """
    image_name = _named(image_encoder_name, image_pretrained, image_size, "image", settings)
    text_name = _named(text_encoder_name, text_pretrained, context_length, "text", settings)
    _check_width(image_name, embed_dim, image_weights)
    _check_width(text_name, embed_dim, text_weights)
    text_name, text_state, text_source = _read(text_name, text_weights, "text")
    text, tokenizer = _text_tower(text_name, embed_dim, text_state, text_source, seed)
    image_state: dict[str, Tensor] = {}
    image_source = ""
    if image_name.kind == "timm":
        image, seen = _timm_tower(image_name, embed_dim, image_size, image_weights, seed)
    else:
        image_name, image_state, image_source = _read(image_name, image_weights, "image", (text_source, text_state))
        image = _open_clip_tower(image_name, embed_dim, image_size, image_state, image_source, seed)
        seen = image_name.preprocessing
    chosen = _temperature(temperature or Temperature(), image_state if image_source == text_source else {})
    return ClipTowers(image, text, tokenizer, seen, chosen)


def _named(name: str, pretrained: str, size: int, side: str, settings: Mapping[str, Any] | None) -> TowerName:
    """Return what a tower's name means, or the tower of `settings`."""
    kept = (settings or {}).get(side) or {}
    if "config" in kept:
        return TowerName(kept.get("kind", "open_clip"), name, "", 0, dict(kept["config"]), bool(kept["quick_gelu"]))
    return clip_names.image_tower(name, pretrained, size) if side == "image" else clip_names.text_tower(name, pretrained, size)


def build_image_tower(
    image_encoder_name: str, image_pretrained: str, embed_dim: int, image_size: int, settings: Mapping[str, Any] | None = None
) -> ImageTower:
    """Build an image tower as `build_towers` does, but load no weights: for a registered model, which brings its own.

    The tower's `settings` decide the architecture; without them (older models) its name and pretraining tag do.
    """
    named = _named(image_encoder_name, image_pretrained, image_size, "image", {"image": settings})
    name = replace(named, tag="", source="")
    if name.kind == "timm":
        return _timm_tower(name, embed_dim, image_size, "", 1)[0]
    return _open_clip_tower(name, embed_dim, image_size, {}, "", 1)


def _check_width(tower: TowerName, embed_dim: int, weights: str) -> None:
    if tower.pretrained and not weights and tower.embed_dim not in (0, embed_dim):
        whose = tower.tag or "own"
        raise UserError(
            f"embed_dim={embed_dim}: the {whose} weights of {tower.model} embed in {tower.embed_dim}; give embed_dim={tower.embed_dim}"
        )


def _read(
    tower: TowerName, weights: str, side: str, known: tuple[str, dict[str, Tensor]] = ("", {})
) -> tuple[TowerName, dict[str, Tensor], str]:
    """Return an open_clip tower as its weights describe it, their tensors and their path; nothing is read for a tower from scratch.

    known: path and tensors of a file that is read already.
    """
    path = clip_weights.find(tower, weights, side)
    if path is None:
        return tower, {}, ""
    with clip_weights.options_named(side):
        state = known[1] if str(path) == known[0] else weight_files.read_safetensors(path)
    return clip_weights.described(tower, path, state, bool(weights), side), state, str(path)


def _temperature(asked: Temperature, state: dict[str, Tensor]) -> Temperature:
    if asked.value < 0 or 0 < asked.value < 1 / MAX_SCALE:
        raise UserError(
            f"temperature={asked.value} must be at least {1 / MAX_SCALE} (a scale of {MAX_SCALE:g}), or 0 for that of the weights"
        )
    if asked.value:
        return asked
    if "logit_scale" not in state:
        raise UserError(
            "temperature=0 takes that of the weights, but the towers do not share one file that has it; give a temperature such as 0.07"
        )
    return Temperature(math.exp(-min(float(state["logit_scale"]), math.log(MAX_SCALE))), asked.learnable)


def _text_tower(name: TowerName, embed_dim: int, state: dict[str, Tensor], source: str, seed: int) -> tuple[Tower, Tokenizer]:
    if name.kind == "hf":
        return sentence_tower.build(name, state, source, embed_dim, seed)
    net = _open_clip_net(name, embed_dim, "text", seed)
    if state:
        clip_weights.load(net, state, "text", name.model, source)
    if net.vocab_size != VOCABULARY:
        raise UserError(
            f"text_encoder_name={name.model} has {net.vocab_size} words, CLIP's tokenizer {VOCABULARY}; give a tower with CLIP's"
        )
    tower = Tower(name.model, net, embed_dim, None, {"config": name.config, "quick_gelu": name.quick_gelu})
    return tower, ClipTokenizer(name.config["context_length"])


def _open_clip_tower(name: TowerName, embed_dim: int, image_size: int, state: dict[str, Tensor], source: str, seed: int) -> ImageTower:
    net = _open_clip_net(name, embed_dim, "image", seed)
    if state:
        clip_weights.load(net, state, "image", name.model, source)
    tower = OpenClipImageTower(name.model, net, embed_dim, None, {"config": name.config, "quick_gelu": name.quick_gelu})
    _check_image_size(tower, image_size)
    return tower


def _open_clip_net(name: TowerName, embed_dim: int, side: str, seed: int) -> nn.Module:
    """Return one half of an open_clip model, initialised from `seed`."""
    from core.models.open_clip_alone import open_clip

    configs = (name.config, _UNUSED_TEXT) if side == "image" else (_UNUSED_IMAGE, name.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            whole = open_clip.CustomTextCLIP(embed_dim, *configs, quick_gelu=name.quick_gelu)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            line = " ".join(str(error).split())[:160]
            raise UserError(f"{side}_encoder_name={name.model} cannot be built: {line}; choose another tower or size") from error
    return whole.visual if side == "image" else whole.text


def _check_image_size(tower: OpenClipImageTower, image_size: int) -> None:
    """Prove by one pass that the tower takes the image size."""
    training = tower.training
    try:
        with torch.no_grad():
            tower.eval()(torch.zeros(1, 3, image_size, image_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        line = " ".join(str(error).split())[:160]
        raise UserError(f"image_encoder_name={tower.name} does not take img_size={image_size}: {line}") from error
    finally:
        tower.train(training)


def _timm_tower(name: TowerName, embed_dim: int, image_size: int, weights: str, seed: int) -> tuple[ImageTower, Preprocessing]:
    """Return a timm network with a linear projection; its weights may be the plain network's or those in a CLIP of this project."""
    with clip_weights.options_named("image"):
        found = backbones.build(name.model, image_size, 0, weights, pretrained=bool(name.tag), seed=seed)
    projection = sentence_tower.random_projection(found.feature_dim, embed_dim, seed)
    body = found.tail.net
    tower = TimmImageTower(name.model, body, found.feature_dim, projection, {"image_size": image_size})
    return tower, Preprocessing(found.mean, found.std, margin=OLDER.margin)
