"""Equal digests mean equal things."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import digest


@settings(deadline=None, max_examples=100)
@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_parts_do_not_run_into_each_other(one, other):
    assert (digest.of_bytes(*one) == digest.of_bytes(*other)) == (one == other)


def test_an_array_is_its_type_shape_and_values():
    array = np.arange(6, dtype=np.int32)
    different = [
        array,
        array.reshape(2, 3),
        array.reshape(3, 2),
        array.astype(np.int64),
        array.view(np.float32),
        array + 1,
        array[:0],
        np.zeros((0, 3), np.int32),
    ]
    assert len({digest.of_array(each) for each in different}) == len(different)


def test_an_array_is_not_its_layout_in_memory():
    array = np.arange(24.0).reshape(4, 6)
    assert digest.of_array(array) == digest.of_array(np.asfortranarray(array)) == digest.of_array(array.copy())
    assert digest.of_array(array[:, ::2]) == digest.of_array(array[:, ::2].copy())


def test_json_is_its_content_not_its_order():
    assert digest.of_json({"a": 1, "b": [1, 2]}) == digest.of_json({"b": [1, 2], "a": 1})
    assert len({digest.of_json(value) for value in ({"a": 1}, {"a": 1.5}, {"a": "1"}, {"a": [1]}, {"a": None})}) == 5


@pytest.mark.parametrize("size", [0, 1, 1 << 20])
def test_a_file_is_its_bytes(tmp_path, size):
    (tmp_path / "x").write_bytes(b"x" * size)
    assert digest.of_file(tmp_path / "x") == hashlib.sha256(b"x" * size).hexdigest()
