"""Texts to tokens: cut texts keep their end and are counted, empty ones are defined, nothing needs a network."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.models.tokenizers import VOCABULARY, ClipTokenizer, SentenceTokenizer
from tests.core.models import tiny_sentences

START, END = VOCABULARY - 2, VOCABULARY - 1


def test_a_text_lies_between_start_and_end():
    tokens = ClipTokenizer(8)(["a healthy leaf"])
    assert tokens.ids[0, 0] == START and tokens.ids[0, 4] == END and not tokens.ids[0, 5:].any()
    assert tokens.lengths.tolist() == [5] and not tokens.cut.any()
    assert ClipTokenizer(8).decode(tokens.ids[0, :5]) == "a healthy leaf"


def test_a_long_text_is_cut_keeps_its_end_and_is_counted():
    tokens = ClipTokenizer(6)(["one two three four five", "one two three four"])
    assert tokens.cut.tolist() == [True, False]
    assert tokens.lengths.tolist() == [6, 6] and (tokens.ids[:, -1] == END).all()
    assert torch.equal(tokens.ids[0], tokens.ids[1])


def test_an_empty_text_is_start_and_end():
    tokens = ClipTokenizer(6)(["", "   "])
    assert tokens.ids.tolist() == [[START, END, 0, 0, 0, 0]] * 2
    assert tokens.lengths.tolist() == [2, 2] and not tokens.word_mask.any()


def test_no_texts_give_no_rows():
    assert ClipTokenizer(6)([]).ids.shape == (0, 6)


@pytest.mark.parametrize("written", ["<end_of_text>", "<END_OF_TEXT>", "&lt;end_of_text&gt;", "<start_of_text>"])
def test_a_text_cannot_end_itself_early(written):
    ids = ClipTokenizer(8)([f"good {written} day"]).ids
    assert torch.equal(ids, ClipTokenizer(8)(["good day"]).ids)


def test_words_are_told_from_padding_though_both_may_be_0():
    tokens = ClipTokenizer(6)(["!a"])
    assert tokens.word_mask.sum() == int(tokens.lengths[0]) - 2 > 0
    assert not tokens.word_mask[0, 0] and not tokens.word_mask[0, int(tokens.lengths[0]) - 1 :].any()


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.text(max_size=60), st.integers(3, 20))
def test_any_text_has_one_end_and_it_is_the_greatest_id(text, context):
    """The text tower pools where the id is greatest."""
    tokens = ClipTokenizer(context)([text])
    row, length = tokens.ids[0], int(tokens.lengths[0])
    assert (row == END).sum() == 1 and int(row.argmax()) == length - 1 < context
    assert bool(tokens.cut[0]) <= (length == context)


def test_a_context_without_room_is_refused():
    for make in (lambda: ClipTokenizer(2), lambda: sentences(2)):
        with pytest.raises(UserError, match="context_length=2 leaves no room"):
            make()


def sentences(length: int) -> SentenceTokenizer:
    return SentenceTokenizer(tiny_sentences.tokenizer(16).to_str(), length, 0)


def test_a_sentence_encoders_tokenizer_is_cut_and_padded_as_asked_not_as_it_was_saved():
    tokens = sentences(6)(["a sad desk", "good good good good good", ""])
    assert tokens.ids.tolist() == [[2, 10, 4, 8, 3, 0], [2, 7, 7, 7, 7, 3], [2, 3, 0, 0, 0, 0]]
    assert tokens.lengths.tolist() == sentences(6).lengths(tokens.ids).tolist() == [5, 6, 2]
    assert tokens.cut.tolist() == [False, True, False] and tokens.word_mask.sum(dim=1).tolist() == [3, 4, 0]
    assert sentences(6).decode(tokens.ids[0]) == "a sad desk" and sentences(6)([]).ids.shape == (0, 6)


@pytest.mark.parametrize("written", ["[SEP]", "[PAD]", "[CLS]"])
def test_a_special_token_that_is_written_out_is_its_letters(written):
    ids = sentences(30)([f"good {written} day"]).ids[0]
    assert ids[0] == 2 and (ids == 2).sum() == (ids == 3).sum() == 1 and not ids[int(ids.argmin()) :].any()


def test_what_is_no_tokenizer_is_refused():
    with pytest.raises(UserError, match=r"tokenizer.json of the sentence encoder is no tokenizer \(.*\); copy or download it again"):
        SentenceTokenizer("{}", 8, 0)
