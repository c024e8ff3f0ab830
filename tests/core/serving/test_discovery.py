"""A served model answers as the offline prediction does, whatever way an image comes, and its folder holds no pickle."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from core.clustering.kmeans import assign, confidences
from core.data.images import ArrayImages
from core.data.views import ViewSpec, evaluation_view, resize_all
from core.errors import UserError
from core.models import backbones
from core.models.discovery import DiscoveryModel
from core.models.fast_trunk import FastTrunk
from core.models.heads import ProjectionHead
from core.serving import discovery as serving
from core.serving.images import decode

SPEC = ViewSpec(image_size=12, resize=14, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
CLUSTERS = [{"name": "bar", "known": True}, {"name": "dot", "known": True}, {"name": "novel 1", "known": False}]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 20, 20, 3), dtype=np.uint8)


def model(name: str = "small_cnn", size: int = 12, block: int = 1) -> DiscoveryModel:
    backbone = backbones.build(name, size, block, pretrained=False, seed=3)
    if backbone.trunk_digest:
        backbone.trunk = FastTrunk(backbone.trunk, torch.linspace(-2, 2, 6 * size**2).view(2, 3, size, size))
    return DiscoveryModel(backbone, ProjectionHead(backbone.feature_dim, 8, 4, 4, seed=1)).eval()


@torch.no_grad()
def features(made: DiscoveryModel, spec: ViewSpec) -> torch.Tensor:
    """Return the L2-normalised evaluation features of the pictures, as a training reports them."""
    views = evaluation_view(resize_all(ArrayImages(pixels()), spec).batch(np.arange(6)), spec)
    return torch.nn.functional.normalize(made.features(made.trunk(views)), dim=1)


def write(folder, made: DiscoveryModel, spec: ViewSpec = SPEC, name: str = "small_cnn", block: int = 1) -> np.ndarray:
    """Write a served model whose centres are three of its own features; return them."""
    centres = features(made, spec)[:3].numpy()
    serving.write(folder, made, spec, centres, {"model_name": name, "grad_from_block": block, "clusters": CLUSTERS})
    return centres


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def ways(tmp_path) -> dict[str, list]:
    """Return the pictures as base64 text, bytes and paths."""
    files = [png(picture) for picture in pixels()]
    for i, content in enumerate(files):
        (tmp_path / f"{i}.png").write_bytes(content)
    return {
        "base64": [base64.b64encode(content).decode() for content in files],
        "bytes": files,
        "path": [str(tmp_path / f"{i}.png") for i in range(len(files))],
    }


def agrees(answers: list[dict], made: DiscoveryModel, centres: np.ndarray, spec: ViewSpec = SPEC) -> None:
    """Assert that the answers are those of the model's own features and the centres."""
    shares = (features(made, spec) @ torch.nn.functional.normalize(torch.from_numpy(centres), dim=1).T / 0.1).softmax(dim=1)
    for answer, row in zip(answers, shares, strict=True):
        best = int(row.argmax())
        assert answer["cluster"] == best and answer["confidence"] == pytest.approx(float(row[best]), abs=1e-4)
        assert {"name": answer["class"], "known": answer["known"]} == CLUSTERS[best]


@pytest.mark.parametrize("way", ["base64", "bytes", "path"])
@pytest.mark.parametrize("block", [0, 1, 2])
def test_answers_are_those_of_the_trained_model(tmp_path, way, block):
    made = model(block=block)
    centres = write(tmp_path / "served", made, block=block)
    answers = serving.DiscoveryPredictor(tmp_path / "served").predict(pandas.DataFrame({"image": ways(tmp_path)[way]}))
    agrees(answers, made, centres)
    assert [answer["cluster"] for answer in answers[:3]] == [0, 1, 2]


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_folded_trunk_with_batch_norm_serves_the_same(tmp_path, mode):
    spec = ViewSpec(image_size=32, resize=36)
    made = model("resnet10t", 32, 3)
    assert made.trunk.folded
    centres = write(tmp_path / "served", made, spec, "resnet10t", 3)
    getattr(made, mode)()
    answers = serving.DiscoveryPredictor(tmp_path / "served").predict(pandas.DataFrame({"image": ways(tmp_path)["bytes"]}))
    agrees(answers, made.eval(), centres, spec)


def test_served_clusters_are_the_evaluations_even_where_centres_differ_in_length(tmp_path):
    made = model()
    found = features(made, SPEC).numpy()
    # The shorter centre is nearer in angle to some, the longer one in distance.
    centres = np.stack([found[0] * 0.2, found[1], found[2] * 0.6])
    about = {"model_name": "small_cnn", "grad_from_block": 1, "clusters": CLUSTERS}
    serving.write(tmp_path / "served", made, SPEC, centres, about)
    answers = serving.DiscoveryPredictor(tmp_path / "served").predict(pandas.DataFrame({"image": ways(tmp_path)["bytes"]}))
    wanted = assign(found, centres)
    by_angle = (found @ centres.T / np.linalg.norm(centres, axis=1)).argmax(axis=1)
    assert [answer["cluster"] for answer in answers] == wanted.tolist() != by_angle.tolist()
    shares = confidences(found, centres)
    assert [answer["confidence"] for answer in answers] == pytest.approx(shares[np.arange(6), wanted].tolist(), abs=1e-4)
    assert np.array_equal(shares.argmax(axis=1), wanted)


def test_the_folder_holds_tensors_and_json_and_no_pickle(tmp_path):
    write(tmp_path / "served", model())
    assert sorted(path.name for path in (tmp_path / "served").iterdir()) == ["model.json", "model.safetensors"]
    about = json.loads((tmp_path / "served" / "model.json").read_text())
    prepared = {"image_size": 12, "resize": 14, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}
    assert about["views"] == {**prepared, "interpolation": "bicubic", "resize_mode": "shortest"}
    names = load_file(tmp_path / "served" / "model.safetensors").keys()
    assert "centres" in names and {name.split(".")[0] for name in names} == {"trunk", "tail", "centres"}


def test_the_loader_of_mlflow_reads_the_folder(tmp_path):
    write(tmp_path / "served", model())
    assert isinstance(serving._load_pyfunc(str(tmp_path / "served")), serving.DiscoveryPredictor)


def test_an_empty_table_has_no_answers(tmp_path):
    write(tmp_path / "served", model())
    assert serving.DiscoveryPredictor(tmp_path / "served").predict(pandas.DataFrame({"image": []})) == []


def test_grey_and_transparent_pictures_are_taken_as_rgb():
    grey = png(pixels()[0][..., 0])
    transparent = png(np.dstack([pixels()[0], np.full((20, 20), 128, np.uint8)]))
    assert decode(grey).shape == (20, 20, 3) == decode(transparent).shape


def test_a_picture_is_turned_upright_as_in_training():
    image, buffer = Image.fromarray(np.arange(20 * 30 * 3, dtype=np.uint32).reshape(20, 30, 3).astype(np.uint8)), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(buffer, format="PNG", exif=exif)
    assert decode(buffer.getvalue()).shape == (30, 20, 3)


@pytest.mark.parametrize(
    "value",
    [
        "not an image",
        base64.b64encode(b"text").decode(),
        b"text",
        "",
        b"",
        "/nowhere/x.png",
        png(pixels()[0])[:60],
        png(pixels()[0])[:-300],
        "x" * 5000,
        "\0",
    ],
)
def test_what_is_no_image_is_refused_in_one_line(value):
    with pytest.raises(UserError) as error:
        decode(value)
    assert "neither an image file nor base64" in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_text_file_or_a_folder_is_no_image(tmp_path):
    (tmp_path / "x.png").write_text("text")
    for path in (tmp_path / "x.png", tmp_path):
        with pytest.raises(UserError, match="neither an image file"):
            decode(str(path))
