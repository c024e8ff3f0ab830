"""Posts by word and character n-grams: TF-IDF with logistic regression, beside the same on image features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, hstack
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from core.errors import UserError

_TOKEN = r"\w+|[^\w\s]"  # signs are words: ':(' and '!' say more than most of them
_ITERATIONS = 1000
_SMALLEST = 1e-12


@dataclass(frozen=True)
class NgramSettings:
    """What n-grams are counted, and how strongly each regression is held back."""

    word_ngrams: int = 2
    """Longest word n-gram."""
    char_ngrams: int = 5
    """Longest character n-gram within words, from 2; 0 = none."""
    min_count: int = 2
    """Texts that an n-gram must be in."""
    regularisation: float = 1.0
    """Inverse strength C of the text regression's penalty."""
    image_regularisation: float = 0.0003
    """The same for standardised image features."""
    image_share: float = 0.5
    """s of the geometric mean of both: p ~ p_text^(1-s) * p_image^s."""


class NgramClassifier:
    """Two logistic regressions with balanced class weights (N / (C n_c)), one on TF-IDF n-grams, one on image features.

    Both give log-probabilities, of which the weighted sum decides (a logarithmic opinion pool, Genest and Zidek 1986). Either may be
    missing. Everything learnt is arrays and a vocabulary: no estimator is ever stored.

    Example:
        >>> model = NgramClassifier.fit(NgramSettings(), texts, None, labels, 3)
        >>> model.probabilities(["what a day"], None).shape
        (1, 3)
    """

    def __init__(self, settings: NgramSettings, arrays: Mapping[str, np.ndarray], vocabularies: Mapping[str, Sequence[str]]) -> None:
        self.settings, self.arrays = settings, {name: np.asarray(array) for name, array in arrays.items()}
        self.vocabularies = {name: list(words) for name, words in vocabularies.items()}
        self._vectorizers = [self._restored(name) for name in self.vocabularies]

    @classmethod
    def fit(
        cls, settings: NgramSettings, texts: Sequence[str] | None, features: np.ndarray | None, labels: np.ndarray, n_classes: int
    ) -> NgramClassifier:
        """Fit on texts (N strings) and/or image features (N, d) with labels (N,).

        Raises:
            UserError: no n-gram is in `min_count` texts, or a class has no post.
        """
        absent = np.setdiff1d(np.arange(n_classes), labels)
        if len(absent):
            raise UserError(f"class {absent[0]} has no training post; add some or leave the class out")
        arrays: dict[str, np.ndarray] = {}
        vocabularies: dict[str, list[str]] = {}
        if texts is not None:
            counted = []
            for name, vectorizer in _vectorizers(settings).items():
                counted.append(_fitted(vectorizer, texts, settings))
                vocabularies[name] = vectorizer.get_feature_names_out().tolist()
                arrays[f"{name}_idf"] = vectorizer.idf_
            arrays |= _regression("text", hstack(counted).tocsr(), labels, settings.regularisation)
        if features is not None:
            features = np.asarray(features, np.float64)
            arrays |= {"image_mean": features.mean(0), "image_scale": np.where(features.std(0) > 0, features.std(0), 1.0)}
            standard = (features - arrays["image_mean"]) / arrays["image_scale"]
            arrays |= _regression("image", standard, labels, settings.image_regularisation)
        if not arrays:
            raise ValueError("neither texts nor features to fit on")
        return cls(settings, arrays, vocabularies)

    def probabilities(self, texts: Sequence[str], features: np.ndarray | None) -> np.ndarray:
        """Return (N, C) float64 of cleaned texts and image features (N, d), None where no image was fitted."""
        share, sides = self.settings.image_share, self.by_side(texts, features)
        weights = {"text": 1 - share, "image": share} if len(sides) == 2 else dict.fromkeys(sides, 1.0)
        return softmax(sum(weights[side] * np.log(np.maximum(found, _SMALLEST)) for side, found in sides.items()), axis=1)

    def by_side(self, texts: Sequence[str], features: np.ndarray | None) -> dict[str, np.ndarray]:
        """Return the probabilities (N, C) of each regression there is, `text` before `image`."""
        inputs: dict[str, Any] = {}
        if self._vectorizers:
            inputs["text"] = hstack([vectorizer.transform(texts) for vectorizer in self._vectorizers]).tocsr()
        if "image_weight" in self.arrays:
            if features is None:
                raise ValueError("this classifier was fitted on image features too")
            inputs["image"] = (np.asarray(features, np.float64) - self.arrays["image_mean"]) / self.arrays["image_scale"]
        return {
            side: softmax(np.asarray(given @ self.arrays[f"{side}_weight"].T + self.arrays[f"{side}_bias"]), axis=1)
            for side, given in inputs.items()
        }

    def parts(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return (arrays, JSON-ready rest) from which `from_parts` makes an equal classifier."""
        return self.arrays, {"settings": asdict(self.settings), "vocabularies": self.vocabularies}

    @classmethod
    def from_parts(cls, arrays: Mapping[str, np.ndarray], rest: Mapping[str, Any]) -> NgramClassifier:
        """Return the classifier that `parts` described."""
        return cls(NgramSettings(**rest["settings"]), arrays, rest["vocabularies"])

    def _restored(self, name: str) -> TfidfVectorizer:
        vectorizer = _vectorizers(self.settings)[name]
        vectorizer.set_params(vocabulary=self.vocabularies[name], min_df=1)
        vectorizer.idf_ = self.arrays[f"{name}_idf"]
        return vectorizer


def _vectorizers(settings: NgramSettings) -> dict[str, TfidfVectorizer]:
    common = {"min_df": settings.min_count, "sublinear_tf": True, "lowercase": True}
    found = {"words": TfidfVectorizer(ngram_range=(1, settings.word_ngrams), token_pattern=_TOKEN, **common)}
    if settings.char_ngrams:
        found["characters"] = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, settings.char_ngrams), **common)
    return found


def _fitted(vectorizer: TfidfVectorizer, texts: Sequence[str], settings: NgramSettings) -> csr_matrix:
    try:
        return vectorizer.fit_transform(texts)
    except ValueError as error:
        raise UserError(
            f"min_count = {settings.min_count} leaves no n-gram of {len(texts)} texts ({str(error).split(';')[0][:80]}); "
            "lower it or use a milder cleaning"
        ) from None


def _regression(side: str, inputs: Any, labels: np.ndarray, strength: float) -> dict[str, np.ndarray]:
    """Return the weights (C, d) and biases (C,) of a balanced multinomial regression; two classes are written as two rows."""
    fitted = LogisticRegression(C=strength, class_weight="balanced", max_iter=_ITERATIONS).fit(inputs, labels)
    weight, bias = fitted.coef_, fitted.intercept_
    if len(weight) == 1:
        weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    return {f"{side}_weight": weight, f"{side}_bias": bias}
