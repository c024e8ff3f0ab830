"""Files and folders that options name: is anything there? Asked before torch and MLflow are imported, which takes far longer."""

from __future__ import annotations

import dataclasses
import os

from core.config import Dataclass
from core.errors import UserError
from core.models import sentence_names
from core.places import expanded

WITHIN = ("data_root", "train_file", "test_file")  # the family's own check knows its layouts, and names that are looked for in them
_WEIGHTS = ("weights", "tower", "towers")  # kinds that may be a name on a hub, or one of open_clip's
_NAMED = (*_WEIGHTS, "predictor")  # ... or one of the registry, a run's id, several of them
_A_FILE = (".safetensors", ".json", ".bin", ".pt", ".pth", ".ckpt")


def require_places(config: Dataclass) -> None:
    """Raise UserError for the first place, or encoder, of a configuration that is given, lies on this machine, and is not there."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if f.metadata["digest"] == "text_encoder" and sentence_names.is_named(value):
            sentence_names.require_folder(value)
        if f.metadata["role"] != "place" or f.name in WITHIN or value in ("", f.default) or ":/" in value:
            continue
        path = expanded(value, f.name)
        if os.path.lexists(path):  # what cannot be read is said by who reads it
            continue
        kind = f.metadata["digest"]
        if kind in _NAMED and ("," in value or not (path.is_absolute() or path.suffix in _A_FILE)):
            continue
        if kind in _WEIGHTS:
            raise UserError(f"{f.name}={value}: no such file; give a local .safetensors file")
        raise UserError(_absent(f.name, value))


def _absent(name: str, value: str) -> str:
    if name == "images":
        return f"images = '{value}' cannot be read (No such file or directory); give a CSV file with the column path"
    if name in ("train_dir", "val_dir", "test_dir"):
        return f"{name} '{value}' is not a folder; expected {value}/<class>/*.jpg"
    return f"{name} = '{value}' does not exist; give a runs:/<id>/<path> URI or an existing path"
