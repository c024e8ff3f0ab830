"""Checkpoints: only what trains, its optimiser, the random state and the metrics so far; safetensors, atomic, verified.

A file `epoch_0010.safetensors` is written to a temporary name, synced, renamed, and vouched for in `checkpoints.json` (size,
sha256). Reading never unpickles. A damaged file is named, and the one before it is used.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from core import digest
from core.errors import UserError
from core.lineage import Lineage
from core.places import write_atomically

INDEX = "checkpoints.json"
FORMAT = "taxon-checkpoint-1"


@dataclass
class TrainState:
    """Everything a training needs to continue bit-identically.

    Attributes:
        epoch: finished global epochs.
        model: trainable parameters and buffers by name.
        optimizer: `torch.optim.Optimizer.state_dict()`.
        history: one [epoch, {metric: value}] per finished epoch, so that metrics not yet stored travel with the weights.
        facts: JSON values that must agree on resume (recipe, digests) or that selection needs (best epoch and score).
        rng: torch's generator state after the epoch.
        lineage: what the weights have learnt from.
        content: digest of the whole checkpoint that this one holds the weights of; '' = it is whole, and a training can go on from it.
    """

    epoch: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    history: list[list[Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    rng: Tensor = field(default_factory=torch.get_rng_state)
    lineage: Lineage = field(default_factory=Lineage)
    content: str = ""


def set_rng(state: TrainState) -> None:
    """Put torch's generator where it was after the checkpoint's epoch."""
    torch.set_rng_state(state.rng)


def checkpoint_name(epoch: int) -> str:
    """Return the file name of a checkpoint; zero padded, so that names and numbers sort alike."""
    return f"epoch_{epoch:04d}.safetensors"


def to_bytes(state: TrainState) -> bytes:
    """Serialise a state: tensors as tensors, the rest as JSON in the file's metadata."""
    tensors = {f"model.{name}": _plain(value) for name, value in state.model.items()}
    scalars: dict[str, dict[str, Any]] = {}
    for index, slots in state.optimizer["state"].items():
        for slot, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{slot}"] = _plain(value)
            else:
                scalars.setdefault(str(index), {})[slot] = value
    tensors["rng"] = state.rng
    meta = {
        "format": FORMAT,
        "epoch": state.epoch,
        "history": state.history,
        "facts": state.facts,
        "param_groups": state.optimizer["param_groups"],
        "scalars": scalars,
        "content": state.content,
    }
    return save(tensors, metadata={"taxon": json.dumps(meta), **state.lineage.metadata()})


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()


def save_checkpoint(folder: Path, state: TrainState) -> Path:
    """Write `state` atomically into `folder` and return its path; a full disk leaves no half file and raises UserError."""
    folder.mkdir(parents=True, exist_ok=True)
    return _vouched(folder, state.epoch, to_bytes(state))


def adopt(folder: Path, path: Path, epoch: int) -> Path:
    """Copy a checkpoint from elsewhere into `folder`, vouched for as if it had been saved there; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    return _vouched(folder, epoch, path.read_bytes())


def _vouched(folder: Path, epoch: int, data: bytes) -> Path:
    path = folder / checkpoint_name(epoch)
    write_atomically(path, data, f"checkpoint of epoch {epoch}")
    index = read_index(folder)
    index[path.name] = {"epoch": epoch, **digest.entry_of(data)}
    write_atomically(folder / INDEX, json.dumps(index, indent=1).encode(), "checkpoint index")
    return path


def read_index(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the folder's vouched-for checkpoints, oldest first; empty when there are none."""
    try:
        index = json.loads((folder / INDEX).read_text())
    except (OSError, ValueError):
        return {}
    return dict(sorted(index.items(), key=lambda item: item[1]["epoch"]))


def is_vouched(folder: Path, epoch: int) -> bool:
    """Say whether a folder holds the whole checkpoint of an epoch."""
    name = checkpoint_name(epoch)
    entry = read_index(folder).get(name)
    return entry is not None and digest.is_vouched(folder / name, entry)


def newest_valid(folder: Path, whole: bool = False) -> tuple[Path, TrainState] | None:
    """Return the newest checkpoint that verifies; damaged ones are named on stderr and passed over.

    Args:
        whole: those that hold their weights only are passed over, too: no training goes on from them.
    """
    for name, entry in reversed(read_index(folder).items()):
        path = folder / name
        if not digest.is_vouched(path, entry):
            print(f"taxon: checkpoint {path} is damaged or missing; using the one before it", file=sys.stderr)
            continue
        state = load_checkpoint(path)
        if not (whole and state.content):
            return path, state
    return None


def weights_only(state: TrainState) -> TrainState:
    """Return a checkpoint without the optimiser's moments, half of it or more; its content digest stays that of the whole one."""
    optimizer = {"state": {}, "param_groups": state.optimizer["param_groups"]}
    return replace(state, optimizer=optimizer, content=content_digest(state))


def lightened(folder: Path, keep: Callable[[int], bool]) -> Iterator[TrainState]:
    """Yield the weights of every whole checkpoint in a folder whose epoch `keep` refuses."""
    for name, entry in read_index(folder).items():
        if not keep(entry["epoch"]) and digest.is_vouched(folder / name, entry):
            state = load_checkpoint(folder / name)
            if not state.content:
                yield weights_only(state)


def load_checkpoint(path: Path) -> TrainState:
    """Read a checkpoint; raise UserError when it is not one, is cut short, or is a pickle."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            meta = json.loads(metadata.get("taxon", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)  # noqa: SIM118 (safe_open is no dict)
    except (SafetensorError, ValueError, OSError) as error:
        if _is_pickle(path):
            raise UserError(f"'{path}' is a pickle, which is never read; give a checkpoint that taxon wrote (safetensors)") from None
        raise UserError(f"checkpoint '{path}' is damaged ({str(error).splitlines()[0][:100]}); use the one before it") from None
    if meta.get("format") != FORMAT:
        raise UserError(f"'{path}' is no checkpoint of taxon; give an epoch_NNNN.safetensors that a training wrote")
    return _assemble(meta, tensors, Lineage.of_metadata(metadata, str(path)))


def _is_pickle(path: Path) -> bool:
    """Say whether a file that is no safetensors starts as a zip of torch.save or a pickle does (a safetensors' length may, too)."""
    with open(path, "rb") as file:
        head = file.read(2)
    return head == b"PK" or head[:1] == b"\x80"


def _assemble(meta: dict[str, Any], tensors: dict[str, Tensor], lineage: Lineage) -> TrainState:
    slots: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in meta["scalars"].items()}
    model = {}
    for key, value in tensors.items():
        if key.startswith("model."):
            model[key.removeprefix("model.")] = value
        elif key.startswith("optimizer."):
            _, index, slot = key.split(".", 2)
            slots.setdefault(int(index), {})[slot] = value
    optimizer = {"state": slots, "param_groups": meta["param_groups"]}
    content = meta.get("content", "")  # a checkpoint of before has no such entry: it is whole
    return TrainState(meta["epoch"], model, optimizer, meta["history"], meta["facts"], tensors["rng"], lineage, content)


def prune(folder: Path, keep: Callable[[int], bool]) -> None:
    """Delete checkpoints whose epoch `keep` refuses; the index is rewritten first, so it never names a missing file."""
    index = read_index(folder)
    doomed = [name for name, entry in index.items() if not keep(entry["epoch"])]
    if not doomed:
        return
    kept = {name: entry for name, entry in index.items() if name not in doomed}
    write_atomically(folder / INDEX, json.dumps(kept, indent=1).encode(), "checkpoint index")
    for name in doomed:
        (folder / name).unlink(missing_ok=True)


def content_digest(state: TrainState) -> str:
    """Return the sha256 of what a checkpoint hands on: weights, optimiser, random state, epoch, facts and metrics.

    Left out are what a clock said, the configuration and the data's name, which say where things lay: what was asked is in the weights.
    Of one that holds its weights only it is that of the whole one, so that stage keys stay what they were.
    """
    if state.content:
        return state.content
    facts = {name: value for name, value in state.facts.items() if name not in ("config", "data")}
    metrics = [[epoch, {name: value for name, value in values.items() if not name.startswith("time/")}] for epoch, values in state.history]
    slots = [[index, slot, value] for index, slots in sorted(state.optimizer["state"].items()) for slot, value in sorted(slots.items())]
    numbers = [entry for entry in slots if not isinstance(entry[2], Tensor)]
    tensors = {f"{index}.{slot}": value for index, slot, value in slots if isinstance(value, Tensor)}
    told = digest.of_json([state.epoch, facts, metrics, numbers, state.optimizer["param_groups"]])
    return digest.of_json([told, weights_digest(state.model), weights_digest(tensors), weights_digest({"rng": state.rng})])


def weights_digest(model: dict[str, Tensor]) -> str:
    """Return the sha256 over names and bytes of the trainable weights: equal digests mean bit-identical models."""
    return digest.of_bytes(*(part for name in sorted(model) for part in (name.encode(), model[name].detach().cpu().numpy().tobytes())))


def copy_into(target: dict[str, Any], source: dict[str, Any]) -> None:
    """Copy a checkpoint's tensors into a model's; names and shapes have to be the same."""
    differing = sorted(set(target) ^ set(source)) or [name for name in target if target[name].shape != source[name].shape]
    if differing:
        raise UserError(f"the checkpoint to resume from does not fit: '{differing[0]}' differs; use the settings it was trained with")
    with torch.no_grad():
        for name, value in target.items():
            value.copy_(source[name])
