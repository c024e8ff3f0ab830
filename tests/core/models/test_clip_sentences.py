"""The module that trains against class sentences."""

import pytest
import torch
import torch.nn.functional as F

from core.models.clip import build_towers
from core.models.clip_sentences import SentenceClip, class_means
from core.models.word_head import WordHead
from tests.core.models import tiny_clip, tiny_sentences

TEXTS, CLASS_OF = ["a leaf", "a green leaf", "a spot"], torch.tensor([0, 0, 1])
IMAGES = tiny_clip.images()


def model(words=None, fixed=None, **options) -> SentenceClip:
    towers = tiny_clip.towers(**options)
    return SentenceClip(towers, towers.tokenizer(TEXTS).ids, CLASS_OF, words, fixed)


def test_class_embeddings_are_means_of_normalised_sentences():
    rows = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    found = class_means(rows, torch.tensor([0, 0, 1, 2, 2]), 3)
    unit = [row / row.norm() for row in rows]
    for row, expected in zip(found, [(unit[0] + unit[1]) / 2, unit[2], (unit[3] + unit[4]) / 2], strict=True):
        torch.testing.assert_close(row, expected)


def test_logits_are_scaled_cosines():
    found = model().eval()
    with torch.no_grad():
        images, classes = found.embed(IMAGES), found.class_embeddings()
        logits = found.logits(images, classes)
    plain = torch.stack([torch.stack([F.cosine_similarity(v, t, dim=0) for t in classes]) for v in images]) / 0.07
    torch.testing.assert_close(logits, plain)


def test_a_pass_gives_the_sentences_asked_for_and_the_words():
    found = model(words=WordHead(64, 5)).eval()
    out = found(IMAGES, torch.tensor([2, 0]))
    torch.testing.assert_close(out["text"], found.encode_sentences(torch.arange(3))[[2, 0]])
    torch.testing.assert_close(out["image"], found.towers.encode_image(IMAGES))
    assert out["words"].shape == (3, 5) and out["scale"].item() == pytest.approx(1 / 0.07)


def test_fixed_texts_stand_for_the_tower():
    fixed = torch.randn(3, 16)  # of an open_clip tower, whose features are its embeddings
    assert torch.equal(model(fixed=fixed).encode_sentences(torch.tensor([2, 0])), fixed[[2, 0]])


def test_a_locked_sentence_encoder_keeps_its_trained_projection(tmp_path):
    towers = build_towers("small_cnn", f"hf:{tiny_sentences.write(tmp_path / 'encoder')}", 16, 16).eval()
    towers.lock_text()
    ids = towers.tokenizer(TEXTS).ids
    fixed, plain = SentenceClip(towers, ids, CLASS_OF, None, towers.text_features(ids)), SentenceClip(towers, ids, CLASS_OF)
    assert [name for name in fixed.trained_state() if name.startswith("towers.text")] == ["towers.text.projection.weight"]
    for _ in range(2):
        assert torch.equal(fixed.class_embeddings(), plain.class_embeddings())
        with torch.no_grad():
            towers.text.projection.weight.mul_(-2)


@pytest.mark.parametrize("lock, absent", [("lock_image", "towers.visual.body"), ("lock_text", "towers.text")])
def test_what_is_frozen_is_not_in_the_trained_state(lock, absent):
    free = model(image="resnet10t")
    assert set(free.trained_state()) == set(free.state_dict())
    getattr(free.towers, lock)()
    kept = free.trained_state()
    assert kept and not any(name.startswith(absent) for name in kept)
    assert {name for name in free.state_dict() if not name.startswith(absent)} == set(kept)


def test_the_trained_state_of_frozen_stages_holds_the_rest():
    found = model(image="resnet10t")
    found.towers.visual.freeze_stages(3)
    kept = [name for name in found.trained_state() if name.startswith("towers.visual.body.")]
    assert kept and all(".layer4." in name for name in kept)
