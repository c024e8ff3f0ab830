"""Image-text contrast against plain loops: instance targets and targets of a class."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.losses.image_text import clip_contrast, multi_positive_contrast
from tests.core.losses import plain

LABELS = torch.tensor([0, 1, 0, 2, 0])


def embeddings(n: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, 4, generator=generator, dtype=torch.float64) for _ in range(2))


def plain_loss(images, texts, labels, scale) -> float:
    n = len(labels)
    logits = [[scale * plain.dot(plain.unit(v), plain.unit(t)) for t in texts] for v in images]
    total = 0.0
    for rows in (logits, [list(column) for column in zip(*logits, strict=True)]):
        for i in range(n):
            log_sum = math.log(sum(map(math.exp, rows[i])))
            same = [j for j in range(n) if labels[j] == labels[i]]
            total += sum((log_sum - rows[i][j]) / len(same) for j in same) / n
    return total / 2


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=7), st.floats(1.0, 50.0), st.integers(0, 1000))
def test_it_is_the_plain_formula(labels, scale, seed):
    images, texts = embeddings(len(labels), seed)
    got = multi_positive_contrast(images, texts, torch.tensor(labels), scale)
    assert got.item() == pytest.approx(plain_loss(images.tolist(), texts.tolist(), labels, scale))


def test_the_instance_loss_is_that_of_a_class_a_row():
    images, texts = embeddings()
    assert clip_contrast(images, texts, 10.0).item() == pytest.approx(plain_loss(images.tolist(), texts.tolist(), range(5), 10.0))
    assert clip_contrast(images, texts, 10.0).item() != pytest.approx(multi_positive_contrast(images, texts, LABELS, 10.0).item())


def test_with_one_and_the_same_text_a_class_both_targets_are_one_loss():
    """Known and worth knowing: the choice of targets acts only where the texts of a class differ."""
    images, texts = embeddings()
    classes = texts[:3].requires_grad_()
    instance = torch.autograd.grad(clip_contrast(images, classes[LABELS], 10.0), classes)[0]
    shared = torch.autograd.grad(multi_positive_contrast(images, classes[LABELS], LABELS, 10.0), classes)[0]
    torch.testing.assert_close(instance, shared)


def test_texts_of_a_class_that_differ_are_drawn_together_not_apart():
    """Two captions of one class: as each other's negatives they repel the other's image, as positives they attract it."""
    images = torch.eye(2, 4, dtype=torch.float64)
    for loss, attracts in (
        (lambda v, t: multi_positive_contrast(v, t, torch.tensor([0, 0]), 5.0), True),
        (lambda v, t: clip_contrast(v, t, 5.0), False),
    ):
        texts = images.clone().requires_grad_()
        loss(images, texts).backward()
        assert (texts.grad[0, 1] < 0) == attracts


def test_the_order_of_rows_does_not_matter():
    images, texts = embeddings()
    order = torch.tensor([3, 1, 4, 0, 2])
    expected = multi_positive_contrast(images, texts, LABELS, 10.0)
    torch.testing.assert_close(multi_positive_contrast(images[order], texts[order], LABELS[order], 10.0), expected)


def test_images_and_texts_have_the_same_part():
    images, texts = embeddings()
    torch.testing.assert_close(multi_positive_contrast(images, texts, LABELS, 9.0), multi_positive_contrast(texts, images, LABELS, 9.0))


def test_gradients_are_right_also_of_the_scale():
    images, texts = (x.requires_grad_() for x in embeddings())
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, t, s: multi_positive_contrast(v, t, LABELS, s), (images, texts, scale))


def test_half_precision_is_computed_in_full():
    images, texts = (x.to(torch.bfloat16) for x in embeddings())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = multi_positive_contrast(images, texts, LABELS, 100.0)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, multi_positive_contrast(images.float(), texts.float(), LABELS, 100.0))


def test_numbers_must_agree():
    images, texts = embeddings()
    with pytest.raises(ValueError, match="5 images, 4 texts and 5 labels"):
        multi_positive_contrast(images, texts[:4], LABELS, 10.0)
    with pytest.raises(ValueError, match="5 images, 4 texts"):
        clip_contrast(images, texts[:4], 10.0)
