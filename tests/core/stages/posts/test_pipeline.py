"""The order of posts_pipeline, and that every option reaches the stage that it is for."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
from safetensors.torch import save_file

from core.config import fields_of
from core.stages import execute
from core.stages.posts import materials, pipeline
from core.stages.posts.config import OptimizeClipConfig
from core.stages.posts.config_tools import PostsPipelineConfig
from core.stages.posts.stages import HEAD_VARIANT_COMPARE, OPTIMIZE_CLIP
from core.tracking.stage import Finished
from tests.core.data import fake_posts
from tests.core.stages.tiny import refused
from tests.memory_run import MemoryRun

NAMES = {"image_encoder_name": "clip:small-32x1", "text_encoder_name": "clip:small-32x1", "image_size": 32, "gpu": "cpu", "threads": 1}


@pytest.fixture
def stages(tmp_path, monkeypatch):
    """Return a function that runs the pipeline with stages that only note what they were given: name -> (configuration, after)."""
    monkeypatch.setenv("TAXON_CACHE", str(tmp_path / "cache"))
    root = fake_posts.write(tmp_path / "posts", n=6, n_predict=2)
    monkeypatch.setattr(pipeline.StageServer, "__init__", lambda self, stages, also: None)
    monkeypatch.setattr(pipeline.StageServer, "warm_up", lambda self: None)
    monkeypatch.setattr(pipeline.optimize, "key_of", lambda config: "key")
    monkeypatch.setattr(pipeline.pipeline_report, "publish", lambda made: {})

    def run(**options):
        given = {}

        def note(self, name, stage, config, after, key=""):
            assert set(after) <= set(given)  # nothing builds on what is not there yet
            given[name] = (config, after)
            self.made[name] = Finished(f"id-{name}", tmp_path / name, {}, {})

        monkeypatch.setattr(pipeline.Pipeline, "_stage", note)
        folder = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        folder.mkdir()
        pipeline.run(PostsPipelineConfig(**{"data_root": str(root)} | NAMES | options), MemoryRun(folder))
        return given

    return run


def test_the_stages_come_in_order_and_know_each_others_files(stages, tmp_path):
    given = stages()
    assert list(given) == [
        *("prepare", "train", "head variants", "cleaning rules", "robustness", "mine", "augment images", "augment texts"),
        *("merge", "retrain", "compare with baseline", "error analysis", "reference", "blend", "predict"),
    ]
    posts = str(tmp_path / "prepare" / "posts")
    assert all(given[name][0].data_dir == posts for name in ("train", "retrain", "mine", "merge", "robustness", "error analysis"))
    assert given["retrain"][0] == dataclasses.replace(given["train"][0], train_csv=str(tmp_path / "merge" / "train_aug" / "train_aug.csv"))
    assert (given["reference"][0].encoder, given["train"][0].encoder) == ("tfidf", "towers")
    compared = given["compare with baseline"][0]
    assert (compared.weights, compared.baseline_weights) == ("runs:/id-retrain", "runs:/id-train")
    assert given["robustness"][0].weights == "runs:/id-train" and given["error analysis"][0].weights == "runs:/id-retrain"
    assert given["blend"][0] == dataclasses.replace(given["train"][0], head_variant="blend")
    assert given["predict"][0].weights == "runs:/id-train,runs:/id-retrain,runs:/id-reference,runs:/id-blend"
    assert given["predict"][0].predict_csv.endswith("prepare/posts/predict.csv")
    assert given["merge"][0].badcase_csv.endswith("mine/bad_cases/bad_cases.csv")


def test_a_finished_training_is_done_once_more_where_it_has_registered_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TAXON_CACHE", str(tmp_path / "cache"))
    found = Finished("old", tmp_path / "old", {}, {"model": ""})
    monkeypatch.setattr(execute.stages, "find_finished", lambda key: found)
    monkeypatch.setattr(execute.stages, "load_finished", lambda run_id: Finished(run_id, tmp_path, {}, {"model": "models:/x/1"}))
    made = object.__new__(pipeline.Pipeline)
    made.config, made.run_, made.made, made.reused = PostsPipelineConfig(), MemoryRun(tmp_path), {}, []
    made.server = SimpleNamespace(run=lambda request, curve: request.stage.name)
    given = OptimizeClipConfig(register=True)
    for name, stage, config in (
        ("train", OPTIMIZE_CLIP, given),
        ("quiet", OPTIMIZE_CLIP, dataclasses.replace(given, register=False)),
        ("compared", HEAD_VARIANT_COMPARE, given),
    ):
        made._stage(name, stage, config, (), f"key {name}")
    assert made.made["train"].run_id == "optimize_clip" and made.reused == ["quiet", "compared"]
    found.summary["model"] = "models:/x/1"
    made._stage("train", OPTIMIZE_CLIP, given, (), "key")
    assert made.made["train"] is found


OTHER = {
    "test_file": "train.txt",
    "variants": "mlp",
    "rule_sets": "raw",
    "corruptions": "jpeg",
    "gpu": "cpu",
    "text_encoder_name": "clip:small-64x1",
    "image_encoder_name": "clip:small-64x1",
    "modality": "image",
    "cleaning": "raw",
    "image_size": 64,
    "lora_rank": 0,
    "encoder": "tfidf",
    "context_length": 12,
    "char_ngrams": 3,
}
# Their effect is another: tested below, or they need files that are not here.
ELSEWHERE = {"data_root", "train_file", "output_dir", "model_name", "weights", "image_weights", "text_weights", "image_pretrained"}
ELSEWHERE |= {"text_pretrained", "lora_rank", "gpu"}
PASSED = [(name, annotation, default) for name, annotation, default, _ in fields_of(PostsPipelineConfig) if name not in ELSEWHERE]


@pytest.mark.parametrize(("name", "annotation", "default"), PASSED, ids=[name for name, *_ in PASSED])
def test_every_option_reaches_a_stage(stages, name, annotation, default):
    value = OTHER.get(name) or _another(annotation, default)
    given = stages(**{name: value})
    stage_option = {"robustness_posts": "max_posts"}.get(name, name)
    assert any(getattr(config, stage_option, None) == value for config, _ in given.values()), name


def _another(annotation, default):
    if annotation is bool:
        return not default
    if annotation is int:
        return default + 1
    if annotation is float:
        return default / 2 if default else 0.5
    return next(value for value in annotation.__args__ if value != default)


def test_comparisons_can_be_left_out_and_n_grams_need_no_reference(stages):
    assert not {"head variants", "cleaning rules"} & set(stages(variants="", rule_sets=""))
    given = stages(encoder="tfidf")
    assert not {"head variants", "reference"} & set(given) and given["predict"][0].weights == "runs:/id-train,runs:/id-retrain"


def test_towers_alone_stand_beside_a_blend_and_a_picture_has_none(stages):
    given = stages(head_variant="blend", variants="")
    assert [given[name][0].head_variant for name in ("train", "retrain", "towers")] == ["blend", "blend", "base"] and "blend" not in given
    assert given["predict"][0].weights == "runs:/id-train,runs:/id-retrain,runs:/id-reference,runs:/id-towers"
    assert not {"blend", "towers"} & set(stages(modality="image")) and not {"blend", "reference"} & set(stages(encoder="tfidf"))


def test_default_variants_leave_out_what_one_side_cannot_be_and_say_so(stages, capsys):
    assert stages(modality="image", head_variant="ln")["head variants"][0].variants == "base,ln,mlp"
    said = capsys.readouterr().err
    assert all(said.count(f"variants leaves out {name}: ") == 1 for name in ("gated", "image", "text")) and "needs both" in said
    assert stages()["head variants"][0].variants == PostsPipelineConfig().variants and "leaves out" not in capsys.readouterr().err


def test_a_low_rank_change_leaves_out_the_side_that_has_no_weights(stages, tmp_path, capsys):
    whole = materials.build_net(OptimizeClipConfig(**NAMES, seed=9)).visual.body
    save_file({name: value.contiguous() for name, value in whole.state_dict().items()}, tmp_path / "image.safetensors")
    given = {"lora_rank": 2, "image_weights": str(tmp_path / "image.safetensors")}
    assert stages(**given)["head variants"][0].variants == "base,ln,mlp,gated,image"
    assert "leaves out text: lora_rank = 2, but no pretrained tower trains" in capsys.readouterr().err
    assert "variants = 'base,text', text: lora_rank = 2" in refused(lambda: stages(**given, variants="base,text"))


def test_options_that_n_grams_make_no_use_of_are_named_once(stages, capsys):
    stages(encoder="tfidf", loss="focal", lora_rank=2, min_count=3)
    assert (
        capsys.readouterr().err.count(
            "taxon: encoder = tfidf makes no use of text_encoder_name = clip:small-32x1, lora_rank = 2, loss = focal"
        )
        == 1
    )
    stages(min_count=3)  # of the reference line
    assert "makes no use" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modality": "text", "variants": "ln,gated"}, "variants = 'ln,gated', gated: head_variant=gated weighs text against image"),
        ({"modality": "image", "variants": "text", "text_weights": "/nowhere.safetensors"}, "variants = 'text', text: text_weights"),
        ({"encoder": "tfidf", "image_weights": "/nowhere.safetensors"}, "/nowhere.safetensors"),
        ({"folds": 1}, "folds = 1; give 2 or more"),
        ({"num_aug": 0}, "num_aug = 0; give 1 or more"),
        ({"robustness_posts": -1}, "robustness_posts = -1"),
        ({"confidence_below": 2.0}, "is no probability"),
        ({"variants": "bse"}, "did you mean 'base'?"),
        ({"rule_sets": "lihgt"}, "did you mean 'light'?"),
        ({"corruptions": "jpg"}, "did you mean 'jpeg'?"),
        ({"test_fraction": 0.0}, "judges on test posts"),
        ({"val_fraction": 0.0}, "selects on validation"),
        ({"val_fraction": 0.7, "test_fraction": 0.5}, "leaves nothing to train on"),
        ({"epochs": 0}, "epochs = 0"),
        ({"image_encoder_name": "clip:small-16x1"}, "must be a multiple of 32"),
        ({"data_root": "/nowhere"}, "/nowhere/train.txt cannot be read"),
        ({"train_file": "absent.txt"}, "absent.txt cannot be read"),
    ],
)
def test_mistakes_are_one_line_before_any_stage(stages, options, message):
    assert message in refused(lambda: stages(**options))


def test_the_digest_of_the_data_sees_every_file(tmp_path):
    root = fake_posts.write(tmp_path / "posts", n=3, n_predict=1)
    config = PostsPipelineConfig(data_root=str(root))
    seen = [pipeline.data_digest(config), pipeline.data_digest(config)]
    for name, content in (("data/2.txt", "other"), ("data/9.txt", "new"), ("test_without_label.txt", "guid,tag\n4,null\n9,null\n")):
        (root / name).write_text(content)
        seen.append(pipeline.data_digest(config))
    assert seen[0] == seen[1] and len(set(seen)) == 4
