"""A registered SuperCLIP classifier answers as the trained model did, without its text tower."""

import base64
import json

import numpy as np
import pandas
import pytest
from scipy.special import softmax

from core.errors import UserError
from core.serving import clip as serving
from tests.core.stages.clip import tiny_clip


@pytest.fixture(params=["small_cnn", "resnet10t", "clip:small-64x1"])
def trained(request, tmp_path, monkeypatch, tmp_path_factory):
    images = tiny_clip.make_images(tmp_path_factory.mktemp("served") / "glyphs")
    place = tiny_clip.Workplace(tmp_path, monkeypatch, images)
    return place.fitted(image_encoder_name=request.param, img_size=32, epochs=1, use_superclip_loss=True)


def write(training, folder):
    c = training.config
    about = {name: getattr(c, name) for name in ("image_encoder_name", "image_pretrained", "embed_dim")}
    serving.write(folder, training.task.model, training.m.spec, about | {"class_names": list(training.m.data.class_names)})
    return folder


def test_it_answers_what_the_training_scored(trained, tmp_path):
    predictor = serving._load_pyfunc(str(write(trained, tmp_path / "model")))
    test = trained.m.data.test
    expected = softmax(trained.m.logits(trained.task.model, "test").astype(np.float64), axis=1)
    paths = [str(path) for path in test.source.paths]
    encoded = [base64.b64encode(path.read_bytes()).decode() for path in test.source.paths]
    for values in (paths, encoded):
        answers = predictor.predict(pandas.DataFrame({"image": values}))
        assert [a["class"] for a in answers] == [trained.m.data.class_names[i] for i in expected.argmax(axis=1)]
        assert [a["confidence"] for a in answers] == pytest.approx(expected.max(axis=1).tolist(), abs=1e-4)


def test_no_text_tower_is_stored_and_the_mode_stays(trained, tmp_path):
    trained.task.model.train()
    folder = write(trained, tmp_path / "model")
    assert trained.task.model.training
    text = sum(p.nbytes for p in trained.task.model.towers.text.parameters())
    whole = sum(p.nbytes for p in trained.task.model.parameters())
    assert (folder / "model.safetensors").stat().st_size < whole - text + 100_000
    assert json.loads((folder / "model.json").read_text())["class_names"] == ["bar", "cross", "dot", "ring"]


def test_what_is_no_image_is_refused(trained, tmp_path):
    predictor = serving._load_pyfunc(str(write(trained, tmp_path / "model")))
    with pytest.raises(UserError, match="neither an image file nor base64"):
        predictor.predict(pandas.DataFrame({"image": ["nothing"]}))
