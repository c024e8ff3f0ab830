"""A pretrained sentence encoder in Hugging Face's layout, `hf:<folder or owner/name>`: what its files say, read as data and nothing else.

Read are config.json, tokenizer.json and model.safetensors, from a folder, from the hub's cache, or, of a hub name that the cache lacks,
from the hub. No code that a repository brings is run, and no pickle is read.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import digest
from core.errors import UserError
from core.models import clip_files
from core.models import weights as weight_files
from core.models.sentence_names import CONFIG, LAYOUT, OPTION, PREFIX, TOKENIZER, WEIGHTS, require_folder

# Files that say how many tokens of a text are read, and how those of a sentence become one vector.
BESIDE = ("sentence_bert_config.json", "tokenizer_config.json", "1_Pooling/config.json")
_ANY = 1 << 20
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class SentenceFiles:
    """What a sentence encoder's files say beside its weights."""

    config: dict[str, Any]
    """config.json: the network."""
    tokenizer: str
    """tokenizer.json."""
    context_length: int
    """Tokens of a text that its authors let it read."""
    longest: int
    """Tokens that it has positions for."""


def read(name: str) -> SentenceFiles:
    """Return what the files of `hf:<folder or owner/name>` say (disk; network for what neither folder nor the hub's cache has).

    Raises:
        UserError: no such folder or repository, a hub out of reach, a file that is missing or no JSON, an encoder that needs code of
            its own, or one that does not take the mean over its tokens.
    """
    paths = _paths(name)
    config = clip_files.read_json(paths[CONFIG])
    if "auto_map" in config:
        raise UserError(f"{OPTION}={name} needs code of its own ({CONFIG} has auto_map), which is never run; give an encoder without")
    limits, said, pooling = (clip_files.read_json(paths[file]) if file in paths else {} for file in BESIDE)
    if pooling and not pooling.get("pooling_mode_mean_tokens", True):
        raise UserError(f"{OPTION}={name} does not take the mean over its tokens (1_Pooling/config.json); give an encoder that does")
    longest = min(_number(config, "max_position_embeddings", 512), _number(said, "model_max_length", _ANY))
    return SentenceFiles(config, _text(paths[TOKENIZER]), min(_number(limits, "max_seq_length", longest), longest), longest)


def weights(name: str) -> Path:
    """Return the weights' file, or the index of its shards; UserError where there are only pickles, or none."""
    given = name.removeprefix(PREFIX)
    folder = _folder(given)
    if folder is None:
        return _from_hub(given, WEIGHTS)
    here = next((folder / file for file in (WEIGHTS, f"{WEIGHTS}.index.json") if (folder / file).is_file()), None)
    if here is not None:
        return here
    pickled = next((folder / file for file in _PICKLES if (folder / file).is_file()), None)
    if pickled is None:
        raise UserError(f"{OPTION}={name}: '{folder}' has no {WEIGHTS}; give a folder with {LAYOUT}")
    raise UserError(
        f"{OPTION}={name}: '{folder}' has its weights as a pickle only ({pickled.name}), which can run code when read; "
        f"convert it to {WEIGHTS} beside it: {weight_files.conversion(folder / _PICKLES[0], folder / WEIGHTS)}"
    )


def digest_of(name: str) -> str:
    """Return the sha256 of what the encoder computes with, wherever it lies; the name itself where its files are out of reach."""
    try:
        found, path = read(name), weights(name)
    except UserError:  # whoever builds it says so
        return name
    files = [digest.of_file_once(file) for file in weight_files.files_of(path)]
    return digest.of_json([found.config, found.tokenizer, found.context_length, files])


def _paths(name: str) -> dict[str, Path]:
    """Return the files that are read as text, by name."""
    given = name.removeprefix(PREFIX)
    folder = _folder(given)
    if folder is not None:
        lacking = [file for file in (CONFIG, TOKENIZER) if not (folder / file).is_file()]
        if lacking:
            raise UserError(f"{OPTION}={name}: '{folder}' has no {' and no '.join(lacking)}; give a folder with {LAYOUT}")
        return {file: folder / file for file in (CONFIG, TOKENIZER, *BESIDE) if (folder / file).is_file()}
    require_folder(name)
    here = {file: weight_files.cached(given, (file,)) for file in (CONFIG, TOKENIZER, *BESIDE)}
    found = {file: path for file, path in here.items() if path is not None}
    lacking = [file for file in (CONFIG, TOKENIZER) if file not in found]
    found |= {file: _from_hub(given, file) for file in lacking}
    for file in BESIDE if lacking else ():  # asked for once, with the rest
        with contextlib.suppress(UserError):
            found[file] = _from_hub(given, file)
    return found


def _from_hub(given: str, file: str) -> Path:
    """Return a file of a repository, from the hub's cache where it is there; one line says what to give where it cannot be had."""
    instead = f"give {OPTION}=hf:<folder with {LAYOUT} of {given}>"
    try:
        return weight_files.hub_file(given, file, OPTION, instead)
    except UserError as error:
        said = str(error).removeprefix(f"{OPTION}={given}").removeprefix(":").strip()
        raise UserError(f"{OPTION}={PREFIX}{given}: {said}") from error


def _folder(given: str) -> Path | None:
    folder = weight_files.snapshot(Path(given).expanduser())
    return folder if given and folder.is_dir() else None


def _number(said: dict[str, Any], name: str, default: int) -> int:
    """Return a number of tokens; `default` where there is none, or one that stands for `any`, as tokenizers write it."""
    value = said.get(name)
    return int(value) if isinstance(value, int | float) and 0 < value < _ANY else default


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text)
        return text
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read ({' '.join(str(error).split())[:100]}); copy or download it again") from None
