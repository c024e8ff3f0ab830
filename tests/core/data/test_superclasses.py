import pytest

from core.data.superclasses import SUPERCLASSES, WHOLE, find
from core.errors import UserError


def test_the_table_covers_all_hundred_classes_once():
    ids = [fine for superclass in SUPERCLASSES for fine in superclass.fine_ids]
    assert sorted(ids) == list(range(100))
    assert len(SUPERCLASSES) == 15


@pytest.mark.parametrize("superclass", [*SUPERCLASSES, WHOLE], ids=lambda s: s.name)
def test_known_is_below_80_and_novel_from_80(superclass):
    assert all(fine < 80 for fine in superclass.known)
    assert all(fine >= 80 for fine in superclass.novel)
    assert superclass.fine_ids == tuple(sorted(superclass.fine_ids))
    assert find(superclass.name) is superclass


def test_four_superclasses_have_no_novel_class():
    assert [s.name for s in SUPERCLASSES if not s.novel] == ["containers", "buildings", "terrain", "weather_phenomena"]


def test_numbers_follow_the_table():
    assert [s.number for s in SUPERCLASSES] == list(range(15))
    assert SUPERCLASSES[0].name == "trees" and SUPERCLASSES[14].name == "weather_phenomena"


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'flowers'"):
        find("flower")
