"""Scores of a classifier whose classes differ much in size: overall, per class, per frequency group, and of its confidence.

What `report` calls by which name; 'scored' are the classes with evaluated images:

- `accuracy`; `balanced_accuracy`, the mean recall of the scored classes.
- `tail_accuracy`: mean recall of the scored ones among the rarest 25 % of all classes by training images.
- `many_accuracy`, `medium_accuracy`, `few_accuracy`: mean recall of the scored classes with more than 100, with 20 to 100 and with
  fewer than 20 training images (Liu et al. 2019, "Large-Scale Long-Tailed Recognition in an Open World", arXiv:1904.05160).
- `macro_f1`: mean F1 of the scored classes. A class that is predicted but has no evaluated image adds no term of 0; such a
  prediction costs recall in the image's true class. (scikit-learn's default averages over it too, as 0.)
- `top5_accuracy`, for more than 5 classes: the label is among the five most probable classes, ties to the smaller id.
- `mAP`: mean over the scored classes of the one-vs-rest average precision, sum_k (R_k - R_{k-1}) P_k over distinct thresholds.
- `ece`, see `calibration`; `nll`, mean -log p of the label in nats, p not below 2.2e-16.
- `<attribute>_accuracy`: label and prediction have the same value of the attribute. With crop, disease and severity known also
  `accuracy_severity_merged`: crop and disease agree, whatever the severity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from core.clustering.matching import as_ids
from core.data.classification import Attribute, tail_classes
from core.errors import UserError

N_BINS = 15
MANY_ABOVE = 100
FEW_BELOW = 20
_TOP = 5
# A softmax in bfloat16 misses 1 by more than this, and its ties make top-5 and confidence arbitrary.
_SUM_TOLERANCE = 1e-3
_SMALLEST = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Report:
    """What `report` found.

    Attributes:
        metrics: name -> value; what does not apply is absent, never 0 or NaN.
        per_class: a row a class, in label order: `name`, `train_images`, `evaluated_images`, `recall` (the accuracy within the class),
            `precision`, `f1`, `average_precision`. The four scores are None for a class without evaluated images; `precision` is also
            None for one that was never predicted.
        unscored: the names of the classes without evaluated images.
    """

    metrics: dict[str, float]
    per_class: list[dict[str, Any]]
    unscored: list[str]


@dataclass(frozen=True)
class Calibration:
    """Confidence against accuracy in M equal bins of 0..1; bin m (from 0) holds the confidences in (m/M, (m+1)/M], bin 0 also 0.

    Attributes:
        counts: (M,) int64 images in each bin.
        confidence, accuracy: (M,) means within the bin, NaN where it is empty.
        ece: expected calibration error.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float


def report(
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    train_counts: np.ndarray,
    attributes: Mapping[str, Attribute] | None = None,
) -> Report:
    """Score probabilities (N, C) against labels (N,); the class of the highest probability is the prediction (ties: the smaller id).

    The metrics are defined at the top of this module.

    Args:
        labels: (N,) int64.
        probabilities: (N, C), rows sum to 1.
        class_names: C names.
        train_counts: (C,) training images of each class.
        attributes: name -> value of each class.

    Raises:
        UserError: nothing to evaluate, or probabilities that are not finite.
        ValueError: arrays that do not fit, fewer than two classes, rows that are no probabilities, labels outside 0..C-1.
    """
    labels, probabilities = checked(labels, probabilities)
    train_counts, attributes = as_ids(train_counts), attributes or {}
    _check_classes(probabilities.shape[1], class_names, train_counts, attributes)
    predicted = probabilities.argmax(axis=1)
    scores = _class_scores(labels, probabilities, predicted)
    scored = scores["evaluated_images"] > 0
    recall = scores["recall"]
    metrics = {
        "accuracy": (predicted == labels).mean(),
        "balanced_accuracy": recall[scored].mean(),
        **{f"{name}_accuracy": recall[group & scored].mean() for name, group in _groups(train_counts).items() if (group & scored).any()},
        "macro_f1": scores["f1"][scored].mean(),
        "mAP": scores["average_precision"][scored].mean(),
        "ece": calibration(labels, probabilities).ece,
        "nll": -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], _SMALLEST)).mean(),
        **_attribute_scores(labels, predicted, attributes),
    }
    if probabilities.shape[1] > _TOP:
        # scikit-learn's top-k breaks ties towards the larger id: it can miss what argmax gets right.
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :_TOP]
        metrics["top5_accuracy"] = (best == labels[:, None]).any(axis=1).mean()
    rows = _rows(class_names, train_counts, scores)
    unscored = [row["name"] for row in rows if not row["evaluated_images"]]
    return Report({name: float(value) for name, value in metrics.items()}, rows, unscored)


def calibration(labels: np.ndarray, probabilities: np.ndarray, n_bins: int = N_BINS) -> Calibration:
    """Compare confidence, the highest probability of each row of (N, C), with how often that class is the label (N,).

    Expected calibration error of Guo et al. 2017 (arXiv:1706.04599), section 2, over M = `n_bins` bins B_m of equal width:

        ECE = sum_m |B_m| / N * | acc(B_m) - conf(B_m) |

    Raises as `report` does; ValueError for fewer than one bin.
    """
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, not {n_bins}")
    labels, probabilities = checked(labels, probabilities)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.digitize(confidence, np.arange(1, n_bins) / n_bins, right=True)
    counts = np.bincount(place, minlength=n_bins)
    sums = [np.bincount(place, weights=values, minlength=n_bins) for values in (confidence, right)]
    confident, accurate = (np.divide(total, counts, out=np.full(n_bins, np.nan), where=counts > 0) for total in sums)
    return Calibration(counts, confident, accurate, float(np.abs(sums[1] - sums[0]).sum() / len(labels)))


def checked(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (N,) as int64 and probabilities (N, C) as float64 once they are what they should be; raises as `report` does."""
    labels, probabilities = as_ids(labels), np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or len(probabilities) != len(labels):
        raise ValueError(f"{len(labels)} labels need probabilities (N, C), not {probabilities.shape}")
    if not len(labels):
        raise UserError("no images to evaluate: the evaluated part is empty; check its folder or metadata")
    broken = ~np.isfinite(probabilities).all(axis=1)
    if broken.any():
        raise UserError(f"{broken.sum()} of {len(labels)} images have probabilities that are not finite: training diverged; lower lr")
    n_classes = probabilities.shape[1]
    if n_classes < 2:
        raise ValueError(f"at least two classes are needed, got {n_classes}")
    wrong = (probabilities < 0).any(axis=1) | (np.abs(probabilities.sum(axis=1) - 1) > _SUM_TOLERANCE)
    if wrong.any():
        row = int(wrong.argmax())
        total, lowest = probabilities[row].sum(), probabilities[row].min()
        raise ValueError(f"row {row} is no probabilities (sum {total:.4g}, smallest {lowest:.4g}): apply softmax in float32")
    outside = (labels < 0) | (labels >= n_classes)
    if outside.any():
        raise ValueError(f"label {labels[outside][0]} (row {int(outside.argmax())}) is outside 0..{n_classes - 1}")
    return labels, probabilities


def _check_classes(n_classes: int, class_names: Sequence[str], train_counts: np.ndarray, attributes: Mapping[str, Attribute]) -> None:
    """Raise ValueError when what is known of the classes is not about `n_classes` of them."""
    if not len(class_names) == len(train_counts) == n_classes:
        raise ValueError(f"{len(class_names)} class names and {len(train_counts)} training counts for {n_classes} columns")
    for name, attribute in attributes.items():
        if np.shape(attribute.of_class) != (n_classes,):
            raise ValueError(f"attribute '{name}' has values of shape {np.shape(attribute.of_class)} for {n_classes} classes")


def _groups(train_counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return name -> (C,) mask of the groups of classes by training images; 'tail' cuts across the others."""
    many, few = train_counts > MANY_ABOVE, train_counts < FEW_BELOW
    return {"tail": np.isin(np.arange(len(train_counts)), tail_classes(train_counts)), "many": many, "medium": ~many & ~few, "few": few}


def _class_scores(labels: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Return (C,) arrays by name; NaN where a score is not defined."""
    n_classes = probabilities.shape[1]
    precision, recall, f1, support = precision_recall_fscore_support(labels, predicted, labels=np.arange(n_classes), zero_division=0.0)
    absent = support == 0
    precision[~np.isin(np.arange(n_classes), predicted)] = np.nan
    average = np.full(n_classes, np.nan)
    for c in np.flatnonzero(~absent):
        average[c] = average_precision_score(labels == c, probabilities[:, c])
    for values in (precision, recall, f1):
        values[absent] = np.nan
    return {"evaluated_images": support, "recall": recall, "precision": precision, "f1": f1, "average_precision": average}


def _attribute_scores(labels: np.ndarray, predicted: np.ndarray, attributes: Mapping[str, Attribute]) -> dict[str, float]:
    """Return `<attribute>_accuracy`, and the accuracy with severities merged where all three attributes are known."""
    agree = {name: attribute.of_class[labels] == attribute.of_class[predicted] for name, attribute in attributes.items()}
    scores = {f"{name}_accuracy": same.mean() for name, same in agree.items()}
    if {"crop", "disease", "severity"} <= agree.keys():
        scores["accuracy_severity_merged"] = (agree["crop"] & agree["disease"]).mean()
    return scores


def _rows(class_names: Sequence[str], train_counts: np.ndarray, scores: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return the rows of `Report.per_class`."""
    rows = []
    for c, name in enumerate(class_names):
        row = {"name": name, "train_images": int(train_counts[c]), "evaluated_images": int(scores["evaluated_images"][c])}
        for score in ("recall", "precision", "f1", "average_precision"):
            value = float(scores[score][c])
            row[score] = None if np.isnan(value) else value
        rows.append(row)
    return rows
