"""Pseudo labels of one refresh: what clustering hands to training, and its file.

The file is an npz without pickles: `ids` (U), `indices`, `labels`, `targets`, `core_mask`, `agreed_mask`, `densities`, `nearest`,
`margins`, `prototypes`, `feature_mean`, and JSON texts `best_params` and `metadata`.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from core import digest
from core.clustering import roles
from core.clustering.kmeans import KMeansResult, draw_centres, semi_supervised_kmeans
from core.clustering.matching import match
from core.errors import UserError


@dataclass(frozen=True)
class PseudoLabels:
    """Cluster labels of training images.

    Attributes:
        indices: (n,) training indices, labelled and unlabelled ones (held-out images never take part).
        ids: (n,) image ids.
        labels: (n,) SSDDBC's cluster ids, the same identities from refresh to refresh.
        targets: (n,) what the loss trains towards: class index of labelled images and known clusters, then novel ones; -1 = neither.
        core_mask: (n,) SSDDBC's core points.
        agreed_mask: (n,) points on which the clusterings agree.
        densities: (n,) relative densities.
        nearest: (n,) the target by semi-supervised k-means, which has a cluster for each target; -1 = one that `targets` lacks.
        margins: (n,) float32, by how much the cosine to that cluster's centre exceeds the one to the next.
        prototypes: (K, d) L2-normalised mean of each target's core and labelled points, centred features.
        feature_mean: (d,) what was subtracted to centre them.
        best_params: the chosen cell: k, density_percentile.
        metadata: score, counts, and digests of data, split, features and model.
    """

    indices: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    targets: np.ndarray
    core_mask: np.ndarray
    agreed_mask: np.ndarray
    densities: np.ndarray
    nearest: np.ndarray
    margins: np.ndarray
    prototypes: np.ndarray
    feature_mean: np.ndarray
    best_params: dict[str, Any]
    metadata: dict[str, Any]

    @property
    def digest(self) -> str:
        """sha256 of arrays and texts; the file itself also holds when it was written."""
        arrays = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        texts = [self.best_params, {name: value for name, value in self.metadata.items() if name != "data"}]  # a folder's name
        return digest.of_json([{name: digest.of_array(value) for name, value in arrays.items()}, texts])

    @property
    def ids_given(self) -> int:
        """How many cluster ids were ever given in this and the refreshes before: a vanished cluster's id is not given out again."""
        return max(int(self.metadata.get("ids_given", 0)), int(self.labels.max(initial=-1)) + 1)

    def taking_part(self, points: str, coverage: float = 1.0, labelled: np.ndarray | None = None) -> np.ndarray:
        """Return the (n,) mask of `core`, `agreed`, `margin`, `density` or `all` points among those that have a target.

        Args:
            points: which; `margin` and `density` are the `coverage` of each target's points that have the largest margin or density.
            coverage: share 0..1.
            labelled: (n,) mask of points that do not count in the coverage, and are not among those points.
        """
        free = np.ones(len(self.labels), bool) if labelled is None else ~labelled
        masks = {"core": self.core_mask, "agreed": self.agreed_mask, "all": np.ones(len(self.labels), bool)}
        if points in masks:
            return masks[points] & (self.targets >= 0)
        values = {"margin": self.margins, "density": self.densities}[points]
        return largest(values, self.targets_of(points), free, coverage)

    def targets_of(self, points: str) -> np.ndarray:
        """Return the targets (n,) of such points: those of k-means for points chosen by its margin, else SSDDBC's."""
        return self.nearest if points == "margin" else self.targets


def largest(values: np.ndarray, groups: np.ndarray, free: np.ndarray, share: float) -> np.ndarray:
    """Return the (n,) mask of the free points that have the largest values of their group: `share` of them, rounded up.

    values (n,), groups (n,) with -1 for none, free (n,) bool, share 0..1; equal values: the smaller index. 0 takes none.
    """
    mask = np.zeros(len(values), bool)
    for group in np.unique(groups[free & (groups >= 0)]):
        members = np.flatnonzero(free & (groups == group))
        order = members[np.argsort(-values[members], kind="stable")]
        mask[order[: int(np.ceil(share * len(members) - 1e-9))]] = True
    return mask


def file_name(superclass: str, checkpoint: str, k: int, density_percentile: int) -> str:
    """Return the file's name; numbers are not zero padded."""
    return f"{superclass}_{checkpoint}_k{k}_dp{density_percentile}.npz"


def write(path: Path, pseudo: PseudoLabels) -> None:
    """Write the npz."""
    np.savez(
        path,
        indices=pseudo.indices,
        ids=np.asarray(pseudo.ids, dtype=np.str_),
        labels=pseudo.labels,
        targets=pseudo.targets,
        core_mask=pseudo.core_mask,
        agreed_mask=pseudo.agreed_mask,
        densities=pseudo.densities,
        nearest=pseudo.nearest,
        margins=pseudo.margins,
        prototypes=pseudo.prototypes,
        feature_mean=pseudo.feature_mean,
        best_params=np.array(json.dumps(pseudo.best_params, sort_keys=True)),
        metadata=np.array(json.dumps(pseudo.metadata, sort_keys=True)),
    )


def read(path: Path) -> PseudoLabels:
    """Read the npz; raise UserError when it is damaged, holds a pickle, is an older version's, or is something else."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        texts = {name: json.loads(str(arrays.pop(name))) for name in ("best_params", "metadata")}
        found = arrays | texts
        lacking = [field.name for field in fields(PseudoLabels) if field.name not in found]
        if lacking:
            raise ValueError(f"it lacks {', '.join(lacking)}")
        return PseudoLabels(**found)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"pseudo labels '{path}' cannot be read ({str(error).splitlines()[0][:80]}); "
            "give an .npz that this version's offline_ssddbc_superclass wrote"
        ) from None


def check_origin(pseudo: PseudoLabels, data_digest: str, split_digest: str, path: str) -> None:
    """Raise UserError when pseudo labels were made from another data set or another split (seed, share of labels)."""
    if pseudo.metadata.get("data_digest") != data_digest:
        raise UserError(f"pseudo labels '{path}' are of another data set ({pseudo.metadata.get('data', '?')}); cluster this one's features")
    if pseudo.metadata.get("split_digest") != split_digest:
        raise UserError(
            f"pseudo labels '{path}' are of another split (seed {pseudo.metadata.get('seed', '?')}); "
            "use the same seed, prop_train_labels and val_fraction, or cluster again"
        )


def centred(features: np.ndarray) -> np.ndarray:
    """Return features (N, d) with their mean removed and rows of unit length: what SSDDBC clusters.

    The common mean of a network's features hides the differences that tell classes apart.
    """
    moved: np.ndarray = features - features.mean(axis=0)
    scaled: np.ndarray = moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)
    return scaled


@dataclass(frozen=True)
class Points:
    """The images of a refresh: what of them may be known.

    Attributes:
        indices: (n,) training indices. ids: (n,) image ids.
        features: (n, d) L2-normalised. labels: (n,) class of labelled images, -1 elsewhere.
        share: labelled share of a known class's images, None where the split does not tell it.
    """

    indices: np.ndarray
    ids: np.ndarray
    features: np.ndarray
    labels: np.ndarray
    share: float | None = None

    @property
    def codes(self) -> np.ndarray:
        """Return (n,) class indices 0..L-1 of labelled images (classes ascending), -1 elsewhere."""
        known = np.unique(self.labels[self.labels >= 0])
        return np.where(self.labels >= 0, np.searchsorted(known, self.labels), -1)


def build(
    points: Points,
    chosen: Any,
    best_params: dict[str, Any],
    previous: PseudoLabels | None,
    split: bool,
    metadata: dict[str, Any],
    n_classes: int | None = None,
) -> PseudoLabels:
    """Turn the chosen cell into pseudo labels.

    Args:
        points: the images that took part in the clustering.
        chosen: the chosen cell's result (core.clustering.ssddbc.Clustering).
        best_params: its k and density_percentile.
        previous: the refresh before, over the same images; its cluster identities are kept.
        split: split oversized novel clusters.
        metadata: where the labels come from.
        n_classes: known and novel targets together, where that is settled; None = as many novel ones as the cell has.
    """
    codes, features = points.codes, centred(points.features)
    found = _targets(features, points, chosen, split, metadata["seed"])
    if n_classes is not None:
        found = _exactly(features, found, chosen.core_mask, codes, n_classes, metadata["seed"])
    targets, agreed, means = found
    n_known = int(codes.max()) + 1
    labels = chosen.labels if previous is None else match(previous.labels, chosen.labels, previous.ids_given)
    given = max(int(labels.max()) + 1, 0 if previous is None else previous.ids_given)
    return PseudoLabels(
        indices=points.indices,
        ids=points.ids,
        labels=labels,
        targets=targets,
        core_mask=chosen.core_mask,
        agreed_mask=chosen.core_mask & agreed,
        densities=chosen.densities,
        nearest=np.where(np.isin(means.labels, targets), means.labels, -1),  # a target without a point has no prototype
        margins=_margins(features, means),
        prototypes=_prototypes(features, targets, chosen.core_mask, codes),
        feature_mean=points.features.mean(axis=0),
        best_params=best_params,
        metadata=metadata | {"n_classes": n_known, "n_novel": int(targets.max()) + 1 - n_known, "ids_given": given},
    )


def _margins(features: np.ndarray, means: KMeansResult) -> np.ndarray:
    """Return (n,) float32: the cosine to the own centre less the largest one to another; 2 where there is no other."""
    centres = means.centres / np.maximum(np.linalg.norm(means.centres, axis=1, keepdims=True), 1e-12)
    cosines = features @ centres.T
    rows = np.arange(len(features))
    own = cosines[rows, means.labels].copy()
    cosines[rows, means.labels] = -np.inf
    margins: np.ndarray = np.minimum(own - cosines.max(axis=1), 2.0).astype(np.float32)
    return margins


_Found = tuple[np.ndarray, np.ndarray, KMeansResult]


def _targets(features: np.ndarray, points: Points, chosen: Any, split: bool, seed: int) -> _Found:
    """Return the targets (n,) that the roles of the cell's clusters give, on which points (n,) semi-supervised k-means agrees, and it."""
    codes = points.codes
    n_known = int(codes.max()) + 1
    targets = roles.of_clusters(chosen.labels, codes, n_known, points.share).role[chosen.labels]
    if not n_known and targets.max() < 0:  # nobody gave a label, and there are only scraps: they are one category
        targets = np.zeros(len(targets), np.int64)
    means = _means_from(features, targets, chosen.core_mask, codes, n_known, seed)
    if split and targets.max() >= n_known:

        def kmeans(part: np.ndarray, k: int) -> np.ndarray:
            nobody = np.zeros(len(part), bool)
            return semi_supervised_kmeans(part, np.zeros(len(part), np.int64), nobody, k, np.random.default_rng(seed), 3).labels

        targets = roles.split_novel(features, targets, np.bincount(means.labels, minlength=int(targets.max()) + 1), n_known, kmeans)
        means = _means_from(features, targets, chosen.core_mask, codes, n_known, seed)
    targets = np.where(codes >= 0, codes, targets)
    return targets, means.labels == targets, means


def _exactly(features: np.ndarray, found: _Found, core: np.ndarray, codes: np.ndarray, n_classes: int, seed: int) -> _Found:
    """Return `found` (targets, agreed, k-means) with `n_classes` targets in all: novel ones as semi-supervised k-means finds them.

    It starts at the novel targets, the largest ones where they are too many, and at k-means++ draws where they are too few.
    Raises UserError for fewer targets than labelled classes and for more than the unlabelled points can fill.
    """
    targets, _agreed, _means = found
    n_known, n_found = int(codes.max()) + 1, int(targets.max()) + 1
    if n_found == n_classes:
        return found
    free = codes < 0
    if not max(n_known, 1) <= n_classes <= n_known + int(free.sum()):
        room = f"{n_known} labelled classes and {int(free.sum())} unlabelled images that are clustered"
        raise UserError(f"n_classes = {n_classes} is no number of targets for {room}; give another, or auto")
    sizes = np.bincount(targets[targets >= n_known] - n_known, minlength=n_found - n_known)
    kept = np.argsort(-sizes, kind="stable")[: n_classes - n_known] + n_known
    centres = _centres(features, targets, core, np.concatenate([np.arange(n_known), kept]))
    centres = draw_centres(features[free], centres, n_classes - len(centres), np.random.default_rng(seed))[n_known:]
    rng = np.random.default_rng(seed)
    found_means = semi_supervised_kmeans(features, codes, codes >= 0, n_classes, rng, novel_centres=centres)
    means = found_means.labels
    exact = np.where((means >= n_known) | (targets >= n_known), means, targets)
    # A point that the cell gave to a known class, or to nothing, and k-means to a novel one, is not agreed upon.
    return exact, (means == exact) & ((targets >= n_known) | (targets == exact)), found_means


def _means_from(features: np.ndarray, targets: np.ndarray, core: np.ndarray, codes: np.ndarray, n_known: int, seed: int) -> KMeansResult:
    """Return the semi-supervised k-means (n,) whose novel clusters start at the mean core points of the novel targets."""
    start = _centres(features, targets, core, np.arange(n_known, int(targets.max()) + 1))
    rng = np.random.default_rng(seed)
    return semi_supervised_kmeans(features, codes, codes >= 0, n_known + len(start), rng, novel_centres=start)


def _centres(features: np.ndarray, targets: np.ndarray, core: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Return the means (len(which), d) of those targets' core points, of all their points where hardly any is core."""
    means = []
    for target in which:
        members = targets == target
        means.append(features[members & core if (members & core).sum() > 2 else members].mean(axis=0))
    return np.array(means, np.float32).reshape(-1, features.shape[1])


def _prototypes(features: np.ndarray, targets: np.ndarray, core: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return (K, d) L2-normalised means of each target's core and labelled points; all its points where neither exists."""
    believed = (core | (codes >= 0)) & (targets >= 0)
    prototypes = np.zeros((int(targets.max()) + 1, features.shape[1]), np.float32)
    for target in range(len(prototypes)):
        members = believed & (targets == target)
        mean = features[members if members.any() else targets == target].sum(axis=0)
        prototypes[target] = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return prototypes
