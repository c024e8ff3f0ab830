"""Cosines whatever the lengths, a start that the seed alone decides, gradients for features and prototypes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from core.models.cosine_classifier import CosineClassifier


def test_the_answers_are_cosines_in_full_precision():
    classifier, features = CosineClassifier(6, 4), torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = classifier(features.bfloat16())
    wanted = [[F.cosine_similarity(x, p, dim=0) for p in classifier.prototypes.detach()] for x in features.bfloat16().float()]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(wanted))
    torch.testing.assert_close(classifier(7 * features), classifier(features))


def test_the_seed_decides_the_start_and_the_global_state_is_left_alone():
    before = torch.get_rng_state()
    one, again, other = CosineClassifier(300, 9, 3), CosineClassifier(300, 9, 3), CosineClassifier(300, 9, 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.prototypes, again.prototypes) and not torch.equal(one.prototypes, other.prototypes)
    assert one.prototypes.std().item() == pytest.approx(0.02, rel=0.1)


def test_features_and_prototypes_learn():
    classifier, features = CosineClassifier(6, 4), torch.randn(5, 6, requires_grad=True)
    classifier(features).square().sum().backward()
    assert features.grad.abs().sum() > 0 and classifier.prototypes.grad.abs().sum() > 0
