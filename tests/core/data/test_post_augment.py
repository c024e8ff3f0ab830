import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.corruptions import generator
from core.data.post_augment import SYNONYMS, augment_image, augment_text, drop_words, stretch_word, swap_signs
from core.errors import UserError


def picture(height: int = 40, width: int = 30) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([60 + 2 * rows, 60 + 3 * columns, 100 + rows - columns], 2).astype(np.uint8)


def test_variants_have_the_images_size_and_are_not_the_image():
    image = picture()
    made = augment_image(image, 5, 1, "7")
    assert len(made) == 5 and all(one.shape == image.shape and one.dtype == np.uint8 for one in made)
    assert len({one.tobytes() for one in made} | {image.tobytes()}) == 6


def test_seed_key_and_number_decide_a_variant_and_more_variants_keep_the_first_ones():
    image = picture()
    first, second = augment_image(image, 2, 1, "7")
    assert np.array_equal(augment_image(image, 3, 1, "7")[1], second)
    for others in (augment_image(image, 1, 2, "7"), augment_image(image, 1, 1, "8")):
        assert not np.array_equal(others[0], first)


def test_about_half_are_flipped_and_crops_and_colours_stay_within_their_limits():
    image = picture()
    made = np.stack(augment_image(image, 200, 0, "7")).astype(float)
    green = made[..., 1].mean(1)  # grows from left to right unless flipped
    slopes = green[:, -5:].mean(1) - green[:, :5].mean(1)
    assert 70 < (slopes > 0).sum() < 130
    full = float(image[0, -5:, 1].astype(float).mean() - image[0, :5, 1].astype(float).mean())
    ratios = np.abs(slopes) / full
    assert 0.85 * 0.9**3 * 0.97 < ratios.min() < 0.85 and ratios.max() < 1.1**3 * 1.02
    assert np.abs(made.mean((1, 2, 3)) / image.mean() - 1).max() < 0.2


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (2, 3)])
def test_tiny_images_are_taken(size):
    assert augment_image(picture(*size), 1)[0].shape == (*size, 3)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    st.text(max_size=40) | st.lists(st.sampled_from(["a", "aa", "not", "no", "http://x", "@me", "\U0001f602", "!", "so"])).map(" ".join),
    st.integers(0, 99),
)
def test_a_text_of_several_words_or_with_a_plain_letter_is_really_changed(text, seed):
    words = text.split()
    for made in augment_text(text, 2, seed, "7"):
        plain = any(c.isascii() and c.isalpha() for c in text) and not text.strip().startswith(("http", "www.", "@", "#"))
        if len(words) > 1 or plain:
            assert made.split() != words
        assert bool(made.split()) == bool(words)


def test_variants_differ_and_are_reproducible():
    text = "what a lovely day in the park with friends \U0001f602"
    made = augment_text(text, 4, 1, "7")
    assert len(set(made)) == 4 and augment_text(text, 4, 1, "7") == made and augment_text(text, 2, 1, "7") == made[:2]
    assert augment_text(text, 4, 2, "7") != made != augment_text(text, 4, 1, "8")


def test_signs_are_replaced_by_others_of_their_row():
    for row in SYNONYMS:
        for sign in row:
            made = swap_signs(f"a {sign} b", generator(0, sign))
            assert made != f"a {sign} b" and made.split()[1] in row
    assert swap_signs("plain", generator(0)) == "plain"


def test_no_sign_stands_in_two_rows():
    signs = [sign for row in SYNONYMS for sign in row]
    assert len(signs) == len(set(signs))


def test_a_word_is_stretched_or_shortened_and_links_and_tags_stay():
    rng = generator(0)
    assert stretch_word(["#tag", "so", "http://t.co/aaa"], rng) in (
        ["#tag", "sooo", "http://t.co/aaa"],
        ["#tag", "soooo", "http://t.co/aaa"],
    )
    assert stretch_word(["soooo"], rng) == ["so"]
    assert stretch_word(["@me", "#you", "12"], rng) == ["@me", "#you", "12"]
    assert stretch_word(["RT", "so"], rng)[0] == "RT"


def test_dropping_keeps_negations_and_one_word():
    words = ["this", "is", "not", "a", "good", "day", "don't", "like"]
    made = drop_words(words, 1.0, generator(0))
    assert made == ["not", "don't"]
    assert drop_words(["no", "no"], 0.0, generator(0), least=1) == ["no"]
    assert drop_words(["one"], 1.0, generator(0), least=1) == ["one"] and drop_words([], 1.0, generator(0), least=1) == []
    assert drop_words(words, 0.0, generator(0)) == words


def test_mistakes_are_named():
    for call in (lambda: augment_image(picture(), 0), lambda: augment_text("a b", 0)):
        with pytest.raises(UserError, match="num_aug must be 1 or more, not 0"):
            call()
    with pytest.raises(ValueError, match="uint8"):
        augment_image(picture().astype(float), 1)
