"""Lines of few training images and of none: what they compute by a plain way, and that they stay at chance where sentences say nothing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from core.stages.clip import few_shot
from tests.core.models import tiny_sentences

NAMES = tuple(f"class {c}" for c in range(10))


def world(seed: int = 0, speaks: bool = True):
    """Return what stands for materials, unit features by part, and sentences (10, 6) that say what the classes look like, or not."""
    rng = np.random.default_rng(seed)
    sentences = rng.normal(size=(10, 6))
    looks = sentences @ rng.normal(size=(6, 24)) if speaks else rng.normal(size=(10, 24))
    parts, features = {}, {}
    for part, n in (("train", 20), ("val", 6), ("test", 30)):
        labels = np.repeat(np.arange(10), n)
        found = looks[labels] + 0.4 * rng.normal(size=(len(labels), 24))
        features[part] = found / np.linalg.norm(found, axis=1, keepdims=True)
        parts[part] = SimpleNamespace(labels=labels)
    data = SimpleNamespace(**parts, class_names=NAMES, class_counts=np.full(10, 20))
    return SimpleNamespace(data=data, part=parts.__getitem__), features, sentences


def test_a_probe_learns_from_so_many_images_of_each_class(monkeypatch):
    m, features, _ = world()
    seen, plain = [], LogisticRegression.fit
    monkeypatch.setattr(LogisticRegression, "fit", lambda self, x, y: seen.append(np.bincount(y).tolist()) or plain(self, x, y))
    found = few_shot.few_shot(m, features, seed=1)
    assert seen == [[k] * 10 for k in few_shot.SHOTS for _ in range(few_shot.DRAWS)]
    scores = [found[f"few_shot_{k}/test/accuracy"] for k in few_shot.SHOTS]
    assert scores == sorted(scores) and scores[0] > 0.4 and scores[-1] > 0.85
    assert found == few_shot.few_shot(m, features, seed=1) != few_shot.few_shot(m, features, seed=2)


def test_a_class_of_fewer_images_gives_all_it_has_and_one_of_none_is_never_answered():
    m, features, _ = world()
    kept = np.flatnonzero((m.data.train.labels != 9) & ((m.data.train.labels != 8) | (np.arange(200) == 160)))
    m.data.train.labels, features["train"] = m.data.train.labels[kept], features["train"][kept]
    found = few_shot.few_shot(m, features, seed=1)
    assert 0.4 < found["few_shot_16/test/balanced_accuracy"] <= 0.9


def test_unseen_classes_are_found_by_what_their_sentences_share_with_others():
    m, features, sentences = world()
    found = few_shot.unseen(m, features, sentences)
    assert found["unseen/test/chance"] == pytest.approx(0.5)
    assert (
        found["unseen/test/accuracy"]
        > 0.8
        > 0.7
        > np.mean([few_shot.unseen(*world(seed, speaks=False))["unseen/test/accuracy"] for seed in range(3)])
    )


def test_no_image_of_an_unseen_class_is_learnt_from(monkeypatch):
    m, features, sentences = world()
    seen, plain = [], LogisticRegression.fit
    monkeypatch.setattr(LogisticRegression, "fit", lambda self, x, y: seen.append(set(y.tolist())) or plain(self, x, y))
    few_shot.unseen(m, features, sentences)
    assert seen == [set(range(10)) - {group, group + 5} for group in range(5)]


def test_fewer_than_four_classes_have_no_such_line():
    m, features, sentences = world()
    m.data.class_names = NAMES[:3]
    assert few_shot.unseen(m, features, sentences) == {}


@pytest.mark.parametrize("locked", [True, False])
def test_sentences_are_taken_before_their_projection_and_the_mode_stays(clip_place, locked):
    folder = tiny_sentences.write(clip_place.folder / "encoder")
    training = clip_place.training(text_encoder_name=f"hf:{folder}", context_length=0, lock_text=locked)
    model = training.task.model.train()
    found = few_shot.sentence_features(training.m, model)
    assert found.shape == (4, tiny_sentences.WIDTH) and model.training
    texts = training.m.pool.sentences
    vectors = [tiny_sentences.means(tiny_sentences.network(), folder, one, 24).numpy() for one in texts]
    plain = [np.mean([v / np.linalg.norm(v) for v in rows], axis=0) for rows in vectors]
    np.testing.assert_allclose(found, plain, atol=1e-5)
