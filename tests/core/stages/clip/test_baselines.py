"""The lines beside a result: what they compute, and that they leave the model as it was."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from core.stages.clip import baselines


@pytest.fixture
def training(clip_place):
    return clip_place.fitted(epochs=2, learning_rate=3e-3, use_superclip_loss=True, val_fraction=0.3)


def test_a_mix_is_the_straight_line_between_before_and_after():
    before = {"a": torch.tensor([0.0, 2.0]), "n": torch.tensor(1)}
    after = {"a": torch.tensor([1.0, 4.0]), "n": torch.tensor(7)}
    target = {name: value.clone() for name, value in after.items()}
    for alpha in (0.0, 0.3, 1.0):
        baselines.mix(target, before, after, alpha)
        torch.testing.assert_close(target["a"], torch.tensor([alpha, 2 + 2 * alpha]))
        assert target["n"] == 7


def test_wise_ft_ends_at_the_towers_before_training_and_after(training, monkeypatch):
    m, model = training.m, training.task.model
    after = baselines.shown(m, "test", m.logits(model, "test"))
    for alphas, prefix in (((1.0,), "best"), ((0.0,), "zero")):
        monkeypatch.setattr(baselines, "ALPHAS", alphas)
        found = baselines.wise_ft(m, model, training.before, "accuracy")
        if prefix == "best":
            assert found["wise_ft/alpha"] == 1.0 and found["wise_ft/test/accuracy"] == after["accuracy"]
            continue
        baselines.mix(model.trained_state(), training.before, training.before, 1.0)
        plain = baselines.zero_shot(m, model)
        assert {name.replace("wise_ft", "zero_shot"): value for name, value in found.items() if "alpha" not in name} == plain


def test_wise_ft_chooses_alpha_on_validation_and_puts_the_weights_back(training, monkeypatch):
    digest, seen = training.digest(), []
    shown = baselines.shown

    def scripted(m, part, logits):
        found = shown(m, part, logits)
        if part == "val":
            seen.append(part)
            found["accuracy"] = {3: 2.0}.get(len(seen) - 1, 0.0)
        return found

    monkeypatch.setattr(baselines, "shown", scripted)
    found = baselines.wise_ft(training.m, training.task.model, training.before, "accuracy")
    assert found["wise_ft/alpha"] == pytest.approx(0.3) and len(seen) == 11 and training.digest() == digest


def test_the_linear_probe_is_a_logistic_regression_on_centred_unit_features(training):
    m, towers = training.m, training.task.model.towers
    found = baselines.linear_probe(m, towers, "accuracy", 0)
    features = {part: m.features(towers, rows) for part, rows in m.rows.items()}
    centre = features["train"].mean(axis=0)
    unit = {part: (f - centre) / np.linalg.norm(f - centre, axis=1, keepdims=True) for part, f in features.items()}
    scores = {}
    for strength in baselines.STRENGTHS:
        fitted = LogisticRegression(C=strength, max_iter=1000).fit(unit["train"], m.data.train.labels)
        scores[strength] = [fitted.score(unit[part], m.part(part).labels) for part in ("val", "test")]
    best = max(scores, key=lambda strength: scores[strength][0])
    assert found["linear_probe/strength"] == best
    assert [found[f"linear_probe/{part}/accuracy"] for part in ("val", "test")] == pytest.approx(scores[best])


def test_the_true_map_skips_classes_without_positives(training):
    m = training.m
    logits = m.logits(training.task.model, "test")
    from scipy.special import softmax
    from sklearn.metrics import average_precision_score

    probabilities, labels = softmax(logits.astype(np.float64), axis=1), m.data.test.labels
    expected = np.mean([average_precision_score(labels == c, probabilities[:, c]) for c in np.unique(labels)])
    assert baselines.shown(m, "test", logits)["mAP"] == pytest.approx(expected)
