"""Posts read by a pretrained sentence encoder: locked and trained, keyed by contents, served without its folder."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pandas
import pytest
import torch

from core.serving import posts as serving
from core.stages.posts import features, materials, model, optimize
from core.training import state as states
from tests.core.models import tiny_sentences
from tests.core.stages.posts import tiny_posts
from tests.memory_run import MemoryRun


@pytest.fixture
def folder(tmp_path, work):
    return tiny_sentences.write(tmp_path / "encoder")


def options(folder, **more):
    return {"text_encoder_name": f"hf:{folder}", "context_length": 0, "head_lr": 0.01} | more


def test_a_locked_encoder_is_computed_once_and_its_head_learns(root, folder, tmp_path, monkeypatch):
    first = tiny_posts.fitted(root, tmp_path / "a", **options(folder, modality="text", lock_text=True, epochs=8))
    assert first.inputs["train"].text.shape == (36, 32)
    assert first.history[-1][1]["L_total"] < 0.8 * first.history[0][1]["L_total"]
    monkeypatch.setattr(features, "_memory", {})
    monkeypatch.setattr(features, "embed", lambda *_: pytest.fail("computed again"))
    again = tiny_posts.fitted(root, tmp_path / "b", **options(folder, modality="text", lock_text=True, head_variant="mlp"))
    assert torch.equal(first.inputs["train"].text, again.inputs["train"].text)


def test_a_trained_encoder_waits_and_then_learns(root, folder, tmp_path):
    given = options(folder, lock_image=True, epochs=2, freeze_epochs=1, lr=0.001, word_dropout=0.3)
    assert materials.is_pretrained(tiny_posts.config(root, **given), "text")
    whole = tiny_posts.fitted(root, tmp_path / "whole", **given)
    assert whole.net.text.digest() != whole.facts["towers"]["text"]
    tiny_posts.fitted(root, tmp_path / "parts", stop_after=1, **given)
    kept = states.load_checkpoint(tmp_path / "parts" / "checkpoints" / "epoch_0001.safetensors")
    assert not any(name.startswith("text.") for name in kept.model)
    assert tiny_posts.fitted(root, tmp_path / "parts", **given).digest() == whole.digest()


def test_weights_of_a_whole_clip_are_for_the_image_alone(root, folder, tmp_path):
    made = tiny_posts.config(root, image_encoder_name="clip:small-32x1", seed=5)
    from safetensors.torch import save_file

    state = {f"visual.{name}": value.clone() for name, value in materials.build_net(made).visual.state_dict().items()}
    save_file(state, tmp_path / "clip.safetensors")
    given = tiny_posts.config(root, image_encoder_name="clip:small-32x1", weights=str(tmp_path / "clip.safetensors"), **options(folder))
    assert materials.build_net(given).visual.digest() == materials.build_net(made).visual.digest()


def test_the_key_goes_by_the_files_and_not_by_their_place(root, folder, tmp_path):
    one = tiny_posts.config(root, **options(folder))
    shutil.copytree(folder, tmp_path / "moved")
    moved = dataclasses.replace(one, text_encoder_name=f"hf:{tmp_path / 'moved'}")
    assert optimize.key_of(one) == optimize.key_of(moved)
    (tmp_path / "moved" / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    assert optimize.key_of(one) != optimize.key_of(moved)
    tiny_sentences.write(tmp_path / "moved", seed=3)
    assert optimize.key_of(one) != optimize.key_of(moved)
    blind = [dataclasses.replace(other, modality="image") for other in (one, moved)]
    assert optimize.key_of(blind[0]) == optimize.key_of(blind[1])


def test_a_training_goes_on_where_the_folder_lies_elsewhere(root, folder, tmp_path):
    given = options(folder, lock_text=True, epochs=3)
    tiny_posts.fitted(root, tmp_path / "work", stop_after=1, **given)
    shutil.move(folder, tmp_path / "moved")
    rest = tiny_posts.fitted(root, tmp_path / "work", **given | {"text_encoder_name": f"hf:{tmp_path / 'moved'}"})
    assert rest.epoch == 1


@pytest.mark.parametrize("more", [{"lock_text": True}, {"freeze_epochs": 0, "lr": 0.001}], ids=["locked", "trained"])
def test_the_served_model_needs_no_folder(root, folder, tmp_path, monkeypatch, more):
    monkeypatch.setattr("core.stages.inputs.draw_curves", lambda *_: None)
    monkeypatch.setattr("core.tracking.stage.find_unfinished", lambda *_: None)
    monkeypatch.setattr("core.plots.figure.save", lambda _figure, path: path.write_bytes(b""))
    run = MemoryRun(tmp_path / "run")
    run.place.mkdir()
    optimize.train(tiny_posts.config(root, **options(folder, lock_image=True, **more)), run)
    shutil.rmtree(folder)
    assert sorted(path.name for path in (run.place / "predictor").iterdir()) == [
        *("model.json", "model.safetensors", "served.json", "tokenizer.json")
    ]
    assert "##a" not in (run.place / "predictor" / "model.json").read_text()
    served, rows = serving._load_pyfunc(str(run.place / "predictor")), tiny_posts.parts(root)["test"]
    table = pandas.DataFrame({"image": [str(path) for path in rows.image_paths], "text": rows.texts})
    told = pandas.read_csv(run.place / "evaluation" / "test" / "predictions.csv")
    answers = served.predict(table)
    assert [answer["class"] for answer in answers] == told["predicted"].tolist()
    np.testing.assert_allclose([answer["confidence"] for answer in answers], told["confidence"], atol=1e-5)
    again = model.open_predictor(str(run.place / "predictor"))
    np.testing.assert_allclose(
        again.probabilities(rows.texts, model.images_of(rows, 16)),
        served.predictor.probabilities(rows.texts, model.images_of(rows, 16)),
    )
