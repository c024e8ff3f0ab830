"""N-gram classifiers: what was stored decides as what was fitted, and both sides count as their share says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from core.errors import UserError
from core.models.ngrams import NgramClassifier, NgramSettings

TEXTS = ["so happy today", "happy smile :)", "sad and bad", "bad tears :(", "a chair", "the chair is there"] * 3
LABELS = np.array([2, 2, 0, 0, 1, 1] * 3)
FEATURES = np.random.default_rng(0).normal(size=(18, 5)) + LABELS[:, None]
PLAIN = NgramSettings(char_ngrams=0, min_count=1)


def test_words_alone_are_scikit_learns_own_pipeline():
    model = NgramClassifier.fit(PLAIN, TEXTS, None, LABELS, 3)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]", sublinear_tf=True)
    plain = LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000).fit(vectorizer.fit_transform(TEXTS), LABELS)
    asked = ["happy chair", ":( unseen", ""]
    np.testing.assert_allclose(model.probabilities(asked, None), plain.predict_proba(vectorizer.transform(asked)), atol=1e-9)


def test_both_sides_are_pooled_by_share():
    both = NgramClassifier.fit(PLAIN, TEXTS, FEATURES, LABELS, 3)
    text = NgramClassifier.fit(PLAIN, TEXTS, None, LABELS, 3).probabilities(TEXTS, None)
    image = NgramClassifier.fit(PLAIN, None, FEATURES, LABELS, 3).probabilities(TEXTS, FEATURES)
    np.testing.assert_allclose(both.probabilities(TEXTS, FEATURES), softmax(0.5 * np.log(text) + 0.5 * np.log(image), axis=1), atol=1e-9)


@pytest.mark.parametrize(("texts", "features"), [(TEXTS, None), (None, FEATURES), (TEXTS, FEATURES)])
def test_what_is_stored_decides_the_same(texts, features):
    import json

    model = NgramClassifier.fit(NgramSettings(min_count=1), texts, features, LABELS, 3)
    arrays, rest = model.parts()
    again = NgramClassifier.from_parts(arrays, json.loads(json.dumps(rest)))
    np.testing.assert_array_equal(again.probabilities(TEXTS, features), model.probabilities(TEXTS, features))


def test_two_classes_have_two_rows():
    model = NgramClassifier.fit(PLAIN, TEXTS, None, LABELS % 2, 2)
    found = model.probabilities(TEXTS, None)
    assert found.shape == (18, 2) and (found.argmax(1) == LABELS % 2).mean() == 1.0


def test_a_feature_that_never_changes_does_no_harm():
    features = np.concatenate([FEATURES, np.ones((18, 1))], axis=1)
    assert np.isfinite(NgramClassifier.fit(PLAIN, None, features, LABELS, 3).probabilities(TEXTS, features)).all()


def test_mistakes():
    with pytest.raises(UserError, match="class 1 has no training post"):
        NgramClassifier.fit(PLAIN, TEXTS[:4], None, LABELS[:4], 3)
    with pytest.raises(UserError, match="min_count = 50 leaves no n-gram"):
        NgramClassifier.fit(NgramSettings(min_count=50), TEXTS, None, LABELS, 3)
    with pytest.raises(ValueError, match="neither texts nor features"):
        NgramClassifier.fit(PLAIN, None, None, LABELS, 3)
    with pytest.raises(ValueError, match="image features too"):
        NgramClassifier.fit(PLAIN, TEXTS, FEATURES, LABELS, 3).probabilities(TEXTS, None)
