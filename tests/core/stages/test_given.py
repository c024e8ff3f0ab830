"""What options name and is not there is refused by the option's name; addresses and names on a hub are left to who fetches them."""

import pytest

from core.errors import UserError
from core.stages import given
from core.stages.clip.config import TrainClipConfig
from core.stages.discovery.assign_config import AssignConfig
from core.stages.discovery.config import SsddbcConfig, TrainConfig
from core.stages.longtail.config import LongtailTrainConfig
from core.stages.posts.config import OptimizeClipConfig
from core.stages.posts.config_tools import PredictConfig, PreparePostsConfig

NO_ENCODER = "is no folder here and no owner/name of the hub; give hf:<folder with config.json, tokenizer.json and model.safetensors>"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (SsddbcConfig(ckpt_path="gone"), "ckpt_path = 'gone' does not exist; give a runs:/<id>/<path> URI or an existing path"),
        (TrainConfig(weights="/gone/w.safetensors"), "weights=/gone/w.safetensors: no such file; give a local .safetensors file"),
        (TrainConfig(weights="w.safetensors"), "weights=w.safetensors: no such file; give a local .safetensors file"),
        (TrainConfig(images="i.csv"), "images = 'i.csv' cannot be read (No such file or directory); give a CSV file with the column path"),
        (PredictConfig(weights="/gone"), "weights = '/gone' does not exist; give a runs:/<id>/<path> URI or an existing path"),
        (LongtailTrainConfig(val_dir="gone"), "val_dir 'gone' is not a folder; expected gone/<class>/*.jpg"),
        (TrainClipConfig(text_encoder_name="hf:/gone"), f"text_encoder_name=hf:/gone {NO_ENCODER}"),
        (OptimizeClipConfig(text_encoder_name="hf:gone"), f"text_encoder_name=hf:gone {NO_ENCODER}"),
    ],
)
def test_what_is_not_there_is_refused(config, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        given.require_places(config)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(weights="timm/resnet50.a1_in1k"),
        TrainConfig(resume_from_ckpt="runs:/1/checkpoints", pseudo_labels_path="models:/one/1"),
        AssignConfig(model="models:/one@champion", data_root="gone"),
        AssignConfig(model="taxon-discovery-pets"),
        AssignConfig(model="0123456789abcdef0123456789abcdef"),
        PredictConfig(weights="/gone/one,/gone/two"),
        PreparePostsConfig(),
        TrainClipConfig(text_encoder_name="hf:someone/minilm"),
        OptimizeClipConfig(text_encoder_name="clip:small-64x2"),
        PreparePostsConfig(train_file="other.txt"),
    ],
    ids=lambda config: type(config).__name__,
)
def test_addresses_names_and_defaults_are_left_to_others(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given.require_places(config)


def test_what_is_there_is_fine_be_it_unreadable(tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    given.require_places(SsddbcConfig(ckpt_path=str(tmp_path / "dangling")))
