"""One registered name stands for one task: the same classes on the same data; other models get a name of their own."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import digest
from core.tracking import identity
from core.tracking.identity import Identity, Mark
from tests.core.conftest import client, store_template, tracking_env  # noqa: F401  (fixtures)

NAME = "taxon-longtail-images"


CONTENTS = [digest.of_json(i) for i in range(8000)]


def contents(start: int, stop: int) -> list[str]:
    return CONTENTS[start:stop]


def make(start: int = 0, stop: int = 300, labels: tuple[str, ...] = ("a", "b"), novel: tuple[str, ...] = ()) -> Identity:
    return Identity.of(labels, contents(start, stop), novel)


def claim(store, *args, **tags: str) -> str:
    return identity.claim(store, NAME, make(*args), tags)


def test_the_readable_name_goes_to_the_first_and_others_get_a_stable_suffix(client, capsys):  # noqa: F811
    assert claim(client) == NAME and claim(client) == NAME and not capsys.readouterr().err
    others = [claim(client, *args) for args in ((1000, 1300), (0, 300, ("a", "c")), (0, 300, ("a", "b"), ("c",)), (0, 300, ("a",), ("b",)))]
    assert len({NAME, *others}) == 5 and all(name.startswith(f"{NAME}-") and len(name) == len(NAME) + 9 for name in others)
    said = capsys.readouterr().err
    assert f"{NAME} stands for models of other data; this one is a version of {others[0]}" in said and "other novel classes" in said
    assert claim(client, 1000, 1300) == others[0]
    assert identity.names_of(client, NAME) == [NAME, *sorted(others)]


def test_data_that_have_grown_keep_their_name_and_are_followed(client):  # noqa: F811
    assert claim(client) == NAME
    assert claim(client, 0, 330) == NAME and claim(client, 150, 480) == NAME and claim(client, 200, 300) == NAME
    assert claim(client, 330, 480) == NAME  # all of it has been seen, though nothing of what was first
    assert claim(client, 480, 700) != NAME
    other = claim(client, 480, 700)
    assert claim(client, 480, 760) == other  # so does a name with a suffix


def test_a_folder_called_like_a_suffix_does_not_take_the_name(client):  # noqa: F811
    assert claim(client) == NAME
    mark = make(1000, 1300).mark()
    taken = f"{NAME}-{digest.of_json([mark.labels, mark.novel, mark.data])[:8]}"
    assert identity.claim(client, taken, make(5000, 5300), {}) == taken
    assert claim(client, 1000, 1300) not in (NAME, taken)


@pytest.mark.parametrize(("tags", "same"), [({"data_digest": "x"}, True), ({"data_digest": "y"}, False), ({}, False)])
def test_a_name_of_an_older_version_is_kept_for_the_same_data(client, tags, same):  # noqa: F811
    client.create_registered_model(NAME)
    client.create_model_version(NAME, "file:///nowhere", tags={"data_digest": "x"})
    assert (claim(client, **tags) == NAME) == same
    assert (Mark.parse(client.get_registered_model(NAME).tags.get(identity.MARK_TAG, "")) is not None) == same


def test_an_empty_name_without_a_mark_is_free(client):  # noqa: F811
    client.create_registered_model(NAME)
    assert claim(client) == NAME and claim(client, 1000, 1300) != NAME


@settings(deadline=None, max_examples=60)
@given(st.integers(20, 4000), st.integers(20, 4000), st.floats(0, 1))
def test_data_are_akin_where_they_share_half_of_the_smaller_as_far_as_sketches_tell(size, other_size, share):
    common = round(share * min(size, other_size))
    one, other = make(0, size), make(size - common, size - common + other_size)
    if (share < 0.2 or share > 0.85) and max(size, other_size) < 10 * min(size, other_size):  # else too little of one is in the sketches
        assert identity.akin(one.data, other.data) == identity.akin(other.data, one.data) == (share > 0.5)


def test_an_identity_survives_its_file_and_its_mark(tmp_path):
    found = make(novel=("ring", "5.0 $"))
    found.write(tmp_path)
    assert Identity.read(tmp_path) == found and Mark.parse(found.mark().tag()) == found.mark()
    assert len(found.mark().tag()) < 4000 and Mark.parse("{}") is None and Mark.parse("") is None
    assert not found.difference(dataclasses.replace(found, data=found.data[1:]))
    assert found.difference(make()) == "other novel classes ('5.0 $', 'ring' against none of its own)"
