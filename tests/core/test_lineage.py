"""The record travels in the weights file's header, whole, small, and only where there is one."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from core import digest, lineage
from core.errors import UserError
from core.lineage import Lineage, flat, items_of, matching

CONTENTS = [digest.of_bytes(bytes([i])) for i in range(40)]


def test_a_copied_file_keeps_what_its_weights_have_learnt_from(tmp_path):
    record = Lineage(flat(items_of(CONTENTS[:9])), flat(items_of(CONTENTS[9:20])), flat(items_of(CONTENTS[20:30])), flat([(CONTENTS[30],)]))
    save_file({"w": torch.ones(3)}, tmp_path / "a.safetensors", record.metadata())
    shutil.copyfile(tmp_path / "a.safetensors", tmp_path / "named otherwise")
    assert lineage.read(tmp_path / "named otherwise") == record
    assert torch.equal(load_file(tmp_path / "a.safetensors")["w"], torch.ones(3))
    assert record.learnt == flat(items_of(CONTENTS[:20]))


def test_an_item_takes_eleven_bytes():
    record = Lineage(flat(items_of([digest.of_bytes(str(i).encode()) for i in range(3000)])))
    assert len(record.metadata()[lineage.HEADER]) < 3000 * 8 * 4 / 3 + 100


@pytest.mark.parametrize("content", [b"", b"short", b"\x80\x02pickle", (2**62).to_bytes(8, "little"), b"\x02" + 7 * b"\0" + b"[]"])
def test_a_file_without_a_record_says_nothing(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    assert not lineage.read(path) and not lineage.read(tmp_path / "missing")
    save_file({"w": torch.ones(3)}, path)
    assert not lineage.read(path) and Lineage().metadata() == {}


@pytest.mark.parametrize("said", ["[]", "{", json.dumps({"trained": "AAAA"}), json.dumps({"trained": "?"}), json.dumps({"other": ""})])
def test_a_damaged_record_is_one_line(tmp_path, said):
    save_file({"w": torch.ones(3)}, tmp_path / "w.safetensors", {lineage.HEADER: said})
    with pytest.raises(UserError, match=r"w\.safetensors': its record of what it was trained on is damaged"):
        lineage.read(tmp_path / "w.safetensors")


def test_items_are_found_by_any_of_their_keys():
    items = [(CONTENTS[0], CONTENTS[1]), (CONTENTS[2],), (CONTENTS[3], CONTENTS[1])]
    assert matching(items, frozenset({lineage.short(CONTENTS[1])})) == [0, 2]
    assert matching(items, frozenset(), flat([(CONTENTS[2],)])) == [1]
    assert Lineage(trained=flat(items[:1])) | Lineage(trained=flat(items[1:])) == Lineage(trained=flat(items))
