import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data.class_names import is_text, listed, plain
from core.errors import UserError

NAMES = ("leaf, brown", "leaf", "rust ", "caf\u00e9", "a,b,c", "$5_to_$10", "健康")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("leaf, brown", {"leaf, brown"}),
        ("leaf,rust", {"leaf", "rust "}),
        ("rust , leaf", {"leaf", "rust "}),
        ("a,b,c,leaf, brown", {"a,b,c", "leaf, brown"}),
        ("cafe\u0301", {"caf\u00e9"}),
        ("健康,$5_to_$10", {"健康", "$5_to_$10"}),
        ("", set()),
        (" , ", set()),
    ],
)
def test_names_hold_commas_blanks_and_any_letters(text, meant):
    assert listed(text, NAMES, "novel_classes") == meant


def test_a_name_that_is_none_is_said_with_the_nearest():
    with pytest.raises(UserError, match="novel_classes: there is no class 'brown'"):
        listed("leaf,brown", NAMES, "novel_classes")


@given(st.sets(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8), min_size=1, max_size=6))
def test_all_names_together_mean_all_of_them(names):
    by_plain = {plain(name): name for name in names if plain(name) and "," not in name}
    assert listed(",".join(by_plain.values()), tuple(by_plain.values()), "x") == set(by_plain.values())


@given(st.text())
def test_plain_is_one_spelling(name):
    assert plain(plain(name)) == plain(name) == plain(unicodedata.normalize("NFD", f" {name} "))


@pytest.mark.parametrize("name", ["red oak", " red oak", "red  oak", "red\toak", "red \n oak\r\n", "red\u00a0oak", "red\u3000 oak"])
def test_blanks_do_not_tell_names_apart(name):
    assert plain(name) == "red oak"


@pytest.mark.parametrize(("name", "text"), [("red oak", True), ("健康 🌳", True), ("a\x00", False), ("a\x07b", False), ("\ud800", False)])
def test_control_characters_are_no_text(name, text):
    assert is_text(name) == text


@pytest.mark.parametrize("name", ["oak\u200b", "\ufeffoak", "\u200e oak \u200f", "oak \u200b \u00ad", "\u2067oak\u2069", "oak\u2060"])
def test_what_has_no_width_does_not_tell_names_apart_at_their_ends(name):
    assert plain(name) == "oak"


@pytest.mark.parametrize(
    "name", ["N\u200bA", "می\u200cشود", "👨\u200d👩\u200d👧", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"]
)
def test_what_has_no_width_is_kept_where_it_joins_or_means_something(name):
    assert plain(name) == name
