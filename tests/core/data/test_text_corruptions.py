import emoji
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.corruptions import SEVERITIES
from core.data.text_corruptions import RATES, TEXT_CORRUPTIONS, corrupt_text
from core.errors import UserError

TEXT = "What a lovely morning \U0001f602 in the old town \u2764\ufe0f, we walked along the river and had coffee! \U0001f44d" * 4


def distance(a: str, b: str) -> int:
    """The plain edit distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, before = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
    return row[-1]


@pytest.mark.parametrize("name", TEXT_CORRUPTIONS)
def test_higher_severities_do_more(name):
    distances = [distance(TEXT, corrupt_text(TEXT, name, severity, key="7")) for severity in SEVERITIES]
    assert distances == sorted(distances) and distances[4] > distances[0] and distances[2] > 0


@pytest.mark.parametrize("name", TEXT_CORRUPTIONS)
def test_seed_and_guid_decide_what_is_hit(name):
    made = corrupt_text(TEXT, name, 3, 1, "7")
    assert corrupt_text(TEXT, name, 3, 1, "7") == made
    assert any(corrupt_text(TEXT, name, 3, seed, "7") != made for seed in (2, 3))
    assert any(corrupt_text(TEXT, name, 3, 1, key) != made for key in ("8", "9"))


@pytest.mark.parametrize("name", TEXT_CORRUPTIONS)
@settings(derandomize=True, deadline=None, max_examples=60)
@given(text=st.text(max_size=40), severity=st.sampled_from(SEVERITIES))
def test_any_text_is_taken(name, text, severity):
    made = corrupt_text(text, name, severity)
    if name == "case":
        assert made.casefold() == text.casefold() or any(c.swapcase().casefold() != c.casefold() for c in text)
    if name == "dropped_words":
        words = iter(text.split())
        assert all(word in words for word in made.split()) and bool(made) == bool(text.split())
    if name == "emoji_removed" and severity == 5:
        assert emoji.emoji_count(made) == 0 or emoji.emoji_count(text) > 0
    if name == "emoji_removed" and not emoji.emoji_count(text):
        assert made == text


def test_rates_are_about_what_is_hit():
    letters = "abcdefghijklmnopqrstuvwxyz" * 40
    for severity, rate in zip(SEVERITIES, RATES["case"], strict=True):
        assert sum(c.isupper() for c in corrupt_text(letters, "case", severity)) / len(letters) == pytest.approx(rate, abs=0.05)
    words = " ".join(f"w{i}" for i in range(500))
    for severity, rate in zip(SEVERITIES, RATES["dropped_words"], strict=True):
        assert len(corrupt_text(words, "dropped_words", severity).split()) / 500 == pytest.approx(1 - rate, abs=0.06)


def test_severity_five_removes_every_emoji_and_only_those():
    assert corrupt_text("a \U0001f602\u2764\ufe0f b :)", "emoji_removed", 5) == "a  b :)"


def test_typos_touch_letters_only_and_keep_their_case():
    text = "ABC 123 @#! " * 30
    made = corrupt_text(text, "typos", 5)
    assert made != text and made == made.upper() and [c for c in made if not c.isalpha()] == [c for c in text if not c.isalpha()]


def test_mistakes_are_named():
    with pytest.raises(UserError, match="no corruption 'typo'; did you mean 'typos'"):
        corrupt_text("a", "typo", 1)
    with pytest.raises(UserError, match="severity"):
        corrupt_text("a", "typos", 9)
