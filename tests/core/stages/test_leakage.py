"""Weights that have learnt from what a stage holds out are refused, by every option that takes any."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import core.stages
from core import digest
from core.errors import UserError
from core.lineage import Lineage, flat, items_of
from core.stages import held_out, leakage
from core.stages.discovery import train
from core.stages.leakage import Parts
from core.training import state as states

ITEMS = items_of([digest.of_bytes(bytes([i])) for i in range(12)])
TRAIN, VAL, TEST, NEW = ITEMS[:5], ITEMS[5:7], ITEMS[7:10], ITEMS[10:]
OPTIONS = (*leakage.WEIGHTS, *leakage.CHECKPOINTS)
# Options that open a finished model, checked against what it is evaluated on where they are read, or bound to the training's own split.
OPENED = {"checkpoint", "weights", "baseline_weights", "model", "ckpt_path", "model_path"}


def given(tmp_path, option: str, record: Lineage) -> SimpleNamespace:
    """Return a configuration whose `option` names a file with this record."""
    path = tmp_path / "given.safetensors"
    if option in leakage.CHECKPOINTS:
        state = states.TrainState(1, {"w": torch.ones(2)}, {"state": {}, "param_groups": []}, lineage=record)
        path = states.save_checkpoint(tmp_path, state)
    else:
        save_file({"w": torch.ones(2)}, path, record.metadata())
    return SimpleNamespace(**{option: str(path)})


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_looked_into(tmp_path, option):
    config = given(tmp_path, option, Lineage(trained=flat(TEST[:2])))
    if option not in leakage.RESUMED:  # a checkpoint of another split is refused by the digest of the split
        with pytest.raises(UserError, match=rf"^{option} = '.*' has learnt from 2 of the 3 test images: ") as said:
            leakage.admit(config, Parts(TRAIN, VAL, TEST))
        assert "\n" not in str(said.value)
    with pytest.raises(UserError, match="has learnt from 2 of the 3 items of a fold"):
        leakage.require_unseen(config, TEST, "items of a fold")
    assert leakage.admit(config, Parts(TRAIN, VAL, NEW)).trained == flat(TRAIN) | flat(TEST[:2])  # and hands on what they learnt from


def test_the_shards_of_an_index_are_looked_into(tmp_path):
    given(tmp_path, "weights", Lineage(trained=flat(TEST[:2])))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"w": "given.safetensors"}}')
    for place in (index, tmp_path):
        with pytest.raises(UserError, match="has learnt from 2 of the 3 test images"):
            leakage.admit(SimpleNamespace(weights=str(place)), Parts(TRAIN, VAL, TEST))


@pytest.mark.parametrize("record", ["trained", "seen", "chosen"])
@pytest.mark.parametrize("part", ["train", "val", "test", "unlabelled"])
def test_what_each_part_allows(tmp_path, record, part):
    config = given(tmp_path, "weights", Lineage(**{record: flat(NEW)}))
    parts = dataclasses.replace(Parts(TRAIN, VAL, TEST), **{part: NEW})
    refused = {"train": (), "val": ("trained", "seen"), "test": ("trained", "seen", "chosen"), "unlabelled": ("trained", "chosen")}[part]
    if record in refused:
        with pytest.raises(UserError, match="has learnt from 2 of the 2"):
            leakage.admit(config, parts)
    else:
        found = leakage.admit(config, parts)
        assert flat(NEW) <= getattr(found, record) and found.chosen >= flat(parts.val) and found.seen >= flat(parts.unlabelled)


def test_weights_without_a_record_and_content_that_training_holds_itself_are_no_reason(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "published.safetensors")
    config = SimpleNamespace(weights=str(tmp_path / "published.safetensors"), image_weights="owner/never-downloaded", text_weights="")
    assert leakage.admit(config, Parts(TRAIN, VAL, TEST)) == Lineage(flat(TRAIN), chosen=flat(VAL))
    both = Parts((*TRAIN, TEST[0]), VAL, TEST)
    found = leakage.admit(given(tmp_path, "weights", Lineage(trained=flat(TEST[:1]))), both)
    assert found.shared == flat(TEST[:1])


def test_a_finished_model_is_evaluated_only_on_what_it_has_not_learnt_from(capsys):
    record = Lineage(flat(TRAIN), chosen=flat(VAL))
    leakage.evaluated(record, TRAIN, "train", "images", "checkpoint", "c")
    assert "checkpoint = 'c' has trained on 5 of these 5 images" in capsys.readouterr().err
    leakage.evaluated(record, VAL, "val", "images", "checkpoint", "c")
    assert "2 of these 2 images chose the epoch of checkpoint = 'c'" in capsys.readouterr().err
    leakage.evaluated(record, TEST, "test", "images", "checkpoint", "c")
    assert capsys.readouterr().err == ""
    for items, part, count in ((TRAIN, "test", 5), (TRAIN, "val", 5), (VAL, "test", 2), ((*TEST, TRAIN[0]), "test", 1)):
        with pytest.raises(UserError, match=rf"^checkpoint = 'c' has learnt from {count} of the {len(items)} {part} images"):
            leakage.evaluated(record, items, part, "images", "checkpoint", "c")
    shared = dataclasses.replace(record, shared=flat(TRAIN[:1]))
    leakage.evaluated(shared, (*TEST, TRAIN[0]), "test", "images", "checkpoint", "c")
    assert "1 of these 4 images are in the training part of checkpoint = 'c' too" in capsys.readouterr().err


def test_no_option_that_takes_weights_is_forgotten():
    """An option of any stage that is named like weights or a checkpoint is in the lists, or a tool checks it itself."""
    named = set()
    for module in pkgutil.walk_packages(core.stages.__path__, "core.stages."):
        if "config" in module.name:
            for found in vars(importlib.import_module(module.name)).values():
                if dataclasses.is_dataclass(found) and isinstance(found, type):
                    named |= {f.name for f in dataclasses.fields(found) if f.type == "str"}
    takes = re.compile(r"weights$|^resume|checkpoint|ckpt|model_path|model_dir|^model$|^init")
    # Class weights are a table; a run to continue in is the very same training.
    assert {name for name in named if takes.search(name)} - {"class_weights", "resume_run_id"} <= {*OPTIONS, *OPENED}


def test_the_record_of_a_checkpoint_survives_its_file(tmp_path):
    record = Lineage(flat(TRAIN), flat(TEST), flat(VAL))
    path = states.save_checkpoint(tmp_path, states.TrainState(1, {}, {"state": {}, "param_groups": []}, lineage=record))
    assert states.load_checkpoint(path).lineage == record


def test_discovery_hands_on_whose_labels_it_knew_and_refuses_them_where_they_are_to_be_discovered(place, monkeypatch):
    first = place.fitted(epochs=1, seed=1)
    parts = train.parts_of(first.materials.data, first.materials.split)
    path = next((first.work / "checkpoints").glob("epoch_*.safetensors"))
    record = states.load_checkpoint(path).lineage
    assert (record.trained, record.seen, record.chosen) == (flat(parts.train), flat(parts.unlabelled), flat(parts.val))
    assert not record.learnt & flat(parts.test)
    again = place.fitted(epochs=1, lr=0.01, seed=1, warmup_model_dir=str(path))  # the same split: nothing new is known
    assert again.lineage == record
    with pytest.raises(UserError, match=r"warmup_model_dir = '.*' has learnt from \d+ of the \d+ unlabelled images"):
        train.Training(place.config(epochs=1, seed=2, val_fraction=0.0, select_by="last", warmup_model_dir=str(path)), place.run())


def test_promotion_counts_what_a_model_has_learnt_from():
    contents = tuple(digest.of_bytes(bytes([i])) for i in range(3))
    items = held_out.HeldOut(("a",) * 3, contents, lambda: iter(()))
    assert items.known_to([contents[0][:16], digest.of_bytes(b"other")]) == 1
    keyed = dataclasses.replace(items, keys=tuple((c, digest.of_bytes(c.encode())) for c in contents))
    assert keyed.known_to([digest.of_bytes(c.encode()) for c in contents[:2]]) == 2 and np.ndim(keyed.known_to([])) == 0
