"""The options of the older documents mean here what they meant there."""

import json

import pytest

from core import config as configuration
from core import older_names
from core.errors import UserError
from core.stages.clip.config import TrainClipConfig
from core.stages.discovery.config import PipelineConfig, SplitConfig, TrainConfig
from core.stages.longtail.config import LongtailTrainConfig
from core.stages.posts.config_tools import PredictConfig
from tuning import longtail, superclass

GUIDE = """
[{
    "image_encoder_name": "resnet18", "text_encoder_name": "clip:ViT-B/32", "embed_dim": 512, "batch_size": 32, "epochs": 100,
    "learning_rate": 1e-4, "weight_decay": 0.01, "temperature": 0.07, "img_size": 224, "augmentation": "standard", "num_workers": 4,
    "use_amp": true, "gpu_id": 0, "save_best": true, "use_cv": true, "n_splits": 5, "random_state": 42,
    "early_stopping_patience": null, "early_stopping_min_delta": 0.001, "early_stopping_monitor": "val_loss",
    "class_texts_file": "class_texts_hip_prosthesis.json", "use_weighted_sampling": true, "weight_method": "inverse_freq",
    "weight_smooth_factor": 1.0,
    // of SuperCLIP
    "use_superclip_loss": true,  "class_loss_weight": 1.0,  "contrastive_loss_weight": 1.0
}]
"""


def test_the_guides_configuration_is_read(tmp_path):
    (tmp_path / "train_clip_config.json").write_text(GUIDE)
    words = f"--data-dir single_label_data --config-file {tmp_path}/train_clip_config.json --multi-config --gpu-id 0".split()
    (found,) = configuration.configurations_of(configuration.parse(TrainClipConfig, words, "train_clip"), "train_clip")
    assert (found.gpu, found.use_superclip_loss, found.early_stopping_patience, found.data_dir) == ("0", True, 0, "single_label_data")


def test_the_guides_command_is_read():
    words = "--image-encoder resnet18 --text-encoder clip:ViT-B/32 --use-cv --n-splits 5 --use-superclip-loss".split()  # noqa: SIM905
    found = configuration.parse(TrainClipConfig, [*words, "--use-weighted-sampling", "--gpu-id", "1"], "train_clip")
    assert (found.image_encoder_name, found.text_encoder_name, found.n_splits, found.gpu) == ("resnet18", "clip:ViT-B/32", 5, "1")
    assert found.use_cv and found.use_superclip_loss and found.use_weighted_sampling


def test_what_no_option_is_called_is_still_named():
    with pytest.raises(UserError, match=r"train_clip has no option 'gpu-ids'"):
        configuration.parse(TrainClipConfig, ["--gpu-ids", "0"], "train_clip")


def refused(config, *words, name="train_clip"):
    with pytest.raises(UserError) as caught:
        configuration.parse(config, list(words), name)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_switch_whose_option_may_be_auto_is_read():
    found = configuration.parse(LongtailTrainConfig, ["--balance-sampler", "--mixup-alpha", "0.4", "--use-ema"], "train_longtail")
    assert (found.balance_sampler, found.mixup_alpha, found.use_ema) == (True, 0.4, True)


def test_a_folder_by_its_older_name_is_read():
    assert configuration.parse(SplitConfig, ["--cifar100_root=there"], "data_split_generator").data_root == "there"


def test_all_options_that_are_gone_are_answered_in_one_line():
    said = refused(PipelineConfig, "--runs_root", "a", "--lr=0.1", "--resume_run_dir=b", "--feature-cache-dir", "c", name="pseudo_pipeline")
    assert said.startswith("pseudo_pipeline has no option 'runs_root' any more (what a run makes is in its artifacts")
    assert "; nor 'resume_run_dir' any more (give resume_run_id, the id of the run that is to go on)" in said
    assert "; nor 'feature_cache_dir' any more (features are artifacts of the run that extracts them" in said


def test_a_mistyped_option_comes_before_those_that_are_gone():
    assert "has no option 'epoch'; did you mean 'epochs'?" in refused(TrainClipConfig, "--output-dir=x", "--epoch=3")


def test_what_took_an_options_place_depends_on_the_command():
    assert "(give output, the file" in refused(PredictConfig, "--output_dir=x", name="predict_test_clip")
    assert "(give data_root, the folder" in refused(PredictConfig, "--project-root=.", name="predict_test_clip")
    assert "(the classifier in weights decides that" in refused(PredictConfig, "--batch-size=8", name="predict_test_clip")


def test_files_of_options_are_answered_too(tmp_path):
    path = tmp_path / "options.json"
    path.write_text(json.dumps({"gpu_id": "0", "exp_root": "x"}))
    assert "train_superclass has no option 'exp_root' any more (" in refused(TrainConfig, f"--config={path}", name="train_superclass")
    path.write_text(json.dumps([{"gpu_id": 0, "output_dir": "x", "epochs": 1}]))
    assert "configuration 1: train_clip has no option 'output_dir' any more (" in refused(TrainClipConfig, f"--config={path}")


@pytest.mark.parametrize(
    ("config", "words", "said"),
    [
        (TrainConfig, "--select_by=val_acc_all", "; the older 'val_acc_all' is 'oracle' here, logged as unlabelled/v2_all"),
        (TrainConfig, "--select_by=val_acc_old", "; the older 'val_acc_old' is 'val' here, logged as unlabelled/v2_old"),
        (TrainConfig, "--select_by=val_acc_new", "; the older 'val_acc_new' is 'oracle' here, logged as unlabelled/v2_new"),
        (
            LongtailTrainConfig,
            "--select_by=tail_mean_acc",
            "; the older 'tail_mean_acc' is 'tail_accuracy' here, logged as val/tail_accuracy",
        ),
        (LongtailTrainConfig, "--select_by=best_val_acc", "; the older 'best_val_acc' is 'accuracy' here, logged as val/accuracy"),
        (LongtailTrainConfig, "--select_by=val_loss", "; the older 'val_loss' is logged as val/nll"),
        (TrainClipConfig, "--select_by=val_map", "; the older 'val_map' is 'mAP' here"),
        (TrainClipConfig, "--early_stopping_monitor=acc", "; the older 'acc' is 'val_acc' here"),
        (TrainConfig, "--select_by=vals", "; did you mean 'val'?"),
    ],
)
def test_an_older_metric_is_answered_with_its_present_name(config, words, said):
    assert said in refused(config, words)


@pytest.mark.parametrize(
    ("space", "metric", "said"),
    [
        (superclass.SPACE, "val_acc_all", "; the older 'val_acc_all' is logged as unlabelled/v2_all"),
        (superclass.SPACE, "val_acc_old", "; the older 'val_acc_old' is 'val' here"),
        (longtail.SPACE, "val_acc", "; the older 'val_acc' is 'accuracy' here"),
    ],
)
def test_a_study_answers_an_older_metric_too(space, metric, said):
    with pytest.raises(UserError) as caught:
        space.metric(metric)
    assert said in str(caught.value)


def test_no_present_option_is_called_gone():
    known = {name for config in (TrainClipConfig, TrainConfig, PipelineConfig) for name, *_ in configuration.fields_of(config)}
    assert not known & set(older_names.RENAMED) and all(older_names.replacement(name, ()) == "" for name in known)
