"""The feature stage: every option does what it says, on the checkpoint of a tiny training."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from core.data import cifar100, folders
from core.evaluation.features import FeatureExtractor
from core.stages.discovery import cache, feature_files, materials, rebuild
from core.stages.discovery.config import CacheConfig
from core.tracking import stage
from tests.core.stages import tiny
from tests.core.stages.tiny import refused


@pytest.fixture
def extract(place, shared):
    """Return extract(**options): the run of a feature extraction."""

    def made(**options):
        run = place.run()
        with run.ended:
            cache.run(CacheConfig(**{"gpu": "cpu", "model_path": str(shared[0])} | options), run)
        return run

    return made


def arrays(run) -> dict[str, np.ndarray]:
    return load_file(run.place / "features" / "features.safetensors")


def about(run) -> dict:
    return json.loads((run.place / "features" / "features.json").read_text())


def test_features_are_those_of_the_training_itself(extract, shared):
    run = extract()
    np.testing.assert_allclose(arrays(run)["features"], load_file(shared[0] / "features" / "features.safetensors")["features"], atol=1e-5)
    facts = about(run)
    assert facts["weights_digest"] == shared[1]["weights_digest"] and facts["transform"]["kind"] == "evaluation"
    assert facts["counts"] == {"labelled": 32, "validation": 4, "unlabelled": 24, "test": 20} and len(set(facts["ids"])) == 80


@pytest.mark.parametrize("use_l2", [True, False])
def test_rows_have_unit_length_where_asked(extract, use_l2):
    run = extract(use_l2=use_l2)
    norms = np.linalg.norm(arrays(run)["features"], axis=1)
    assert np.allclose(norms, 1, atol=1e-5) == use_l2 and about(run)["l2_normalised"] == use_l2


def test_a_finished_extraction_is_reused_unless_overwritten(extract, monkeypatch):
    first = extract()
    monkeypatch.setattr(stage, "find_finished", lambda key: stage.Finished("old", first.place, {}, {}))
    monkeypatch.setattr(stage, "told", lambda run_id: {"taxon.data": "glyphs"})
    calls = []
    made = cache.extract
    monkeypatch.setattr(cache, "extract", lambda *args: calls.append(1) or made(*args))
    reused = extract()
    assert not calls and reused.tagged["taxon.reused"] == "old" and np.array_equal(arrays(reused)["features"], arrays(first)["features"])
    again = extract(overwrite=True)
    assert calls == [1] and "taxon.reused" not in again.tagged


def test_the_key_holds_what_changes_the_features(extract):
    keys = [extract(**options).tagged[stage.KEY_TAG] for options in ({}, {"num_workers": 3}, {"use_l2": False}, {"precision": "bf16"})]
    assert keys[0] == keys[1] and len(set(keys)) == 3


def test_the_best_checkpoint_of_these_images_is_found(extract, place, shared, monkeypatch):
    """By what is in the folder: another one of the same name, or another novel class, is another training."""
    asked = []
    monkeypatch.setattr(stage, "best_checkpoint", lambda images, drawn: asked.append((images, drawn)) or str(shared[0]))
    folder = {"auto_find_best": True, "model_path": "", "dataset": "folder", "data_root": str(place.images)}
    run = extract(**folder)
    data = materials.posed(tiny.config(place.images)).data
    assert asked == [(data.images_digest, {})] and about(run)["weights_digest"] == shared[1]["weights_digest"]
    monkeypatch.setattr(stage, "best_checkpoint", lambda images, drawn: asked.append((images, drawn)) or "")
    other = tiny.make_images(place.images.parent / "other" / place.images.name, seed=5)
    said = refused(lambda: extract(**folder | {"data_root": str(other)}, seed=3, novel_classes="dot", val_fraction=0.2))
    assert "no finished training of these images" in said
    assert asked[-1] == (folders.load(other).images_digest, {"seed": 3, "val_fraction": 0.2, "novel": ["dot"]})
    assert asked[-1][0] != asked[0][0] and folders.load(place.images).images_digest == data.images_digest


def test_every_superclass_with_a_training_is_looked_for(extract, monkeypatch):
    asked = []
    monkeypatch.setattr(stage, "trained_data", lambda: {"cifar100/trees", "digits"})
    monkeypatch.setattr(cache, "_best_uri", lambda config: asked.append(config.superclass_name) or "")
    assert "no finished training of a superclass" in refused(lambda: extract(all_superclasses=True))
    assert asked == ["trees"]


def test_a_training_says_on_which_images_and_with_which_novel_classes_it_was(place):
    _summary, run = place.publish()
    data = materials.posed(tiny.config(place.images)).data
    drawn = json.loads(run.tagged["taxon.split"])
    assert run.tagged["taxon.images"] == data.images_digest and run.tagged["taxon.data_digest"] == data.digest
    assert drawn["novel"] == ["ring"] and set(drawn) == {*materials.SPLIT_OPTIONS, "novel"}


@pytest.mark.parametrize("given", ["", "nowhere", "folder"])
def test_a_checkpoint_has_to_be_given(extract, tmp_path, given):
    path = str(tmp_path) if given == "folder" else given
    assert "model_path" in refused(lambda: extract(model_path=path))


def test_a_file_a_folder_and_a_run_mean_the_same_checkpoint(extract, shared):
    folder = shared[0]
    for path in (folder, folder / "checkpoints", folder / shared[1]["checkpoint"]):
        assert about(extract(model_path=str(path)))["weights_digest"] == shared[1]["weights_digest"]


def test_another_image_size_is_another_view(extract):
    assert about(extract(image_size=16))["transform"]["image_size"] == 16
    assert about(extract())["transform"]["image_size"] == 12


def opened(shared, **options):
    return rebuild.open_checkpoint(str(shared[0]), "model_path", CacheConfig(**{"gpu": "cpu"} | options))


def test_the_machine_options_reach_the_extraction(extract, monkeypatch):
    seen, made = [], FeatureExtractor.__init__

    def spy(self, *args, **options):
        made(self, *args, **options)
        seen.append((self.batch_size, self.num_workers))

    monkeypatch.setattr(FeatureExtractor, "__init__", spy)
    extract(batch_size=7, num_workers=1)
    extract()
    assert seen[:2] == [(7, 1)] * 2 and seen[2:] == [(256, 4)] * 2


def test_number_format_and_threads_are_those_given_else_the_training_s(extract, monkeypatch, shared):
    formats = []
    extractor = FeatureExtractor.extract

    def spy(self, model):
        model.tail.register_forward_hook(lambda *_: formats.append(torch.is_autocast_enabled("cpu")))
        return extractor(self, model)

    monkeypatch.setattr(FeatureExtractor, "extract", spy)
    extract(precision="bf16")
    assert set(formats) == {True}
    assert opened(shared, threads=2).config.threads == 2 and opened(shared).config.threads == 1
    assert opened(shared).config.precision == "fp32"


def test_downloads_are_allowed_by_this_command_not_by_the_training(shared):
    assert not opened(shared, download=False).config.download and opened(shared).config.download
    assert cifar100.load_superclass  # what the option acts on is tested with the data set


def test_images_may_have_moved_but_not_changed(extract, place, tmp_path):
    moved = tiny.make_images(tmp_path / "elsewhere" / "glyphs")
    assert about(extract(data_root=str(moved)))["counts"]["test"] == 20
    changed = tiny.make_images(tmp_path / "changed" / "glyphs", seed=3)
    assert "data_digest differs" in refused(lambda: extract(data_root=str(changed)))


@pytest.mark.parametrize("options", [{"seed": 4}, {"prop_train_labels": 0.5}, {"novel_classes": "dot"}, {"dataset": "digits"}])
def test_options_that_contradict_the_checkpoint_are_refused(extract, options):
    (name,) = options
    assert name in refused(lambda: extract(**options))


def test_the_frozen_backbone_has_to_be_the_one_trained_with(place, monkeypatch):
    summary, run = place.publish(grad_from_block=2, epochs=1)
    trained = rebuild.open_checkpoint(str(run.place), "model_path", CacheConfig(gpu="cpu"))
    other = dataclasses.replace(trained, config=dataclasses.replace(trained.config, seed=9))
    assert "frozen backbone" in refused(other.model)
    assert summary["epoch"] == 1


def test_damaged_features_are_refused(shared, tmp_path):
    for name in ("features.json", "features.safetensors"):
        (tmp_path / name).write_bytes((shared[0] / "features" / name).read_bytes())
    content = bytearray((tmp_path / "features.safetensors").read_bytes())
    content[-5] ^= 1
    (tmp_path / "features.safetensors").write_bytes(content)
    assert "run cache_features again" in refused(lambda: feature_files.read(tmp_path))
