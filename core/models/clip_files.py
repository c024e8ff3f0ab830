"""What a CLIP checkpoint says of itself: architecture, activation and preprocessing, from the configuration beside its weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from core.models import preprocessing, transformers_names
from core.models.preprocessing import Preprocessing

WEIGHTS = ("open_clip_model.safetensors", "model.safetensors")
CONFIGS = ("open_clip_config.json", "config.json", "preprocessor_config.json")
# Scalars that only the archives of OpenAI's own release hold.
_OPENAI_SCALARS = ("input_resolution", "context_length", "vocab_size")
_OPENAI_HALVES = ("visual.conv1.weight", "attn.in_proj_weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


@dataclass(frozen=True)
class ClipConfig:
    """The configuration of a whole CLIP."""

    source: str
    """File that says it."""
    model: dict[str, Any]
    """embed_dim, vision_cfg and text_cfg as open_clip has them; {} where only the preprocessing is known."""
    quick_gelu: dict[str, bool]
    """By side, `image` and `text`: the activation is QuickGELU, x * sigmoid(1.702 x)."""
    preprocessing: Preprocessing | None
    """None where the file says nothing of it."""


def beside(place: Path) -> ClipConfig | None:
    """Return the configuration in the folder `place`, or beside the file `place`; None where there is none of a CLIP (disk).

    Raises:
        UserError: a configuration that cannot be read, or wants what is not done here.
    """
    folder = place if place.is_dir() else place.parent
    own, theirs, processor = (read_json(folder / name) for name in CONFIGS)
    if "model_cfg" in own:
        model, source = dict(own["model_cfg"]), str(folder / CONFIGS[0])
        quick = bool(model.get("quick_gelu"))
        return ClipConfig(
            source, model, {"image": quick, "text": quick}, preprocessing.of_open_clip(own.get("preprocess_cfg") or {}, source)
        )
    found = preprocessing.of_transformers(processor, str(folder / CONFIGS[2])) if "image_mean" in processor else None
    if "vision_config" in theirs or "text_config" in theirs:
        model = transformers_names.configuration(theirs)
        return ClipConfig(str(folder / CONFIGS[1]), model, model.pop("quick_gelu"), found)
    return ClipConfig(str(folder / CONFIGS[2]), {}, {}, found) if found else None


def said_beside(path: Path) -> dict[str, Any]:
    """Return what the files beside weights say of how they are used, as JSON values; {} where there is nothing (disk).

    Two places with equal weights compute alike only where this is equal too.
    """
    found = beside(path)
    if found is not None:
        seen = None if found.preprocessing is None else dataclasses.asdict(found.preprocessing)
        return {"quick_gelu": found.quick_gelu, "preprocessing": seen}
    about = read_json(path.parent / "config.json").get("pretrained_cfg") or {}
    return {name: about[name] for name in ("mean", "std") if name in about}


def read_json(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file; {} where there is no such file, or it holds something else (disk)."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read ({' '.join(str(error).split())[:100]}); copy or download it again") from None
    return found if isinstance(found, dict) else {}


def is_openai(state: Mapping[str, Tensor]) -> bool:
    """Say whether bare weights are of OpenAI's release, which was trained with QuickGELU.

    Its archives hold three scalars of the model; and it was published in half precision, so that every matrix of its layers is one
    of half precision, whatever format it is kept in now. Weights that were trained since, in single precision, are not.
    """
    if all(any(name.endswith(scalar) for name in state) for scalar in _OPENAI_SCALARS):
        return True
    matrices = [tensor for name, tensor in state.items() if name.endswith(_OPENAI_HALVES) and tensor.dtype == torch.float32]
    return bool(matrices) and all(torch.equal(tensor, tensor.half().float()) for tensor in matrices)
