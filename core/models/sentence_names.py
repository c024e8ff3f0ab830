"""How a pretrained sentence encoder is named, `hf:<folder or owner/name>`; read before anything heavy, by what checks options too."""

from __future__ import annotations

import re
from pathlib import Path

from core.errors import UserError

PREFIX = "hf:"
OPTION = "text_encoder_name"
CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
LAYOUT = f"{CONFIG}, {TOKENIZER} and {WEIGHTS}"
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def is_named(name: str) -> bool:
    """Say whether `text_encoder_name` names a sentence encoder."""
    return name.startswith(PREFIX)


def require_folder(name: str) -> None:
    """Raise UserError for an encoder that lies neither in a folder here nor, by its name, on the hub."""
    given = name.removeprefix(PREFIX)
    if not (given and Path(given).expanduser().is_dir()) and not _REPOSITORY.fullmatch(given):
        raise UserError(f"{OPTION}={name} is no folder here and no owner/name of the hub; give {PREFIX}<folder with {LAYOUT}>")
