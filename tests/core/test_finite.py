"""NaN and infinity in features stop whatever would compute from them, in one line that says where they are."""

import numpy as np
import pytest
import torch

from core.clustering.grid import search
from core.clustering.kmeans import assign, semi_supervised_kmeans
from core.clustering.ssddbc import cluster
from core.data.images import ArrayImages
from core.data.views import ViewSpec, resize_all
from core.errors import UserError
from core.evaluation.features import FeatureExtractor
from core.evaluation.selection import silhouette
from core.finite import require_finite

NOBODY, LABELS = np.zeros(12, bool), np.arange(12) % 2
CENTRES = np.eye(3)[:2]


def features(value=np.nan):
    made = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    made[7, 1] = value
    return made


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "use",
    [
        lambda x: semi_supervised_kmeans(x, LABELS, NOBODY, 2, np.random.default_rng(0)),
        lambda x: semi_supervised_kmeans(x, LABELS, ~NOBODY, 2, np.random.default_rng(0)),
        lambda x: assign(x, CENTRES),
        lambda x: cluster(x, LABELS, NOBODY, 3, 50),
        lambda x: search(x, LABELS, NOBODY, [3], [50]),
        lambda x: silhouette(x, LABELS),
        lambda x: require_finite(x, "features", "mend them"),
    ],
    ids=["k-means", "labelled k-means", "assign", "ssddbc", "grid", "silhouette", "helper"],
)
def test_features_that_are_not_finite_are_refused_wherever_they_are_used(use, value):
    with pytest.raises(UserError, match=r"NaN or infinity in 1 of 12 rows \(the first is 7\); .*") as error:
        use(features(value))
    assert "\n" not in str(error.value)


def test_centres_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="the cluster centres hold NaN"):
        assign(CENTRES, np.array([[np.nan, 0, 0], [1, 0, 0]]))


def test_opposite_infinities_and_huge_values_are_told_apart():
    require_finite(np.full((3, 4), 1e308), "huge values", "leave them")
    with pytest.raises(UserError, match="2 of 3 rows"):
        require_finite(np.array([[np.inf, -np.inf], [0, 1], [1, np.nan]]), "features", "mend them")


class Broken(torch.nn.Module):
    """A model whose trunk divides by zero."""

    feature_dim = 4

    def trunk(self, views):
        return views.mean(dim=(2, 3))

    def features(self, output):
        return output / 0 * 0


def test_a_model_that_gives_no_numbers_is_found_at_its_first_features():
    spec = ViewSpec(image_size=8, resize=8)
    pixels = np.zeros((5, 8, 8, 3), np.uint8)
    extractor = FeatureExtractor(resize_all(ArrayImages(pixels), spec), spec, torch.device("cpu"), torch.inference_mode)
    with pytest.raises(UserError, match=r"that the model gives hold NaN or infinity in 5 of 5 rows .* diverged"):
        extractor.extract(Broken())
