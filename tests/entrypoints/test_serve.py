"""`mlflow models serve` answers over HTTP as the model does offline; what cannot be answered or served is one line."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from torch import nn

from core.data.views import ViewSpec
from core.errors import UserError
from core.models import backbones
from core.models.classifiers import Classifier, linear_head
from core.models.clip import build_towers
from core.models.clip_sentences import SentenceClip
from core.serving import classifier, clip, discovery, posts
from core.stages.classifier import COLUMNS
from core.stages.discovery import register as discovery_register
from core.stages.posts import materials
from core.stages.posts import register as posts_register
from core.stages.posts.config import OptimizeClipConfig
from core.tracking import registry, served, uri
from core.tracking import run as tracking
from tests.core.stages import registered, tiny
from tests.entrypoints.place import GUARD, kill_group

pytestmark = pytest.mark.slow


def write_discovery(folder: Path, images: Path) -> None:
    registered.write(folder, images)


def write_longtail(folder: Path, images: Path) -> None:
    backbone = backbones.build("small_cnn", 12, 0, pretrained=False, seed=3)
    model = Classifier(backbone.tail, backbone.feature_dim, nn.ModuleDict({"label": linear_head(backbone.feature_dim, 4, 1)}))
    spec = ViewSpec(image_size=12, resize=14)
    classifier.write(folder, model.eval(), spec, {"backbone": "small_cnn", "class_names": list(tiny.CLASSES)})


@dataclasses.dataclass(frozen=True)
class Family:
    """How a family's tiny model is written, loaded and asked."""

    module: Any
    columns: Any
    write: Callable[[Path, Path], None]


@torch.no_grad()
def write_clip(folder: Path, images: Path) -> None:
    names = {"image_encoder_name": "small_cnn", "embed_dim": 16}
    towers = build_towers(**names, text_encoder_name="clip:small-32x1", image_size=16, context_length=8, seed=3)
    model = SentenceClip(towers, towers.tokenizer([f"a {name}" for name in tiny.CLASSES]).ids, torch.arange(len(tiny.CLASSES)))
    about = names | {"image_pretrained": "", "class_names": list(tiny.CLASSES)}
    clip.write(folder, model.eval(), ViewSpec(image_size=16, resize=18), about)


def write_posts(folder: Path, images: Path) -> None:
    config = OptimizeClipConfig(
        image_encoder_name="small_cnn", text_encoder_name="clip:small-32x1", context_length=8, embed_dim=16, image_size=16
    )
    net = materials.build_net(config)
    about = {"encoder": "towers", "modalities": "both", "head_variant": "base", "cleaning": "light", "image_size": 16}
    about |= {"class_names": ["negative", "neutral", "positive"], "build": materials.build_arguments(config)}
    posts.write(folder, posts.TowersPredictor(net, about))


FAMILIES = {
    "discovery": Family(discovery, discovery_register.COLUMNS, write_discovery),
    "longtail": Family(classifier, COLUMNS, write_longtail),
    "clip": Family(clip, COLUMNS, write_clip),
    "posts": Family(posts, posts_register.COLUMNS, write_posts),
}


@dataclasses.dataclass
class Served:
    """A registered champion: its name, the folder it was made from, where the store keeps it, and the environment of commands."""

    name: str
    data: Path
    stored: Path
    rows: list[dict[str, str]]
    family: Family
    env: dict[str, str]


def row(picture: np.ndarray) -> dict[str, str]:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return {"image": base64.b64encode(buffer.getvalue()).decode()}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, make_place) -> Served:
    """Return a family's tiny model as the champion of a store of its own."""
    place, family = make_place(f"serve_{request.param}"), FAMILIES[request.param]
    images = tiny.make_images(place.folder / "glyphs")
    family.write(place.folder / "data", images)
    rng = np.random.default_rng(7)
    rows = [row(tiny.glyph(name, rng)) for name in tiny.CLASSES]
    if "text" in family.columns[0]:
        rows = [one | {"text": f"{name} :) http://t.co/1"} for one, name in zip(rows, tiny.CLASSES, strict=True)]
    name = registry.model_name(request.param, "glyphs")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("MLFLOW_TRACKING_URI", "TAXON_CACHE"):
            patch.setenv(variable, place.env[variable])
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        with tracking.open_run("test", "serve") as run:
            example = pandas.DataFrame(rows[:1])
            shutil.copytree(place.folder / "data", place.folder / "sealed")
            loader = family.module.__name__
            version = registry.register(run, name, place.folder / "sealed", loader, family.columns, example, {}, {}).rsplit("/", 1)[1]
        place.client.set_registered_model_alias(name, "champion", version)
    source = place.client.get_model_version(name, version).source.removeprefix("models:/")
    stored = Path(place.client.get_logged_model(source).artifact_location.removeprefix("file://"))
    return Served(name, place.folder / "data", stored, rows, family, place.env)


def serve_command(model: Served, port: int) -> list[str]:
    words = ["models", "serve", "-m", f"models:/{model.name}@champion", "--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    return [sys.executable, "-m", "mlflow", *words]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def server(model: Served, folder: Path) -> Iterator[str]:
    """Serve a model; yield its address once it answers."""
    port = free_port()
    env = {name: value for name, value in model.env.items() if name != "TAXON_SERVE_IMAGES"}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(serve_command(model, port), cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + GUARD
        while not pings(address):
            assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            kill_group(process)


def pings(address: str) -> bool:
    try:
        return urllib.request.urlopen(f"{address}/ping", timeout=5).status == 200
    except OSError:
        return False


def post(address: str, body: Any) -> tuple[int, Any]:
    """Send a request; return the status and what was answered, JSON where it is."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/invocations", content, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=GUARD) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_request_is_answered_as_offline_and_a_wrong_one_in_one_line(model, tmp_path):
    threads = torch.get_num_threads()
    offline = model.family.module._load_pyfunc(str(model.data)).predict(pandas.DataFrame(model.rows))
    assert torch.get_num_threads() == threads and len(offline) == len(tiny.CLASSES)
    with server(model, tmp_path) as address:
        status, answer = post(address, {"dataframe_records": model.rows})
        assert status == 200 and [{**a, "confidence": 0} for a in answer["predictions"]] == [{**a, "confidence": 0} for a in offline]
        for mine, theirs in zip(answer["predictions"], offline, strict=True):
            assert mine["confidence"] == pytest.approx(theirs["confidence"], abs=1e-6)
        bad = model.rows[0] | {"image": "not an image"}
        status, mixed = post(address, {"dataframe_records": [model.rows[0], bad, *model.rows[1:]], "params": {"top_k": 2}})
        assert status == 200 and len(mixed["predictions"]) == len(model.rows) + 1
        assert mixed["predictions"][1]["class"] is None and "neither an image file" in mixed["predictions"][1]["error"]
        for found in (mixed["predictions"][0], *mixed["predictions"][2:]):
            assert found["error"] is None and len(found["top_k"]) == 2
        (tmp_path / "a.png").write_bytes(base64.b64decode(model.rows[0]["image"]))
        for value in (str(tmp_path / "a.png"), "not an image", base64.b64encode(b"text").decode(), "/etc/passwd"):
            status, said = post(address, {"dataframe_records": [{**model.rows[0], "image": value}]})
            assert status == 400 and "neither an image file nor base64" in json.loads(said)["message"]
            assert "\n" not in json.loads(said)["message"] and "Traceback" not in said and len(said) < 500
        for body in ({"dataframe_records": [{"picture": "x"}]}, {"rows": []}, b"{", b"\xff\xfe"):
            status, said = post(address, body)
            assert 400 <= status < 500 and "\n" not in said.strip(), said
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("model", ["longtail"], indirect=True)  # the same for every family
def test_a_damaged_model_is_not_served_and_the_file_is_named(model, tmp_path):
    weights = model.stored / "data" / "sealed" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    try:
        done = subprocess.run(serve_command(model, free_port()), cwd=tmp_path, env=model.env, capture_output=True, text=True, timeout=GUARD)
    finally:
        weights.write_bytes(whole)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "taxon: error:" in line]
    expected = f"taxon: error: this model is damaged: model.safetensors is not the file that was registered; {served.REMEDY}"
    assert done.returncode != 0 and said == [expected], done.stderr


LOAD = """
import pathlib, sys, mlflow.pyfunc
weights = pathlib.Path(sys.argv[2])
whole = weights.read_bytes()
for damage in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1]), None):
    weights.unlink()
    if damage is not None:
        weights.write_bytes(damage)
    try:
        mlflow.pyfunc.load_model(sys.argv[1])
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
    weights.write_bytes(whole)
"""


def test_damaged_weights_are_not_loaded_and_the_file_is_named(model, tmp_path):
    weights = model.stored / "data" / "sealed" / "model.safetensors"
    words = [sys.executable, "-c", LOAD, f"models:/{model.name}@champion", str(weights)]
    done = subprocess.run(words, cwd=tmp_path, env=model.env, capture_output=True, text=True, timeout=GUARD)
    changed = "UserError: this model is damaged: model.safetensors is not the file that was registered; "
    missing = changed.replace("not the file that was registered", "missing")
    assert done.stdout.splitlines() == [f"{line}{served.REMEDY}" for line in (changed, changed, missing)], done.stderr


@pytest.mark.parametrize("model", ["longtail"], indirect=True)  # the same for every family
def test_an_alias_that_nobody_holds_is_one_line(model, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", model.env["MLFLOW_TRACKING_URI"])
    with pytest.raises(UserError, match=r"model_path = 'models:/.*@winner' cannot be read") as error:
        uri.resolve(f"models:/{model.name}@winner", "model_path")
    assert "\n" not in str(error.value)
