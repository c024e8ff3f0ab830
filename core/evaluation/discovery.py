"""What is reported of a model each epoch: clusters of its features, scored by the declared metric on declared images."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.clustering import n_classes
from core.clustering.hidden_classes import recovered
from core.clustering.kmeans import KMeansResult, assign, semi_supervised_kmeans
from core.clustering.matching import best_pairs, contingency
from core.clustering.n_classes import Count
from core.data.problem import NOBODY_SAID, Problem, Truth
from core.data.splits import Split
from core.evaluation.features import normalise
from core.evaluation.gcd import VERSIONS, Accuracy, accuracy
from core.evaluation.selection import held_out_accuracy, silhouette

BY_CLASSIFIER = "classifier/"  # before the names of figures that are not of k-means
LARGEST = 50_000  # images whose silhouettes are all computed; of more, those of SAMPLE images among themselves
SAMPLE = 20_000


@dataclass(frozen=True)
class Clustering:
    """Semi-supervised k-means of one model's features, or what its classifier says of them.

    Attributes:
        train: (N,) cluster of every training image: its class's where it is labelled, else the nearest centre, which is what a served
            model answers.
        test: (M,) nearest centre of every test image, which took no part in the fit.
        result: the fit on labelled and unlabelled training images; of a classifier, its prototypes as centres.
    """

    train: np.ndarray
    test: np.ndarray
    result: KMeansResult


def cluster(data: Problem, split: Split, train: np.ndarray, test: np.ndarray, n_clusters: int, seed: int) -> Clustering:
    """Cluster L2-normalised features (N, d) of the training images; labelled points are clamped to their class."""
    used = np.concatenate([split.labelled, split.unlabelled])
    mask = np.arange(len(used)) < len(split.labelled)
    result = semi_supervised_kmeans(train[used], data.train.labels[used], mask, n_clusters, np.random.default_rng(seed))
    ids = assign(train, result.centres)
    ids[split.labelled] = result.labels[: len(split.labelled)]
    return Clustering(ids, assign(test, result.centres) if len(test) else np.zeros(0, np.int64), result)


def kmeans_clusters(split: Split, train: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """Return plain k-means clusters of the unlabelled training images: the baseline that uses no label at all."""
    points = train[split.unlabelled]
    nothing = np.zeros(len(points), bool)
    return semi_supervised_kmeans(points, np.zeros(len(points), np.int64), nothing, n_clusters, np.random.default_rng(seed)).labels


def classify(data: Problem, split: Split, train: np.ndarray, test: np.ndarray, prototypes: np.ndarray) -> Clustering:
    """Return what a cosine classifier's prototypes (K, d) say of L2-normalised features: the nearest one among unit vectors.

    Its classes are numbered as `cluster` numbers clusters: labelled classes, ascending, first. Labelled images have their own class.
    """
    centres = normalise(prototypes)
    ids = assign(train, centres)
    ids[split.labelled] = np.unique(data.train.labels[split.labelled], return_inverse=True)[1]
    used = np.concatenate([split.labelled, split.unlabelled])
    inertia = float(((train[used] - centres[ids[used]]) ** 2).sum())
    result = KMeansResult(ids[used], centres, inertia, 0)
    return Clustering(ids, assign(test, centres) if len(test) else np.zeros(0, np.int64), result)


def centred(split: Split, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, d) and (M, d) moved by the mean of the labelled and unlabelled ones, of unit length again."""
    mean = train[np.concatenate([split.labelled, split.unlabelled])].mean(axis=0)
    return normalise(train - mean), normalise(test - mean)


def report(truth: Truth, split: Split, found: Clustering, versions: tuple[str, ...], prefix: str = "") -> dict[str, float]:
    """Return `unlabelled/v2_all`, `test/v2_new`, ... for each accuracy version; what does not apply, or nobody knows, is left out."""
    metrics: dict[str, float] = {}
    for version in versions:
        metrics |= scored(truth, split.unlabelled, found.train, f"{prefix}unlabelled/{version}", version)
        known = truth.test != NOBODY_SAID
        metrics |= named(accuracy(truth.test[known], found.test[known], truth.known_classes, version), f"{prefix}test/{version}")
    return metrics


def scored(truth: Truth, indices: np.ndarray, clusters: np.ndarray, prefix: str, version: str = "v2") -> dict[str, float]:
    """Return `<prefix>_all`, `_old`, `_new` of the clusters (N,) of all training images on those at `indices` whose class is known."""
    judged = indices[truth.train[indices] != NOBODY_SAID]
    return named(accuracy(truth.train[judged], clusters[judged], truth.known_classes, version), prefix)


def shown(metrics: dict[str, float], eval_funcs: str) -> dict[str, float]:
    """Return `report`'s metrics without those of versions that `eval_funcs` (comma-separated) does not name; all others stay."""
    others = set(VERSIONS) - set(eval_funcs.split(","))
    left_out = tuple(f"{where}/{version}_" for where in ("unlabelled", "test") for version in others)
    return {name: value for name, value in metrics.items() if not name.startswith(left_out)}


def named(scores: Accuracy, prefix: str) -> dict[str, float]:
    """Return `<prefix>_all`, `_old`, `_new` of an accuracy, without the parts that do not apply."""
    values = {"all": scores.all, "old": scores.old, "new": scores.new}
    return {f"{prefix}_{part}": value for part, value in values.items() if value is not None}


def label_free(data: Problem, split: Split, found: Clustering, train: np.ndarray) -> dict[str, float]:
    """Return what model selection may see: held-out accuracy on known classes and the silhouette of unlabelled images."""
    metrics = {"selection/silhouette": _silhouette(split, found, train)}
    if len(split.validation):
        labels = data.train.labels
        metrics["val/accuracy_old"] = held_out_accuracy(
            found.train[split.labelled], labels[split.labelled], found.train[split.validation], labels[split.validation]
        )
    return metrics


def hidden_found(data: Problem, split: Split, found: Clustering) -> dict[str, float]:
    """Return `selection/hidden`: the F1 with which the clusters recover withheld classes (core.data.withheld); {} without any."""
    if data.withheld is None:
        return {}
    used = np.concatenate([split.labelled, split.unlabelled])
    codes = np.where(
        data.withheld >= 0, data.withheld, np.where(np.isin(np.arange(len(found.train)), split.labelled), data.train.labels, -1)
    )
    n_shown, k = len(np.unique(data.train.labels[split.labelled])), len(found.result.centres)
    labelled, sizes = np.bincount(found.train[split.labelled], minlength=k), np.bincount(found.train[used], minlength=k)
    share = split.prop_train_labels if split.labelled_share is not None else float(np.median(labelled[:n_shown] / sizes[:n_shown]))
    hidden = np.unique(data.withheld[data.withheld >= 0])
    return {"selection/hidden": recovered(found.train[used], codes[used], hidden, share, n_shown, k)}


def largest_first(found: Clustering, n_known: int) -> Clustering:
    """Return the same clusters with the novel ones, `n_known` and on, numbered by how many training images they hold."""
    sizes = np.bincount(found.train, minlength=len(found.result.centres))
    order = np.concatenate([np.arange(n_known), n_known + np.argsort(-sizes[n_known:], kind="stable")])
    numbers = np.argsort(order, kind="stable")
    result = dataclasses.replace(found.result, labels=numbers[found.result.labels], centres=found.result.centres[order])
    return Clustering(numbers[found.train], numbers[found.test], result)


@dataclass(frozen=True)
class Baselines:
    """What the same features give otherwise.

    Attributes:
        plain: (N,) plain k-means of the unlabelled training images, at `n_clusters`; -1 elsewhere.
        estimated: semi-supervised k-means at `count.n`.
        count: the estimated number of classes.
    """

    plain: np.ndarray
    estimated: Clustering
    count: Count


def baselines(data: Problem, split: Split, train: np.ndarray, test: np.ndarray, n_clusters: int, seed: int, count: Count) -> Baselines:
    """Return plain k-means at `n_clusters`, and semi-supervised k-means at the number that `count` estimates from the same features."""
    plain = np.full(len(train), -1, np.int64)
    plain[split.unlabelled] = kmeans_clusters(split, train, n_clusters, seed)
    return Baselines(plain, cluster(data, split, train, test, count.n, seed), count)


def count_classes(data: Problem, split: Split, train: np.ndarray, seed: int) -> Count:
    """Return the estimated number of classes of the labelled and unlabelled training images, from their features (N, d)."""
    used = np.concatenate([split.labelled, split.unlabelled])
    return n_classes.estimate(train[used], data.train.labels[used], seed)


def report_baselines(truth: Truth, split: Split, found: Baselines) -> dict[str, float]:
    """Return the accuracies of the baselines on the unlabelled images, and the estimated number of classes."""
    metrics = scored(truth, split.unlabelled, found.plain, "baseline/kmeans_v2")
    metrics |= scored(truth, split.unlabelled, found.estimated.train, "baseline/k_estimated_v2")
    return metrics | {"estimated_k": float(found.count.n)}


def name_novel(labels: Sequence[str], answers: Sequence[str], named: Sequence[bool], novel: Collection[str]) -> tuple[str, ...]:
    """Return served answers (N,) with their nameless clusters called after the novel classes of which they hold most.

    One to one, so that most items are right (Hungarian), as the field scores clusters; but a cluster that carries a known class's name
    is taken at its word. Further nameless clusters get names that no class has.

    Args:
        labels: true class names (N,). named: (N,) whether an answer is a class's name.
        novel: the classes without labels.
    """
    called = np.array([answer if known else f"\0{answer}" for answer, known in zip(answers, named, strict=True)], dtype=object)
    truth, nameless = np.array(labels, dtype=object), ~np.array(named, dtype=bool)
    among = np.flatnonzero(nameless & np.isin(truth, list(novel)))
    if not len(among):
        return tuple(called)
    clusters, cluster_ids = np.unique(called[among].astype(str), return_inverse=True)
    classes, class_ids = np.unique(truth[among].astype(str), return_inverse=True)
    pairs = zip(*best_pairs(contingency(cluster_ids, class_ids).counts), strict=True)
    names = {str(clusters[cluster]): str(classes[which]) for cluster, which in pairs}
    return tuple(names.get(answer, answer) for answer in called)


def _silhouette(split: Split, found: Clustering, train: np.ndarray) -> float:
    used = np.concatenate([split.labelled, split.unlabelled])
    unlabelled = np.arange(len(used)) >= len(split.labelled)
    if len(used) > LARGEST:  # time grows with the square
        chosen = np.sort(np.random.default_rng(split.seed).choice(len(used), SAMPLE, replace=False))
        used, unlabelled = used[chosen], unlabelled[chosen]
    return silhouette(train[used], found.train[used], unlabelled)


def of_answer(metrics: dict[str, float], answers_by: str) -> dict[str, float]:
    """Return an epoch's metrics with the figures of who answers in the place of k-means': of its classifier, where that is the answer.

    Args:
        answers_by: `kmeans`, `classifier`, or `auto`: the one of higher `score`; ties: k-means.
    """
    own = {name.removeprefix(BY_CLASSIFIER): value for name, value in metrics.items() if name.startswith(BY_CLASSIFIER)}
    ways = {"kmeans": metrics, "classifier": metrics | own}
    return ways[preferred(ways, answers_by)] if own else metrics


def preferred(figures: Mapping[str, dict[str, float]], asked: str) -> str:
    """Return by which of the ways to answer: `asked`, or, for `auto`, the one of higher `score`; ties: the first."""
    return max(figures, key=lambda way: selection_score(figures[way], "score", 0)) if asked == "auto" else asked


def selection_score(metrics: dict[str, float], select_by: str, epoch: int) -> float:
    """Return the number by which the best model is chosen (larger is better).

    `score` = held-out accuracy + silhouette; `val` = held-out accuracy alone; `hidden` = the mean of held-out accuracy and the F1 of
    withheld classes; `last` = the epoch; `oracle` = All accuracy on the unlabelled images, which uses novel-class truth and tags the run.
    """
    if select_by == "last":
        return float(epoch)
    if select_by == "oracle":
        return metrics["unlabelled/v2_all"]
    held_out = metrics.get("val/accuracy_old", 0.0)
    if select_by == "hidden":
        return (held_out + metrics["selection/hidden"]) / 2
    return held_out if select_by == "val" and "val/accuracy_old" in metrics else held_out + metrics["selection/silhouette"]
