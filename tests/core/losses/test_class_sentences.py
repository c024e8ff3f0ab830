"""The class term of SuperCLIP against a plain loop; its class weights act."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.losses.class_sentences import superclip_class_loss
from tests.core.losses import plain

LABELS = torch.tensor([0, 2, 1, 2, 2])
WEIGHTS = torch.tensor([3.0, 1.0, 0.2], dtype=torch.float64)


def embeddings(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (5, 3))


def plain_loss(images, classes, labels, scale, weights) -> float:
    total = norm = 0.0
    for image, label in zip(images, labels, strict=True):
        logits = [scale * plain.dot(plain.unit(image), plain.unit(text)) for text in classes]
        total += weights[label] * (math.log(sum(map(math.exp, logits))) - logits[label])
        norm += weights[label]
    return total / norm


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.floats(0.1, 5.0), min_size=3, max_size=3), st.floats(1.0, 50.0), st.integers(0, 1000))
def test_it_is_the_plain_formula(weights, scale, seed):
    images, classes = embeddings(seed)
    got = superclip_class_loss(images, classes, LABELS, scale, torch.tensor(weights, dtype=torch.float64))
    assert got.item() == pytest.approx(plain_loss(images.tolist(), classes.tolist(), LABELS.tolist(), scale, weights))


def test_without_weights_all_classes_count_alike():
    images, classes = embeddings()
    expected = superclip_class_loss(images, classes, LABELS, 10.0, torch.full((3,), 7.0))
    torch.testing.assert_close(superclip_class_loss(images, classes, LABELS, 10.0), expected)


def test_weights_change_the_loss_where_a_normalised_one_hot_target_does_not():
    """The mistake that this loss replaces: weights in a target that is then normalised divide themselves out."""
    images, classes = embeddings()
    unweighted = superclip_class_loss(images, classes, LABELS, 10.0)
    target = torch.nn.functional.one_hot(LABELS, 3) * WEIGHTS
    logits = 10.0 * torch.nn.functional.normalize(images, dim=1) @ torch.nn.functional.normalize(classes, dim=1).T
    mistaken = torch.nn.functional.cross_entropy(logits, target / target.sum(dim=1, keepdim=True))
    assert mistaken.item() == pytest.approx(unweighted.item())
    assert superclip_class_loss(images, classes, LABELS, 10.0, WEIGHTS).item() != pytest.approx(unweighted.item(), rel=1e-3)


def test_a_heavier_class_pulls_harder():
    images, classes = embeddings()
    pulls = []
    for weight in (1.0, 4.0):
        leaf = images.clone().requires_grad_()
        superclip_class_loss(leaf, classes, LABELS, 10.0, torch.tensor([weight, 1.0, 1.0])).backward()
        pulls.append(leaf.grad[0].norm() / leaf.grad[2].norm())
    assert pulls[1] / pulls[0] == pytest.approx(4.0)


def test_gradients_are_right_also_of_the_scale():
    images, classes = (x.requires_grad_() for x in embeddings())
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, t, s: superclip_class_loss(v, t, LABELS, s, WEIGHTS), (images, classes, scale))


def test_a_batch_whose_weights_are_all_zero_keeps_its_graph():
    images, classes = embeddings()
    loss = superclip_class_loss(images.requires_grad_(), classes, LABELS, 10.0, torch.zeros(3))
    loss.backward()
    assert loss.item() == 0.0 and not images.grad.any()


def test_what_does_not_fit_is_refused():
    images, classes = embeddings()
    with pytest.raises(ValueError, match="4 labels for 5 images"):
        superclip_class_loss(images, classes, LABELS[:4], 10.0)
    with pytest.raises(ValueError, match="2 class weights for 3 classes"):
        superclip_class_loss(images, classes, LABELS, 10.0, WEIGHTS[:2])
