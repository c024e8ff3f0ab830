"""Checkpoints: bit-identical, atomic, small, and never trusted blindly."""

from __future__ import annotations

import copy
import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from core.errors import UserError
from core.models.heads import ProjectionHead
from core.training import state as states
from core.training.state import TrainState

OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4),
    "plain sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
}


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.GELU(), nn.Linear(8, 4))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Take steps whose data and dropout come from torch's own generator."""
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(16, 6)).square().mean().backward()
        optimizer.step()


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, **more) -> TrainState:
    return TrainState(epoch, model.state_dict(), optimizer.state_dict(), **more)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_three_steps_and_three_after_loading_equal_six(tmp_path, name):
    straight = network()
    optimizer = OPTIMIZERS[name](straight.parameters())
    torch.manual_seed(5)
    train(straight, optimizer, 3)
    path = states.save_checkpoint(tmp_path, state_of(straight, optimizer, 3))
    train(straight, optimizer, 3)

    loaded = states.load_checkpoint(path)
    resumed = network()
    optimizer = OPTIMIZERS[name](resumed.parameters())
    resumed.load_state_dict(loaded.model)
    optimizer.load_state_dict(loaded.optimizer)
    torch.set_rng_state(loaded.rng)
    train(resumed, optimizer, 3)
    assert states.weights_digest(resumed.state_dict()) == states.weights_digest(straight.state_dict())


def test_everything_in_a_state_comes_back(tmp_path):
    model = network()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    train(model, optimizer, 1)
    facts = {"best": {"epoch": 3, "score": 0.1 + 0.2}, "names": ["a", "ü"], "first": None}
    before = state_of(model, optimizer, 7, history=[[1, {"loss": 1 / 3}], [2, {"loss": 1e-30}]], facts=facts)
    after = states.load_checkpoint(states.save_checkpoint(tmp_path, before))
    assert (after.epoch, after.history, after.facts) == (7, before.history, facts)
    assert torch.equal(after.rng, before.rng)
    assert {name: (value.dtype, value.shape) for name, value in after.model.items()} == {
        name: (value.dtype, value.shape) for name, value in before.model.items()
    }


def save_epochs(folder: Path, *epochs: int) -> list[Path]:
    model = network()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    paths = []
    for epoch in epochs:
        train(model, optimizer, 1)
        paths.append(states.save_checkpoint(folder, state_of(model, optimizer, epoch)))
    return paths


def full_disk(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_full_disk_is_one_line_and_leaves_no_half_file(tmp_path, monkeypatch, function):
    save_epochs(tmp_path, 1)
    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(os, function, full_disk)
    with pytest.raises(UserError, match=r"checkpoint of epoch 2 cannot be written to .*No space left on device") as caught:
        save_epochs(tmp_path, 2)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert states.newest_valid(tmp_path)[1].epoch == 1


def test_a_checkpoint_whose_index_could_not_be_written_is_not_vouched_for(tmp_path, monkeypatch):
    save_epochs(tmp_path, 1)
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: full_disk() if Path(b).name == states.INDEX else replace(a, b))
    with pytest.raises(UserError, match="checkpoint index"):
        save_epochs(tmp_path, 2)
    assert states.newest_valid(tmp_path)[1].epoch == 1


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty, Path.unlink])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path, capsys, damage):
    _first, second, third = save_epochs(tmp_path, 8, 9, 10)
    damage(third)
    path, state = states.newest_valid(tmp_path)
    assert (path, state.epoch) == (second, 9)
    said = capsys.readouterr().err
    assert str(third) in said and said.count("\n") == 1


def test_nothing_valid_is_none(tmp_path, capsys):
    assert states.newest_valid(tmp_path) is None
    for path in save_epochs(tmp_path, 1, 2):
        cut(path)
    assert states.newest_valid(tmp_path) is None
    assert capsys.readouterr().err.count("\n") == 2


@pytest.mark.parametrize("damage", [cut, empty])
def test_reading_a_cut_file_is_one_line(tmp_path, damage):
    (path,) = save_epochs(tmp_path, 1)
    damage(path)
    with pytest.raises(UserError, match="is damaged") as caught:
        states.load_checkpoint(path)
    assert "\n" not in str(caught.value)


class Bomb:
    """Sets a mark when unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_refused_and_never_run(tmp_path, zipped, protocol):
    mark = tmp_path / "ran"
    torch.save({"model": Bomb(mark)}, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    with pytest.raises(UserError, match="is a pickle, which is never read"):
        states.load_checkpoint(tmp_path / "model.pt")
    assert not mark.exists()


@pytest.mark.parametrize("head", [b"\x80\x04", b"PK"])
def test_a_checkpoint_whose_header_length_looks_like_a_pickle_is_read(tmp_path, head):
    """A safetensors file starts with the length of its header: one of 19,280 bytes starts with PK."""
    model = network()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    length = int.from_bytes(states.to_bytes(state_of(model, optimizer, 1, facts={"pad": ""}))[:8], "little")
    padding = int.from_bytes(head, "little") + (1 << 16) - length
    path = states.save_checkpoint(tmp_path, state_of(model, optimizer, 1, facts={"pad": "x" * padding}))
    assert path.read_bytes()[:2] == head
    assert states.load_checkpoint(path).epoch == 1


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"taxon": "{}"}, {"taxon": '{"format": "taxon-checkpoint-0"}'}])
def test_safetensors_of_another_program_are_refused(tmp_path, metadata):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors", metadata)
    with pytest.raises(UserError, match="is no checkpoint of taxon"):
        states.load_checkpoint(tmp_path / "other.safetensors")


def test_the_newest_is_the_newest_by_number(tmp_path):
    save_epochs(tmp_path, 9, 10, 2)
    assert [entry["epoch"] for entry in states.read_index(tmp_path).values()] == [2, 9, 10]
    assert states.newest_valid(tmp_path)[1].epoch == 10
    save_epochs(tmp_path, 10000)
    assert states.newest_valid(tmp_path)[1].epoch == 10000


def test_names_sort_like_their_epochs():
    names = [states.checkpoint_name(epoch) for epoch in (0, 9, 10, 99, 100, 9999)]
    assert names == sorted(names)


def test_pruning_keeps_files_and_index_in_step(tmp_path):
    save_epochs(tmp_path, 1, 2, 3, 4)
    states.prune(tmp_path, lambda epoch: epoch in (2, 4))
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == list(states.read_index(tmp_path))
    assert [entry["epoch"] for entry in states.read_index(tmp_path).values()] == [2, 4]
    states.prune(tmp_path, lambda epoch: True)
    assert states.newest_valid(tmp_path)[1].epoch == 4


def test_pruning_that_fails_half_way_never_leaves_a_name_without_a_file(tmp_path, monkeypatch):
    save_epochs(tmp_path, 1, 2, 3)
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok: full_disk())
    with pytest.raises(OSError):
        states.prune(tmp_path, lambda epoch: epoch == 3)
    assert all((tmp_path / name).is_file() for name in states.read_index(tmp_path))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_checkpoint_is_hardly_larger_than_what_trains(tmp_path, name):
    """A head as wide as the MobileNetV2 recipe's, and a history of 200 epochs with 40 metrics each."""
    model = ProjectionHead(1280, 1280, 512, 256)
    optimizer = OPTIMIZERS[name](model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    history = [[epoch, {f"evaluation/metric_{i}": 1 / (3 + i) for i in range(40)}] for epoch in range(200)]
    path = states.save_checkpoint(tmp_path, state_of(model, optimizer, 200, history=history))
    slots = [value for slot in optimizer.state.values() for value in slot.values() if isinstance(value, torch.Tensor)]
    assert path.stat().st_size <= 1.05 * sum(tensor.nbytes for tensor in [*model.parameters(), *slots])


def test_the_weights_digest_is_of_names_and_bytes():
    model = network().state_dict()
    changed = copy.deepcopy(model)
    changed["0.bias"][0] += 1e-7
    renamed = {name.replace("0.", "9."): value for name, value in model.items()}
    assert states.weights_digest(dict(reversed(model.items()))) == states.weights_digest(model)
    assert len({states.weights_digest(each) for each in (model, changed, renamed)}) == 3
