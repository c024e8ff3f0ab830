"""Text files as people save them: a byte order mark decides, then UTF-8; what is neither is guessed, and the guess is told.

Bytes say little about their encoding: "Grüße" in Windows-1252 is valid GB18030. A guess therefore weighs what each encoding would
have the text be: Chinese is written in common characters, Cyrillic and Latin words in letters of one script and sensible case.
"""

from __future__ import annotations

import csv
import io
import re
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from core.errors import UserError

MARKS = (  # UTF-32's little-endian mark starts with UTF-16's
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
    (b"\x84\x31\x95\x33", "gb18030"),
)
WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
CERTAIN = "utf-8"
CHINESE, LATIN, CYRILLIC, ANYTHING = "gb18030", "windows-1252", "windows-1251", "latin-1"
LONGEST_FIELD = 2**31 - 1  # the csv module's own default, 131,072, is less than a pasted article
_COMMON = 0.7  # share of common characters from which a text is Chinese
_PLAIN = 0.95  # share of sensible characters from which bytes without a mark are UTF-16 or UTF-32
_FEWEST = 3  # characters below which bytes without a zero are not taken for UTF-16
_WORD = re.compile(r"[^\W\d_]+")
_TOKEN = re.compile(r"(?:[A-Za-z]|[^\x00-\x7f\s])+")
_AROUND = "\u201c\u201d\u2018\u2019\u201a\u201e\u2026\u2013\u2014«»¿¡°§€£™®©·\xa0"  # what stands around words
_CONTROLS = frozenset(range(32)) - frozenset(b"\t\n\r\f\x1b")

csv.field_size_limit(LONGEST_FIELD)  # of the whole process: nothing else reads CSV here


def decode(content: bytes) -> tuple[str, str, bool]:
    """Return the text without its mark, its encoding, and whether the encoding was a guess."""
    for mark, encoding in MARKS:
        if content.startswith(mark) and (text := _strict(content[len(mark) :], encoding)) is not None:
            return text, encoding, False
    if _CONTROLS.intersection(content) and (encoding := _wide(content)):
        return content.decode(encoding), encoding, True
    text = _strict(content, CERTAIN)
    return (text, CERTAIN, False) if text is not None else (*_guess(content), True)


def read(path: Path, what: str) -> str:
    """Return the text of a UTF-8 file, or of one that a byte order mark says how to read.

    For files of names and numbers, which are not to be guessed. UserError when it is absent or neither.
    """
    try:
        text, encoding, guessed = decode(path.read_bytes())
    except OSError as error:
        raise UserError(f"the {what} file '{path}' cannot be read: {error.strerror or error}") from None
    if guessed:
        raise UserError(f"{path} is not UTF-8 text (it may be {encoding}): save it as UTF-8")
    return text


class Rows(Iterator[list[str]], Protocol):
    """A csv.reader: the rows of a text, and the line that the last one ended in."""

    @property
    def line_num(self) -> int:
        """The number of lines that were read."""


def rows(text: str, **options: Any) -> Rows:
    """Return a csv.reader of a text; fields may be as long as they are."""
    return csv.reader(io.StringIO(text, newline=""), **options)


def dict_rows(text: str, **options: Any) -> csv.DictReader[str]:
    """Return a csv.DictReader of a text; fields may be as long as they are."""
    return csv.DictReader(io.StringIO(text, newline=""), **options)


@cache
def announce_guess(path: Path, encoding: str) -> None:
    """Say, once for each file, that its encoding was guessed."""
    print(f"taxon: {path} is neither UTF-8 nor marked; read as {encoding}, which is a guess: save it as UTF-8", file=sys.stderr)


def _guess(content: bytes) -> tuple[str, str]:
    """Return (text, encoding) of bytes that are no UTF-8."""
    chinese = _strict(content, CHINESE)
    commonness = _commonness(chinese) if chinese is not None else 0.0
    if chinese is not None and commonness >= _COMMON:
        return chinese, CHINESE
    read_as = {encoding: text for encoding in (LATIN, CYRILLIC) if (text := _strict(content, encoding)) is not None}
    worth = {encoding: _sensible_words(text) for encoding, text in read_as.items()}
    best = max(worth, key=worth.__getitem__, default=ANYTHING)  # the first of equals: quotes and dashes are the same in both
    if worth.get(best, 0) <= 0 and (encoding := _wide(content)):
        return content.decode(encoding), encoding
    if chinese is not None and not _means_nothing(chinese) and (worth.get(best, -1) < 0 or (commonness > 0 and not worth[best])):
        return chinese, CHINESE
    return content.decode(best), best


def _means_nothing(text: str) -> bool:
    """Say whether characters are for private use or unassigned: GB18030 has them for nearly any two letters of Windows-1252."""
    return any(unicodedata.category(character) in ("Co", "Cn") for character in text)


def _strict(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return None


def _commonness(text: str) -> float:
    """Return which share of the characters beyond ASCII a Chinese text would be written in; 0 where there are none."""
    others = [character for character in text if character > "\x7f"]
    return sum(map(_common, others)) / len(others) if others else 0.0


@cache
def _common(character: str) -> bool:
    """Say whether a character is one of GBK's signs and alphabets, of GB 2312's common ideographs (level 1: 3,755), or an emoji."""
    if character >= "\U0001f000" or "\u2600" <= character <= "\u27bf" or character in "\u200d\ufe0f\u20e3":
        return unicodedata.category(character) not in ("Cn", "Co")
    try:
        lead, *trail = character.encode("gbk")
    except UnicodeEncodeError:
        return False
    return bool(trail) and (0xA1 <= lead <= 0xA9 or (0xB0 <= lead <= 0xD7 and trail[0] >= 0xA1))


def _wide(content: bytes) -> str:
    """Return which of WIDE the bytes are without a mark, '' for none: nearly every character has to make sense."""
    for encoding in WIDE:
        text = _strict(content, encoding) if content else None
        if text and _is_plain(text, content, encoding):
            return encoding
    return ""


def _is_plain(text: str, content: bytes, encoding: str) -> bool:
    kinds = [_kind(character) for character in text]
    if kinds.count("") > (1 - _PLAIN) * len(kinds):
        return False
    if encoding.startswith("utf-32"):
        return True  # no chance makes every fourth byte a zero
    # Without the zeros that blanks, digits and line ends bring, two bytes can be a character by chance: all have to be of one kind.
    narrow = {"ASCII", "Latin"}.intersection(kinds)
    return bool(narrow) if b"\0" in content else len(kinds) >= _FEWEST and set(kinds) in ({"common"}, {"Cyrillic"})


@cache
def _kind(character: str) -> str:
    if " " <= character <= "~" or character in "\t\r\n":
        return "ASCII"
    if "\u0400" <= character <= "\u045f":
        return "Cyrillic"
    if "\xa1" <= character <= "\u017f" or "\u2010" <= character <= "\u2044" or character in "\xa0€™":
        return "Latin"
    return "common" if _common(character) else ""


def _sensible_words(text: str) -> int:
    """Return how many more of the words beyond ASCII look like words of a language than do not; controls count against them."""
    tokens = [token.strip(_AROUND) for token in _TOKEN.findall(text) if not token.isascii()]
    worth = sum(map(_worth, (word for token in tokens for word in re.split("[\u2019\u2013\u2014·]", token) if not word.isascii())))
    return worth - sum(unicodedata.category(character) == "Cc" and character not in "\t\n\r" for character in text)


def _worth(word: str) -> int:
    """Return 1 for letters of one script and a sensible case, -1 for others, 0 for a single letter, which may be anything.

    Latin words have few accents: at most every other letter, but for short ones.
    """
    if not _WORD.fullmatch(word):
        return -1
    cyrillic = sum("\u0400" <= letter <= "\u04ff" for letter in word)
    case = word.islower() or word.isupper() or word[1:].islower()
    accents = sum(not letter.isascii() for letter in word)
    alike = cyrillic == len(word) if cyrillic else accents <= max(1, len(word) // 2)
    return (len(word) > 1) if case and alike else -1
