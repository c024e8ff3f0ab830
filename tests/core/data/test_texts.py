"""Marks decide, UTF-8 is certain, and what is neither is guessed as a reader would."""

from __future__ import annotations

import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data import texts
from core.errors import UserError

quick = settings(derandomize=True, deadline=None, max_examples=150)
GERMAN, CHINESE, RUSSIAN = "Schöne Grüße aus Zürich", "今天天气很好\uff0c我很高兴", "Привет, мир"
UTF16 = {"utf-16": b"", "utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff", "utf-32": b"", "utf-32-be": b"\x00\x00\xfe\xff"}


@pytest.mark.parametrize("encoding", [*UTF16, "utf-8-sig"])
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff\0"), max_size=30))
@settings(derandomize=True, deadline=None, max_examples=40)
def test_a_mark_decides_whatever_follows(encoding, text):
    found, _, guessed = texts.decode(UTF16.get(encoding, b"") + text.encode(encoding))
    assert (found, guessed) == (text, False)


@quick
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff"), max_size=40))
def test_utf8_is_never_taken_for_anything_else(text):
    assert texts.decode(text.encode()) == (text, "utf-8", False)


@quick
@given(st.binary(max_size=40))
def test_any_bytes_are_text(content):
    assert texts.decode(content)[0].encode("utf-8") is not None


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("windows-1252", f"{GERMAN} im Mai"),
        ("windows-1252", "Grüße"),
        ("windows-1252", "\u201csmart quotes\u201d it\u2019s"),
        ("windows-1252", "don\u2019t"),
        ("windows-1252", "\u2026wait \u2014 100 °C for € 20"),
        ("windows-1252", "l\u2019été, naïve façade, déjà créée"),
        ("windows-1252", "¿Qué pasa, Ñandú? Mañana"),
        ("windows-1252", "SCHÖNE GRÜSSE"),
        ("windows-1252", "Übermut!"),
        ("windows-1252", "Süß"),
        ("windows-1251", RUSSIAN),
        ("windows-1251", "мама мыла раму"),
        ("windows-1251", "привет мир или так".upper()),
        ("windows-1251", "Это iPhone \u2014 и «Windows», да?"),
        ("gb18030", CHINESE),
        ("gb18030", "好"),
        ("gb18030", "画师\uff1aたねいち - 上传于\uff1a2015年07月21日"),
        ("gb18030", "土曜 日曜祭りだから台風来るな?"),
        ("gb18030", "#嵐 http://t.co"),
        ("gb18030", "roasted/sautéed: está allí \u2014 Виéт"),
        ("gb18030", "сегодня последний день"),
        ("gb18030", "\u201cyes\u201d \U0001f602"),
        ("utf-16-le", CHINESE),
        ("utf-16-be", RUSSIAN),
        ("utf-16-le", "Hello world"),
        ("utf-16-be", "приветмир"),
        ("utf-32-le", GERMAN),
        ("utf-32-be", CHINESE),
    ],
)
def test_a_guess_is_right_and_is_said_to_be_one(encoding, text):
    assert texts.decode(text.encode(encoding)) == (text, encoding, True)


def test_names_are_never_guessed(tmp_path):
    (tmp_path / "a.csv").write_bytes(GERMAN.encode("windows-1252"))
    with pytest.raises(UserError, match=r"a\.csv is not UTF-8 text \(it may be windows-1252\): save it as UTF-8"):
        texts.read(tmp_path / "a.csv", "groups")
    (tmp_path / "a.csv").write_bytes(GERMAN.encode("utf-16"))
    assert texts.read(tmp_path / "a.csv", "groups") == GERMAN
    with pytest.raises(UserError, match=r"the groups file '.*' cannot be read"):
        texts.read(tmp_path, "groups")


def test_a_field_of_two_hundred_thousand_characters_is_a_field():
    long = "very long " * 20000
    assert list(texts.rows(f'a,b\n1,"{long}"\n')) == [["a", "b"], ["1", long]]
    assert [row["b"] for row in texts.dict_rows(f"a,b\n1,{long}\n")] == [long]
    assert csv.field_size_limit() == texts.LONGEST_FIELD


def test_a_file_that_was_guessed_is_named_once(tmp_path, capsys):
    for _ in range(3):
        texts.announce_guess(tmp_path / "posts.csv", "windows-1252")
    assert capsys.readouterr().err.count("posts.csv is neither UTF-8 nor marked; read as windows-1252, which is a guess") == 1
