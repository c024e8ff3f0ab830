"""Pseudo labels of one refresh: what clustering hands to training, and its file.

The file is an npz without pickles: `ids` (U), `indices`, `labels`, `core_mask`, `agreed_mask`, `densities`, `prototypes`, and JSON texts
`best_params` and `metadata`.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.clustering.kmeans import semi_supervised_kmeans
from core.clustering.matching import match
from core.errors import UserError


@dataclass(frozen=True)
class PseudoLabels:
    """Cluster labels of training images.

    Attributes:
        indices: (n,) training indices, labelled and unlabelled ones (held-out images never take part).
        ids: (n,) image ids.
        labels: (n,) cluster ids, the same identities from refresh to refresh.
        core_mask: (n,) SSDDBC's core points.
        agreed_mask: (n,) points on which the clusterings agree.
        densities: (n,) relative densities.
        prototypes: (K, d) L2-normalised mean features of each cluster's core points, by cluster id; zero rows for unused ids.
        best_params: the chosen cell: k, density_percentile.
        metadata: score, counts, and digests of data, split, features and model.
    """

    indices: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    core_mask: np.ndarray
    agreed_mask: np.ndarray
    densities: np.ndarray
    prototypes: np.ndarray
    best_params: dict[str, Any]
    metadata: dict[str, Any]

    def taking_part(self, points: str) -> np.ndarray:
        """Return the (n,) mask of `core`, `agreed` or `all` points."""
        return {"core": self.core_mask, "agreed": self.agreed_mask, "all": np.ones(len(self.labels), bool)}[points]


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
        core_mask=pseudo.core_mask,
        agreed_mask=pseudo.agreed_mask,
        densities=pseudo.densities,
        prototypes=pseudo.prototypes,
        best_params=np.array(json.dumps(pseudo.best_params, sort_keys=True)),
        metadata=np.array(json.dumps(pseudo.metadata, sort_keys=True)),
    )


def read(path: Path) -> PseudoLabels:
    """Read the npz; raise UserError when it is damaged, holds a pickle, or is something else."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        texts = {name: json.loads(str(arrays.pop(name))) for name in ("best_params", "metadata")}
        return PseudoLabels(**arrays, **texts)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"pseudo labels '{path}' cannot be read ({str(error).splitlines()[0][:80]}); give an .npz that offline_ssddbc_superclass wrote"
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
    features = features - features.mean(axis=0)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def build(features: np.ndarray, labels: np.ndarray, best: Any, previous: PseudoLabels | None, metadata: dict[str, Any]) -> PseudoLabels:
    """Turn the chosen cell into pseudo labels.

    Args:
        features: (n, d) L2-normalised features of the images that take part.
        labels: (n,) class of labelled images, -1 elsewhere.
        best: the chosen cell (core.clustering.grid.Best).
        previous: the refresh before, over the same images; its cluster identities are kept.
        metadata: where the labels come from.
    """
    clusters = best.labels if previous is None else match(previous.labels, best.labels)
    mask = labels >= 0
    known = {cluster: cluster for cluster in np.unique(clusters)}
    n_clusters = max(len(known), len(np.unique(labels[mask])))
    means = semi_supervised_kmeans(features, labels, mask, n_clusters, np.random.default_rng(metadata["seed"]))
    agreed = best.core_mask & (match(clusters, means.labels) == clusters)
    prototypes = np.zeros((int(clusters.max()) + 1, features.shape[1]), np.float32)
    for cluster in known:
        mean = features[best.core_mask & (clusters == cluster)].sum(axis=0)
        prototypes[cluster] = mean / max(np.linalg.norm(mean), 1e-12)
    params = {"k": int(best.k), "density_percentile": int(best.density_percentile)}
    nothing = np.zeros(len(labels), np.int64)
    return PseudoLabels(nothing, nothing.astype(np.str_), clusters, best.core_mask, agreed, best.densities, prototypes, params, metadata)
