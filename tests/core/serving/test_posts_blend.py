"""A blend answers by its members' probabilities: written, read back, and refused where it is not whole."""

from __future__ import annotations

import json

import numpy as np
import pytest

from core.errors import UserError
from core.models.blend import Blend
from core.serving import posts as serving
from core.serving.posts_blend import BlendPredictor
from core.stages.posts import materials, model, reference
from tests.core.stages.posts import tiny_posts


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a blend, and posts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAXON_CACHE", str(tmp_path_factory.mktemp("cache")))
        root = tiny_posts.write(tmp_path_factory.mktemp("posts") / "root")
        towers = tiny_posts.fitted(root, tmp_path_factory.mktemp("work"), epochs=1).predictor()
        config = tiny_posts.config(root, encoder="tfidf", min_count=1)
        rows = tiny_posts.parts(root)
        ngrams = reference.fit(config, materials.gather(config, rows)).predictor
    return BlendPredictor(
        towers, ngrams, Blend(np.array([1.0, 0.5, 0.2]), np.array([0.1, 0.2, -0.3])), towers.about | {"encoder": "blend"}
    ), rows["test"]


def test_it_is_the_pool_of_its_members_and_comes_back_the_same(made, tmp_path):
    blend, rows = made
    images = model.images_of(rows, 16)
    found = blend.probabilities(rows.texts, images)
    logs = [np.log(blend.towers.probabilities(rows.texts, images)), *map(np.log, blend.ngrams.by_side(rows.texts, images))]
    plain = np.exp(logs[0] + 0.5 * logs[1] + 0.2 * logs[2] + [0.1, 0.2, -0.3])
    np.testing.assert_allclose(found, plain / plain.sum(axis=1, keepdims=True), rtol=1e-9)
    serving.write(tmp_path / "blend", blend)
    again = serving.read(tmp_path / "blend")
    assert isinstance(again, BlendPredictor) and again.needs_images and again.preprocessing == blend.preprocessing
    np.testing.assert_allclose(again.probabilities(rows.texts, images), found, rtol=1e-6)
    assert blend.probabilities([], np.zeros((0, 3, 16, 16), np.uint8)).shape == (0, 3)


def test_a_member_of_another_kind_or_none_is_refused(made, tmp_path):
    serving.write(tmp_path / "blend", made[0])
    about = tmp_path / "blend" / "ngrams" / "model.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"encoder": "towers"}))
    with pytest.raises((UserError, KeyError)):
        serving.read(tmp_path / "blend")
    about.unlink()
    with pytest.raises(UserError, match="ngrams' holds no whole post classifier"):
        serving.read(tmp_path / "blend")
