"""Load network weights safely: safetensors only, checked against the network name by name before anything is copied."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core import digest
from core.errors import UserError
from core.models.weights_fit import Fit, first_mismatch, fit, shared_prefix, unwrapped

_PICKLE_MAGIC = (b"PK", b"\x80")
_PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".tar")
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_CONNECT_SECONDS = 5.0

__all__ = ["digest_of", "first_mismatch", "fitted", "hub_file", "is_hub_id", "load_into", "read_safetensors"]


def is_hub_id(weights: str) -> bool:
    """Return whether `weights` reads as `owner/name` on the hub and not as a file here."""
    return bool(_HUB_ID.match(weights)) and not Path(weights).exists() and Path(weights).suffix not in (".safetensors", *_PICKLE_SUFFIXES)


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a local .safetensors file; nothing in it is ever executed.

    Raises:
        UserError: no such file, a pickle, or a truncated or otherwise unreadable file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights={path}: no such file; give a local .safetensors file")
    with path.open("rb") as file:
        magic = file.read(2)
    # A safetensors file starts with its header's length, 8 bytes little-endian, then '{': the magic alone could be a length.
    if path.suffix in _PICKLE_SUFFIXES or (magic.startswith(_PICKLE_MAGIC) and not _has_header(path)):
        raise UserError(f"weights={path} is a pickle, which can run code when read; convert to safetensors and give that file")
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"weights={path} is not a whole safetensors file ({error}); copy or download it again") from error


def _has_header(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8


def load_into(net: nn.Module, state: dict[str, Tensor], model_name: str, source: str) -> None:
    """Copy `state` into `net` (built without a classifier); the file's classifier, if any, is left out.

    A prefix that wrappers put before the names is taken off and heads beside the network are left out, said on stderr; files in an
    older or foreign naming go through timm's own converter for that network.

    Raises:
        UserError: the weights are those of another architecture; the first mismatch is named and nothing was copied.
    """
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


def hub_file(repository: str, filename: str = "model.safetensors", option: str = "weights") -> Path:
    """Return the local path of a hub file: from the cache when it is there, else downloaded (network, disk).

    The hub's client retries for tens of seconds without a network, so that its reachability is asked first, once.

    Raises:
        UserError: not in the cache and the hub is off (HF_HUB_OFFLINE) or out of reach, or the repository has no such file.
    """
    import huggingface_hub as hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        return Path(hub.hf_hub_download(repository, filename, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        pass
    instead = f"give weights=<local .safetensors file of {repository}>"
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
        raise UserError(f"{option}={repository} has no {filename} (only safetensors are read); {instead}") from error
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
    parts: list[bytes] = []
    for name, tensor in module.state_dict().items():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        parts.append(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        parts.append(memoryview(flat.view(torch.uint8).numpy()))
    return digest.of_bytes(*parts) if parts else ""
