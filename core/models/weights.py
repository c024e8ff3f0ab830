"""Load network weights safely: safetensors only, checked against the network name by name before anything is copied."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core import digest
from core.errors import UserError
from core.models import transformers_names
from core.models.weights_fit import Fit, fit, shared_prefix, unwrapped

_PICKLE_MAGIC = (b"PK", b"\x80")
_PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".tar")
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_CONNECT_SECONDS = 5.0
_INDEX = ".index.json"  # after a file's name: says which of several files, its shards, holds which tensor


def is_hub_id(weights: str) -> bool:
    """Return whether `weights` reads as `owner/name` on the hub and not as a file here."""
    is_file = weights.endswith((".safetensors", _INDEX, *_PICKLE_SUFFIXES)) or Path(weights).exists()
    return bool(_HUB_ID.match(weights)) and not is_file


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a local .safetensors file, or of all shards of its .index.json; nothing in them is ever executed.

    Raises:
        UserError: no such file, a pickle, a truncated or otherwise unreadable file, or an index that is not one of the files beside it.
    """
    path = Path(path)
    if not path.name.endswith(_INDEX):
        return _read_file(path)
    state: dict[str, Tensor] = {}
    for shard, names in _shards(path).items():
        held = _read_file(path.parent / shard)
        lacking = next((name for name in names if name not in held), None)
        if lacking is not None:
            raise UserError(f"weights={path}: {shard} lacks '{lacking}', which the index says it holds; copy or download both again")
        state |= {name: held[name] for name in names}
    return state


def files_of(path: Path) -> list[Path]:
    """Return the files that hold what `read_safetensors` reads of `path`: itself, or an index and its shards; UserError as there."""
    return [path, *(path.parent / shard for shard in _shards(path))] if path.name.endswith(_INDEX) and path.is_file() else [path]


def _shards(index: Path) -> dict[str, list[str]]:
    """Return the names of the tensors of each file that an index names.

    Raises:
        UserError: it cannot be read, names no files, or one outside its own folder.
    """
    again = "copy or download it again"
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        named = [(str(tensor), str(shard)) for tensor, shard in found.items()]
    except FileNotFoundError:
        raise UserError(f"weights={index}: no such file; give a local .safetensors file") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"weights={index} is no index of safetensors (an object with 'weight_map'); {again}") from None
    shards: dict[str, list[str]] = {}
    for tensor, shard in named:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise UserError(f"weights={index} names '{shard}', which is no .safetensors file of its own folder; {again}")
        shards.setdefault(shard, []).append(tensor)
    return shards


def _read_file(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"weights={path}: no such file; give a local .safetensors file")
    with path.open("rb") as file:
        magic = file.read(2)
    # A safetensors file starts with its header's length, 8 bytes little-endian, then '{': the magic alone could be a length.
    if path.suffix in _PICKLE_SUFFIXES or (magic.startswith(_PICKLE_MAGIC) and not _has_header(path)):
        raise UserError(
            f"weights={path} is a pickle, which can run code when read; convert to safetensors and give that file: {conversion(path)}"
        )
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"weights={path} is not a whole safetensors file ({error}); copy or download it again") from error


def conversion(path: Path, target: Path | None = None) -> str:
    """Return the command that converts a pickled file of tensors, nested as training tools nest them, for a shell.

    target: the file that it writes; None for one beside the pickle.
    """
    code = (
        "import sys, torch, safetensors.torch as st; s = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
        "s = next((s[k] for k in ('state_dict', 'model', 'teacher') if isinstance(s.get(k), dict)), s); "
        "st.save_file({k: v.clone().contiguous() for k, v in s.items() if torch.is_tensor(v)}, sys.argv[2])"
    )
    return shlex.join(["python", "-c", code, str(path), str(target or path.with_name(f"{path.stem}-converted.safetensors"))])


def _has_header(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8


def load_into(net: nn.Module, state: dict[str, Tensor], model_name: str, source: str) -> None:
    """Copy `state` into `net` (built without a classifier); the file's classifier, if any, is left out.

    A prefix that wrappers put before the names is taken off and heads beside the network are left out, said on stderr; files in an
    older or foreign naming go through timm's own converter for that network. Half precision is widened first: a converter may compute.

    Raises:
        UserError: the weights are those of another architecture; the first mismatch is named and nothing was copied.
    """
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    expected = net.state_dict()
    found = fitted(net, state, expected)
    if found.mismatch:
        raise UserError(
            f"weights={source} are not those of model_name={model_name}: {found.reason()}; "
            "give weights of that architecture, or the model_name that they belong to"
        )
    found.say(source, _classifiers(net))
    net.load_state_dict(found.given, strict=False)


def fitted(net: nn.Module, state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> Fit:
    """Return the tensors of `state` that `net` takes: in its own names, or in those that timm's converter knows."""
    found = fit(state, expected)
    if not found.mismatch:
        return found
    if transformers_names.is_transformers(state):
        state = transformers_names.to_open_clip(state)
    state = {unwrapped(name): tensor for name, tensor in state.items()}
    for inner in dict.fromkeys((found.prefix, shared_prefix(state), "")):
        renamed = {name.removeprefix(inner): tensor for name, tensor in state.items() if name.startswith(inner)}
        converted = fit(_converted(net, renamed), expected)
        if not converted.mismatch:
            return converted
    return found


def _classifiers(net: nn.Module) -> tuple[str, ...]:
    """Return the first parts of the names of the network's own classifier, which files have and features do without."""
    named = (getattr(net, "pretrained_cfg", None) or {}).get("classifier") or ()
    return tuple(name.partition(".")[0] for name in ((named,) if isinstance(named, str) else named))


def _converted(net: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return `state` in timm's present naming where its network's module has a converter, else `state`."""
    convert: Any = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        return dict(convert(dict(state), net))
    except Exception:  # a converter fed a foreign file fails in its own way; the mismatch is then reported as it was
        return state


def locate(weights: str, names: Sequence[str] = ("model.safetensors",), beside: Sequence[str] = ("config.json",)) -> Path:
    """Return the local file that an option of weights means: the file itself, one of `names` in a folder, or in a hub repository.

    Where there is none of them, the index of the shards of one, which a hub's cache then holds too.

    A folder may be a repository's own in the hub's cache (`models--owner--name`). The hub is asked only for what its cache lacks;
    with weights it is asked for the files `beside` them, which say how they are used.

    Raises:
        UserError: a folder or repository without any of `names`, or a hub out of reach.
    """
    indices = [name + _INDEX for name in names]
    if is_hub_id(weights):
        found = cached(weights, (*names, *indices)) or _downloaded(weights, names, beside)
        for path in files_of(found)[1:]:
            hub_file(weights, path.name)
        return found
    folder = snapshot(Path(weights))
    if not folder.is_dir():
        return Path(weights)
    here = next((folder / name for name in (*names, *indices) if (folder / name).is_file()), None)
    if here is None:
        raise UserError(f"weights={weights} is a folder without {' or '.join(names)} (only safetensors are read); give the file itself")
    return here


def snapshot(folder: Path) -> Path:
    """Return the newest snapshot of a repository's folder in the hub's cache, that of `main` where it has one; else `folder`."""
    if not (folder / "snapshots").is_dir():
        return folder
    main = folder / "refs" / "main"
    named = folder / "snapshots" / (main.read_text().strip() if main.is_file() else "-")
    kept = sorted((folder / "snapshots").iterdir(), key=lambda path: path.stat().st_mtime)
    return named if named.is_dir() or not kept else kept[-1]


def cached(repository: str, names: Sequence[str]) -> Path | None:
    """Return the first of a repository's files `names` that the hub's cache holds; None for none of them (disk)."""
    import huggingface_hub as hub

    for name in names:
        try:
            return Path(hub.hf_hub_download(repository, name, local_files_only=True))
        except (OSError, ValueError):  # not there, or no name that a repository can have
            continue
    return None


class _NoSuchFile(UserError):
    pass


def _downloaded(repository: str, names: Sequence[str], beside: Sequence[str]) -> Path:
    refused: list[UserError] = []
    for name in (*names, *(name + _INDEX for name in names)):
        try:
            found = hub_file(repository, name)
        except _NoSuchFile as error:
            refused.append(error)
            continue
        for other in beside:
            with contextlib.suppress(UserError):
                hub_file(repository, other)
        return found
    raise refused[len(names) - 1]  # that of the last name, not of its index


def hub_file(repository: str, filename: str = "model.safetensors", option: str = "weights", instead: str = "") -> Path:
    """Return the local path of a hub file: from the cache when it is there, else downloaded (network, disk).

    The hub's client retries for tens of seconds without a network, so that its reachability is asked first, once.

    Args:
        option: that names the repository, for errors. instead: what an error says to do; '' = give a file as weights.

    Raises:
        UserError: not in the cache and the hub is off (HF_HUB_OFFLINE) or out of reach, or the repository has no such file.
    """
    import huggingface_hub as hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

    here = cached(repository, (filename,))
    if here is not None:
        return here
    instead = instead or f"give weights=<local .safetensors file of {repository}>"
    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(repository, filename), timeout=_CONNECT_SECONDS)
        return Path(hub.hf_hub_download(repository, filename))
    except RepositoryNotFoundError as error:
        raise UserError(f"{option}={repository}: no such repository on the hub (or it is private); {instead}") from error
    except OfflineModeIsEnabled as error:
        raise UserError(f"pretrained weights {repository} are not in the cache and HF_HUB_OFFLINE is set; {instead}") from error
    except LocalEntryNotFoundError as error:
        raise UserError(f"pretrained weights {repository} cannot be downloaded (is there a network?); {instead}") from error
    except EntryNotFoundError as error:
        raise _NoSuchFile(f"{option}={repository} has no {filename} (only safetensors are read); {instead}") from error
    except Exception as error:  # every transport of the client raises its own kinds
        raise UserError(f"pretrained weights {repository} cannot be downloaded ({_line(error)}); {instead}") from error


def cached_files(repository: str) -> list[Path]:
    """Return the safetensors of a hub repository that are in the cache of this machine; nothing is downloaded."""
    import huggingface_hub as hub

    try:
        folder = Path(hub.snapshot_download(repository, local_files_only=True, allow_patterns="*.safetensors"))
    except Exception:  # not in the cache, or no name of a repository: whoever loads it says so
        return []
    return sorted(folder.glob("*.safetensors"))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def digest_of(module: nn.Module) -> str:
    """Return the sha256 over names, dtypes, shapes and bytes of all parameters and buffers; '' when there are none."""
    parts: list[bytes | memoryview] = []
    for name, tensor in module.state_dict().items():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        parts.append(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        parts.append(memoryview(flat.view(torch.uint8).numpy()))
    return digest.of_bytes(*parts) if parts else ""
