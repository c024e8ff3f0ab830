"""A file of configurations: what it may say, what is refused by name, and one child run each."""

from __future__ import annotations

import json

import pytest

from core.stages import execute
from core.stages.clip import multi_config, run, train
from core.stages.clip.config import TrainClipConfig
from core.tracking import run as tracking
from core.tracking import store
from core.tracking.stage import Finished
from tests.core.stages.clip import tiny_clip
from tests.core.stages.clip.tiny_clip import children as children_of
from tests.core.stages.clip.tiny_clip import folder_of
from tests.core.stages.tiny import refused


def test_multi_config_needs_a_file():
    assert "multi_config = true, but config is empty" in refused(lambda: run.run(TrainClipConfig(multi_config=True), None))


def test_configurations_are_named_by_what_differs():
    configs = [TrainClipConfig(epochs=e, use_superclip_loss=s) for e, s in ((1, True), (2, True), (2, False))]
    assert multi_config.names_of(configs) == EXPECTED


EXPECTED = ["1 use_superclip_loss=true epochs=1", "2 use_superclip_loss=true epochs=2", "3 use_superclip_loss=false epochs=2"]


def test_one_object_is_this_runs_configuration(client, folded, tmp_path):
    (tmp_path / "one.json").write_text('{"seed": 7}')
    _summary, parent = folded(use_cv=False, config=str(tmp_path / "one.json"))
    assert json.loads((folder_of(client, parent) / "config.json").read_text())["seed"] == 7 and not children_of(client, parent)


def test_every_configuration_is_a_child_and_folds_are_compared_pairwise(client, folded, tmp_path):
    (tmp_path / "c.json5").write_text("[{use_superclip_loss: false}, {use_superclip_loss: true, learning_rate: 3e-3}]")
    # `multi_config` reads the file over the defaults: the command line's values stay.
    summary, parent = folded(config=str(tmp_path / "c.json5"), multi_config=True, learning_rate=1e-4)
    names = [one["name"] for one in summary["configurations"]]
    assert sorted(children_of(client, parent)) == sorted(names) == [names[0], names[1]]
    for one in summary["configurations"]:
        assert sorted(children_of(client, one["run_id"])) == ["fold 1", "fold 2"]
        assert set(one["lines"]) == {"trained"} and "±" in one["lines"]["trained"][0]
    found = summary["against_first"][names[1]]
    assert (
        set(found) == {"accuracy", "balanced_accuracy", "macro_f1", "mcnemar_p", "mcnemar_p_holm"}
        and found["accuracy"][1] <= found["accuracy"][2]
    )
    assert json.loads((folder_of(client, parent) / "multi_config_summary.json").read_text())["configurations"][0]["name"] == names[0]


def test_p_values_are_corrected_and_groups_of_images_are_one_trial(tmp_path):
    def finished(name, wrong, grouped):
        (tmp_path / name).mkdir()
        rows = [f"{i},x,{'y' if i < wrong else 'x'}{f',{i // 4}' if grouped else ''}" for i in range(40)]
        head = "image,true,predicted" + ",group" * grouped
        (tmp_path / name / "out_of_fold.csv").write_text("\n".join([head, *rows]))
        return Finished(name, tmp_path / name, {}, {})

    def p_values(grouped):
        made = [finished(f"{name}{grouped}", wrong, grouped) for name, wrong in (("a", 0), ("b", 8), ("c", 24))]
        found = multi_config._against_first(["a", "b", "c"], made, 1)
        return [(found[name]["mcnemar_p"][0], found[name]["mcnemar_p_holm"][0]) for name in ("b", "c")]

    assert p_values(False) == [pytest.approx((2 / 2**8, 2 / 2**8)), pytest.approx((2 / 2**24, 4 / 2**24))]
    assert p_values(True) == [pytest.approx((0.5, 0.5)), pytest.approx((2 / 2**6, 4 / 2**6))]
    said = multi_config._differences(multi_config._against_first(["a", "b"], [finished("d", 0, True), finished("e", 8, True)], 1))
    assert said["b"].endswith("McNemar p 0.500 (Holm 0.500)")


def test_a_configuration_that_was_trained_without_registering_is_registered_without_training_again(folded, client, tmp_path, monkeypatch):
    (tmp_path / "c.json5").write_text("[{epochs: 1}, {epochs: 2}]")
    given = {"config": str(tmp_path / "c.json5"), "multi_config": True, "use_cv": False, "epochs": TrainClipConfig().epochs}

    def models():
        return [client.get_run(version.run_id).info.run_name for version in client.search_model_versions("")]

    left = []
    monkeypatch.setattr(multi_config, "scratch", lambda name: left.append(tmp_path / "scratch") or left[0])
    (tmp_path / "scratch").mkdir()
    _, parent = folded(**given, register=False)
    assert len(children_of(client, parent)) == 2 and models() == [] and left and not left[0].exists()
    monkeypatch.setattr(multi_config, "scratch", store.scratch)
    monkeypatch.setattr(train.ClipTask, "prepare", lambda *_: pytest.fail("trained again"))
    for _ in range(2):
        summary, _ = folded(**given, register=True)
        assert sorted(models()) == sorted(one["name"] for one in summary["configurations"])


@pytest.mark.parametrize("gpu, devices", [("auto", ["auto"]), ("0,1", ["0", "1"]), (" 0 , 3,", ["0", "3"])])
def test_devices_are_handed_out_by_the_option(gpu, devices):
    assert execute.devices_of(gpu) == devices
    assert "names no device" in refused(lambda: execute.devices_of(","))


@pytest.mark.slow
def test_several_devices_work_at_once_in_processes_of_their_own(client, clip_images, tmp_path):
    texts = tiny_clip.write_sentences(tmp_path / "texts.json")
    given = tiny_clip.TINY | {"data_dir": str(clip_images), "class_texts_file": str(texts), "use_cv": True, "n_splits": 2, "epochs": 1}
    with tracking.open_run("train_clip", "folds") as opened:
        summary = run.run(TrainClipConfig(**given | {"gpu": "cpu,cpu"}), opened)
    assert len(summary["folds"]) == 2 and sorted(children_of(client, opened.run_id)) == ["fold 1", "fold 2"]
