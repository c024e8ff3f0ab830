"""Names and values as every store takes them."""

from core.tracking.names import KEY, cut, key


def test_plain_names_stay_and_others_stay_distinct():
    assert key("val/macro_f1") == "val/macro_f1"
    odd, other = key("class/ä?"), key("class/ä!")
    assert odd != other and odd.startswith("class/ä_-") and other.startswith("class/ä_-")
    assert key("../up").startswith("up-") and key("///").startswith("unnamed-")


def test_long_names_are_cut_and_still_two():
    one, two = key("x" * 300), key("x" * 301)
    assert len(one) == len(two) == KEY and one != two


def test_a_cut_value_says_that_something_is_missing():
    assert cut("abcdef", 6) == "abcdef" and cut("abcdefg", 6) == "abcde…"
    assert cut("a\x00b", 5) == "ab" and cut(7, 5) == "7"
