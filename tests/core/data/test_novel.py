import pytest

from core.data.novel import parse_known_classes
from core.errors import UserError

NAMES = ("ant", "bee", "cat")


@pytest.mark.parametrize(("text", "known"), [("", {0, 1, 2}), ("bee", {0, 2}), (" cat , ant ", {1}), ("bee,,bee", {0, 2})])
def test_names_are_separated_by_commas(text, known):
    assert parse_known_classes(text, NAMES) == known


def test_an_unknown_class_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="no class 'beee'; did you mean 'bee'"):
        parse_known_classes("ant,beee", NAMES)


def test_at_least_one_class_stays_known():
    with pytest.raises(UserError, match="all 3 classes"):
        parse_known_classes("ant,bee,cat", NAMES)
