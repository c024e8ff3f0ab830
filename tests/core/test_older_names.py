"""The options of the older documents mean here what they meant there."""

import pytest

from core import config as configuration
from core.errors import UserError
from core.stages.clip import multi_config
from core.stages.clip.config import TrainClipConfig

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
    (found,) = multi_config.read(configuration.parse(TrainClipConfig, words, "train_clip"))
    assert (found.gpu, found.use_superclip_loss, found.early_stopping_patience, found.data_dir) == ("0", True, 0, "single_label_data")


def test_the_guides_command_is_read():
    words = "--image-encoder resnet18 --text-encoder clip:ViT-B/32 --use-cv --n-splits 5 --use-superclip-loss".split()  # noqa: SIM905
    found = configuration.parse(TrainClipConfig, [*words, "--use-weighted-sampling", "--gpu-id", "1"], "train_clip")
    assert (found.image_encoder_name, found.text_encoder_name, found.n_splits, found.gpu) == ("resnet18", "clip:ViT-B/32", 5, "1")
    assert found.use_cv and found.use_superclip_loss and found.use_weighted_sampling


def test_what_no_option_is_called_is_still_named():
    with pytest.raises(UserError, match=r"train_clip has no option 'gpu-ids'"):
        configuration.parse(TrainClipConfig, ["--gpu-ids", "0"], "train_clip")
