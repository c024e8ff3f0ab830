import re
import time

import emoji
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.data.text_cleaning import NEGATIONS, RULE_SETS, RULES, clean, rules_of
from core.errors import UserError

# rule: (a text it changes, what it becomes), (a text it leaves alone)
CASES = {
    "entities": [("a &amp;lt; b", "a < b"), "a & b <3"],
    "retweets": [("RT @one: RT @two hi", "  hi"), "hi RT @one: there"],
    "urls": [
        ("see http://t.co/a1 and www.x.org now http:/\u2026", "see   and   now  "),
        "see https, or htt in a word: xhttp: ht, www. and awww.yes.. aht...",
    ],
    "mentions": [("hi @one_2 @b@c!", "hi    !"), "me@mail.org at @ home"],
    "hashes": [("#one#two ##three", " one two  three"), "C# and # alone"],
    "emoji_words": [("so \U0001f602\u2764\ufe0f", "so  face with tears of joy  red heart "), "so :) *happy* 1#"],
    "lower": [("Hello \u00c9", "hello \u00e9"), "hello \u00e9"],
    "repeats": [("soooo!!! \U0001f602\U0001f602\U0001f602", "soo!! \U0001f602\U0001f602"), "good 1000 aa"],
    "stop_words": [("this is the end", "      end"), "not good #the @was isn't never"],
    "whitespace": [(" a \n\t b ", "a b"), "a b"],
}


def test_every_rule_has_a_case():
    assert set(CASES) == set(RULES)


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_changes_what_it_is_for(rule):
    (before, after), _ = CASES[rule]
    assert RULES[rule](before) == after != before


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_leaves_other_texts_alone(rule):
    assert RULES[rule](CASES[rule][1]) == CASES[rule][1]


LIKELY = st.lists(
    st.sampled_from(["RT ", "@", "#", "a", "the", "http", "://", "www.", "t", ".", "\u2026", " ", "&amp;", "&", "lt;", "\u2764\ufe0f"])
)
TEXTS = st.text(max_size=30) | LIKELY.map("".join)


@pytest.mark.parametrize("rule", RULES)
@settings(derandomize=True, deadline=None, max_examples=150)
@given(text=TEXTS)
def test_a_rule_applied_twice_is_the_rule_applied_once(rule, text):
    once = clean(text, (rule,))
    assert clean(once, (rule,)) == once == RULES[rule](once)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(text=TEXTS, rules=st.lists(st.sampled_from(sorted(RULES))) | st.sampled_from(sorted(RULE_SETS.values())))
def test_cleaning_twice_is_cleaning_once(text, rules):
    once = clean(text, tuple(rules))
    assert clean(once, tuple(rules)) == once


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a #royalshttp://buff.ly/1 b", "a #royals b"),
        ("\u770bhttp://t.co/x", "\u770b"),
        ("\u770bhtt\u2026", "\u770b"),
        ("\u770bwww.x.org", "\u770b"),
        ("cut http:\u2026", "cut"),
        ("cut http\u2026", "cut"),
        ("cut http...", "cut"),
        ("cut htt...", "cut"),
        ("cut ht\u2026", "cut"),
        ("cut ht..", "cut"),
        ("wordhttps\u2026", "word"),
        ("a last http", "a last"),
        ("a last HTTPS \n", "a last"),
        ("a last htt", "a last"),
        ("all http http http://t.co/x", "all"),
    ],
)
def test_addresses_are_dropped_glued_or_cut(text, left):
    assert clean(text, ("urls", "whitespace")) == left


def test_rules_act_in_their_order():
    assert clean("NOT", ("stop_words", "lower")) == "not"
    assert clean("Waaay #Good http://t.co/x", ("urls", "hashes", "whitespace")) == "Waaay Good"


def test_the_sets_differ_in_what_they_keep():
    text = "RT @a: This is SOOO good &amp; #fun \u2764\ufe0f http://t.co/x"
    cleaned = {name: clean(text, rules) for name, rules in RULE_SETS.items()}
    assert cleaned == {
        "raw": text,
        "light": "RT @a: This is SOOO good & #fun \u2764\ufe0f",
        "standard": "this is soo good & fun \u2764\ufe0f",
        "aggressive": "soo good & fun red heart",
    }


def test_negations_are_no_stop_words():
    assert clean(" ".join(sorted(NEGATIONS)), ("stop_words",)).split() == sorted(NEGATIONS)


def test_sets_and_lists_of_rules_are_understood():
    assert rules_of("light") == RULE_SETS["light"] and rules_of("lower, urls") == ("lower", "urls") and rules_of("raw") == ()


@pytest.mark.parametrize(("name", "hint"), [("standart", "did you mean 'standard'"), ("lower,url", "did you mean 'urls'"), ("", "neither")])
def test_unknown_names_are_answered_with_the_nearest(name, hint):
    with pytest.raises(UserError, match=hint):
        rules_of(name)


def test_an_unknown_rule_is_refused():
    with pytest.raises(UserError, match="no cleaning rule 'hash'; did you mean 'hashes'"):
        clean("a", ("hash",))


PIECES = (
    "a",
    " ",
    "1",
    "\u20e3",
    "\u200d",
    "\ufe0f",
    "\ufe0e",
    "\u2764",
    "\U0001f469",
    "\U0001f467",
    "\U0001f3fd",
    "\U0001f1e9",
    "\U0001f1ea",
)


@settings(derandomize=True, deadline=None, max_examples=400)
@given(text=st.lists(st.sampled_from((*PIECES, "\U0001f3f3", "\U0001f308", "\u2640", "\U0001f9b0"))).map("".join) | st.text(max_size=20))
@example("\U0001f3ff\ufe0e\U0001f3ff\u200d\U0001f1e9a")  # a joiner is about what follows the last plain character
@example("x\u200d\ufe0f\U0001f3fd\u200d")
def test_emoji_are_those_that_their_package_finds(text):
    described = emoji.replace_emoji(text, lambda _, data: f" {data['en'].strip(':').replace('_', ' ')} ")
    assert RULES["emoji_words"](text) == described


@settings(derandomize=True, deadline=None, max_examples=300)
@given(text=TEXTS | st.lists(st.sampled_from(["http", "https", "HTT", " ", "\n", "x", "www.", ":", "#", "\u597d"])).map("".join))
def test_cut_addresses_at_the_end_go_as_if_one_by_one(text):
    tail, before, after = re.compile(r"(?<![a-z0-9_])htt(?:ps?)?\s*$", re.IGNORECASE), None, clean(text, ("urls",))
    while before != text:
        before, text = text, tail.sub(" ", RULES["urls"](text))
    assert after == text
    assert RULES["hashes"](text) == re.sub(r"#+(?=\w)", " ", text)


@pytest.mark.parametrize(
    ("text", "rules", "cleaned"),
    [
        ("##https  www.x@y", "standard", ""),
        ("a ##http\nhttp", "standard", "a"),
        ("http\ufe0ehttp   https", "aggressive", "httphttp"),
    ],
)
def test_a_cut_address_goes_after_what_may_join_it_to_a_word(text, rules, cleaned):
    assert clean(text, RULE_SETS[rules]) == cleaned


@pytest.mark.parametrize("piece", ["\U0001f469\u200d", "#", "http ", "word the soooo #", "&" + "amp;" * 49_999], ids=range(5))
def test_a_long_text_takes_as_long_as_its_length(piece):
    text = (piece * (200_000 // len(piece) + 1))[:200_000]
    started = time.process_time()
    clean(text, RULE_SETS["aggressive"])
    assert time.process_time() - started < 20  # about 2 s at most; quadratic rules took minutes
