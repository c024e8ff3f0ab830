"""Cleaning rules for posts, one small function each, and named sets of them to compare."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from core.errors import UserError, nearest

# Posts are cut to a length: 'http:/…', 'ht…' or a last word 'http' is what is left of an address. NFKC makes three dots of '…'.
# Words are bounded by ASCII only, because Chinese stands before an address without a blank; an address with '/' may follow anything.
_CUT = r"(?:…|\.{2,})"
_URL = re.compile(
    rf"https?:/\S*|https?{_CUT}|(?<![a-z0-9_])(?:https?:\S*|htt?{_CUT}|htt(?:ps?)?\s*$|www\.\S+)",
    re.IGNORECASE,
)
_URL_TAIL = re.compile(r"(?<!\S)htt(?:ps?)?\Z", re.IGNORECASE)  # what stands before it may not become one word with it
_RETWEET = re.compile(r"^(?:\s*RT\s+@\w+:?)+", re.IGNORECASE)
_MENTION = re.compile(r"(?<![\w@])(?:@+\w+)+")
_HASH = re.compile(r"(?<!#)#++(?=\w)")
_NESTED = re.compile(r"&(?:amp;){2,}")
_NESTING = 8  # times that a text is decoded before what is left of '&amp;amp;...' goes at once
_ZWJ = "\u200d"
_REPEAT = re.compile(r"([^\d\s])\1{2,}")
_WORD = re.compile(r"(?<![@#\w'\u2019])[\w'\u2019]+")
# They turn a sentence round, so a list made for finding topics must not take them away here.
NEGATIONS = frozenset(
    ("cannot", "cant", "couldnt", "hasnt", "neither", "never", "no", "nobody", "none", "nor", "not", "nothing", "nowhere", "without")
)


def drop_retweet_prefix(text: str) -> str:
    """Drop 'RT @name:' at the start: who said it first is no part of the text."""
    return _RETWEET.sub(" ", text)


def drop_urls(text: str) -> str:
    """Drop web addresses, also those glued to a word and those that the length limit cut ('http:/…', 'ht…', a last 'http')."""
    text = _URL.sub(" ", text)
    end, last = len(text), _word_end(text, len(text))
    while found := _URL_TAIL.search(text, max(last - len("https"), 0), last):  # else a row of them takes a round each
        end = found.start()
        last = _word_end(text, end)
    return text if end == len(text) else text[:end] + " "


def _word_end(text: str, end: int) -> int:
    """Return where the last word before `end` ends."""
    while end and text[end - 1].isspace():
        end -= 1
    return end


def drop_mentions(text: str) -> str:
    """Drop '@name'; e-mail addresses and a lone '@' stay."""
    return _MENTION.sub(" ", text)


def open_hashtags(text: str) -> str:
    """Turn '#one#two' into the words 'one two'; a '#' before no word stays."""
    return _HASH.sub(" ", text)


def decode_entities(text: str) -> str:
    """Turn HTML entities into their characters ('&amp;' to '&'), also where they were encoded twice."""
    times = 0
    while (decoded := html.unescape(text)) != text:
        text, times = decoded, times + 1
        if times == _NESTING:
            text = _NESTED.sub("&amp;", text)
    return text


def lower_case(text: str) -> str:
    """Lower the case of all letters."""
    return text.lower()


def shorten_repeats(text: str) -> str:
    """Shorten a character that stands three times or more in a row to two ('soooo' to 'soo'); digits stay (1000 is not 100)."""
    return _REPEAT.sub(r"\1\1", text)


def collapse_whitespace(text: str) -> str:
    """Make every stretch of blanks and line breaks one blank, none at the ends."""
    return " ".join(text.split())


def drop_stop_words(text: str) -> str:
    """Drop the words of scikit-learn's English list but for negations; words after '@' or '#' stay."""
    stop_words = _stop_words()
    return _WORD.sub(lambda match: " " if match[0].lower() in stop_words else match[0], text)


def describe_emoji(text: str) -> str:
    """Replace each emoji by its English name in words (a heart becomes 'red heart')."""
    return "".join(chars if data is None else f" {data['en'].strip(':').replace('_', ' ')} " for chars, data in _emoji_tokens(text))


def _emoji_tokens(text: str) -> list[tuple[str, dict[str, Any] | None]]:
    """Return the text in pieces, each with the data of the emoji that it is, else None.

    The steps of `tokenize` of the `emoji` package, which looks every character up in a list of all joiners that it has skipped: a
    text of joined emoji took it quadratic time.
    """
    import emoji
    from emoji.tokenizer import get_search_tree
    from emoji.unicode_codes import STATUS

    # `open_` are the pieces since the last plain character: only they are read again.
    tree, found, open_, skipped, i = get_search_tree(), [], [], set(), 0
    while i < len(text):
        char, data = text[i], None
        if i in skipped:
            i += 1
            continue
        if char in tree:
            j, branch = i + 1, tree[char]
            while j < len(text) and text[j] in branch and j not in skipped:
                branch, j = branch[text[j]], j + 1
            if (data := branch.get("data")) is not None:
                open_.append((text[i:j], data))
                i = j - 1
        elif char == _ZWJ and open_ and open_[-1][0] in emoji.EMOJI_DATA and text[i - 1] in tree:
            # The joiner joins no known emoji: what stands before it is read again without it.
            skipped.add(i)
            back = 1
            if emoji.EMOJI_DATA[open_[-1][0]]["status"] == STATUS["component"]:
                start = i - sum(len(chars) for chars, _ in open_[-2:])
                back = 1 if text[start] == _ZWJ else 2
                i = start + (text[start] == _ZWJ)
            else:
                i -= len(open_[-1][0])
            del open_[-back:]
            continue
        else:
            found += open_
            open_.clear()
        if data is None and char not in "\ufe0e\ufe0f":
            open_.append((char, None))
        i += 1
    return found + open_


@lru_cache
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS) - NEGATIONS


RULES: dict[str, Callable[[str], str]] = {
    "entities": decode_entities,
    "retweets": drop_retweet_prefix,
    "urls": drop_urls,
    "mentions": drop_mentions,
    "hashes": open_hashtags,
    "emoji_words": describe_emoji,
    "lower": lower_case,
    "repeats": shorten_repeats,
    "stop_words": drop_stop_words,
    "whitespace": collapse_whitespace,
}
RULE_SETS: dict[str, tuple[str, ...]] = {
    "raw": (),
    "light": ("entities", "urls", "whitespace"),
    "standard": ("entities", "retweets", "urls", "mentions", "hashes", "lower", "repeats", "whitespace"),
    "aggressive": ("entities", "retweets", "urls", "mentions", "hashes", "emoji_words", "lower", "repeats", "stop_words", "whitespace"),
}


def clean(text: str, rules: tuple[str, ...]) -> str:
    """Return `text` after all rules, in their order, again until none changes anything: cleaning twice is cleaning once.

    Raises UserError for a rule that does not exist.
    """
    for rule in rules:
        if rule not in RULES:
            raise UserError(f"there is no cleaning rule '{rule}'{nearest(rule, RULES)} (choose from: {', '.join(RULES)})")
    while True:
        cleaned = text
        for rule in rules:
            cleaned = RULES[rule](cleaned)
        if cleaned == text:
            return text
        text = cleaned


def rules_of(name: str) -> tuple[str, ...]:
    """Return the rules of a named set, or of a comma-separated list of rules; UserError for unknown names."""
    if name in RULE_SETS:
        return RULE_SETS[name]
    rules = tuple(rule.strip() for rule in name.split(",") if rule.strip())
    for rule in rules or (name,):
        if rule not in RULES:
            known = (*RULE_SETS, *RULES)
            raise UserError(
                f"'{rule}' is neither a set of cleaning rules nor a rule{nearest(rule, known)} (choose from: {', '.join(known)})"
            )
    return rules
