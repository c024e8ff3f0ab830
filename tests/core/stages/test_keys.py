"""What is the same and what is not: inputs count by what they hold, options where they act, clocks and cores never."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from core import config as configuration
from core import cores, digest
from core.clustering import pseudo_labels
from core.errors import UserError
from core.models import weights as weight_files
from core.stages import catalog, keys
from core.stages.clip import train as clip
from core.stages.discovery import materials, rebuild
from core.stages.discovery.config import CacheConfig, PipelineConfig, SsddbcConfig, TrainConfig
from core.stages.longtail import train as longtail
from core.stages.longtail.config import LongtailTrainConfig
from core.stages.posts import optimize as posts
from core.stages.posts.config import OptimizeClipConfig
from core.tracking import stage as stage_module
from core.training import recipes
from core.training import state as states
from tests.core.stages import tiny
from tests.core.stages.clip import tiny_clip
from tests.core.stages.longtail import tiny as tiny_longtail
from tests.core.stages.posts import tiny_posts
from tests.core.test_config import STAGES

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TAXON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def of_discovery(config: TrainConfig) -> str:
    return keys.of_stage("train_superclass", config, materials.digests(materials.posed(config)), CPU, "fp32")


def of_longtail(config: LongtailTrainConfig) -> str:
    return longtail.prepare(config).key


def of_clip(config: Any) -> str:
    return clip.prepare(config).key


def network(folder: Path, content: int) -> Path:
    """Write weights of small_cnn."""
    from core.models import small

    folder.mkdir()
    state = {name: value.numpy() for name, value in small.create(content).state_dict().items()}
    save_file(state, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def checkpoint(folder: Path, content: int) -> Path:
    """Write a checkpoint; its place and how long it took differ every time."""
    weight = torch.nn.Parameter(torch.full((2,), float(content)))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    history = [[1, {"val/accuracy": 0.5, "time/train_seconds": float(np.random.default_rng().random())}]]
    facts = {"config": {"data_root": str(folder)}, "data": folder.name, "best": {"epoch": 1, "score": 0.5}}
    state = states.TrainState(1, {"w": weight.data}, optimizer.state_dict(), history, facts, torch.zeros(4, dtype=torch.uint8))
    return states.save_checkpoint(folder, state)


def labels(folder: Path, content: int) -> Path:
    """Write pseudo labels."""
    n = np.arange(4)
    vectors = np.eye(4, dtype=np.float32)
    arrays = (n, n.astype(str), n + content, n, n > 1, n > 2, n / 4, n, n / 8, vectors, vectors[0])
    made = pseudo_labels.PseudoLabels(*arrays, {"k": 3}, {"data": str(folder)})
    folder.mkdir()
    pseudo_labels.write(folder / "p.npz", made)
    os.utime(folder / "p.npz", (content, content))
    return folder / "p.npz"


def glyphs(folder: Path, content: int) -> Path:
    return tiny.make_images(folder, seed=content)


def longtail_part(part: str) -> Any:
    def made(folder: Path, content: int) -> Path:
        counts = {part: (5, 4, 3, 2) if part == "train" else (2, 2, 2, 2)}
        return tiny_longtail.make_images(folder, seed=content, counts=counts) / part

    return made


def table(part: str) -> Any:
    """Write a metadata table and its images."""

    def made(folder: Path, content: int) -> Path:
        images = longtail_part(part)(folder, content)
        rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted(images.rglob("*.png"))]
        (folder / "meta.csv").write_text("\n".join(["image_path,label", *rows]) + "\n")
        return folder / "meta.csv"

    return made


def class_weights(folder: Path, content: int) -> Path:
    folder.mkdir()
    rows = [f"{name},{1 + content * i}" for i, name in enumerate(tiny_longtail.CLASSES)]
    (folder / "weights.csv").write_text("\n".join(["class,weight", *rows]) + "\n")
    return folder / "weights.csv"


def clip_images(folder: Path, content: int) -> Path:
    return tiny_clip.make_images(folder, seed=content)


def sentences(folder: Path, content: int) -> Path:
    folder.mkdir()
    return tiny_clip.write_sentences(folder / "texts.json", tiny_clip.SENTENCES | {"bar": f"a bar, number {content}"})


def groups(folder: Path, content: int) -> Path:
    folder.mkdir()
    files = [f"{name}/{i // 2:02d}_{i % 2}.png" for name, count in tiny_clip.COUNTS.items() for i in range(count)]
    rows = [f"{file},{i if content else file[:-6]}" for i, file in enumerate(files)]
    (folder / "groups.csv").write_text("\n".join(["image_path,group", *rows]) + "\n")
    return folder / "groups.csv"


def tower(side: str) -> Any:
    """Write weights of a tiny CLIP tower."""

    def made(folder: Path, content: int) -> Path:
        from core.models.clip import build_towers

        folder.mkdir()
        towers = build_towers("clip:small-32x1", "clip:small-32x1", embed_dim=16, image_size=32, context_length=12, seed=content)
        part = towers.visual if side == "image" else towers.text
        save_file({name: value.numpy() for name, value in part.state_dict().items()}, folder / f"{side}.safetensors")
        return folder / f"{side}.safetensors"

    return made


def file(folder: Path, content: int) -> Path:
    """Write a file that nothing reads but its digest."""
    folder.mkdir()
    (folder / "any.safetensors").write_bytes(bytes([content]))
    return folder / "any.safetensors"


def post_table(part: str) -> Any:
    def made(folder: Path, content: int) -> Path:
        root = tiny_posts.write(folder)
        path = root / f"{part}.csv"
        path.write_text(path.read_text().replace("number ", f"{content} number "))
        return path

    return made


def post_folder(folder: Path, content: int) -> Path:
    return post_table("train")(folder, content).parent


def post_images(folder: Path, content: int) -> Path:
    root = tiny_posts.write(folder)
    if content:
        shutil.copy(root / "data" / "1.png", root / "data" / "2.png")
    return root


SMALL = {"image_encoder_name": "clip:small-32x1", "text_encoder_name": "clip:small-32x1", "img_size": 32}
# family: (its key, a configuration, {option: (what makes the input, options it needs)})
INPUTS: dict[str, tuple[Any, Any, dict[str, tuple[Any, dict[str, Any]]]]] = {
    "discovery": (
        of_discovery,
        lambda root, **options: tiny.config(**{"root": root / "glyphs"} | options),
        {
            "data_root": (glyphs, {}),
            "weights": (network, {}),
            "warmup_model_dir": (checkpoint, {}),
            "resume_from_ckpt": (checkpoint, {}),
            "pseudo_labels_path": (labels, {}),
        },
    ),
    "longtail": (
        of_longtail,
        lambda root, **options: tiny_longtail.config(root / "longtail", **options),
        {
            "data_root": (lambda folder, content: tiny_longtail.make_images(folder, seed=content), {}),
            **{f"{part}_dir": (longtail_part(part), {}) for part in ("train", "val", "test")},
            **{f"{part}_meta": (table(part), {}) for part in ("train", "val", "test")},
            "class_weights": (class_weights, {}),
            "weights": (network, {"pretrained": True}),
            "resume": (checkpoint, {}),
        },
    ),
    "clip": (
        of_clip,
        lambda root, **options: clip.TrainClipConfig(
            **tiny_clip.TINY | {"data_dir": str(root / "clip"), "class_texts_file": str(root / "texts.json")} | options
        ),
        {
            "data_dir": (clip_images, {}),
            "class_texts_file": (sentences, {}),
            "groups_file": (groups, {}),
            "image_weights": (tower("image"), SMALL),
            "text_weights": (tower("text"), SMALL),
            "resume": (checkpoint, {}),
        },
    ),
    "posts": (
        posts.key_of,
        lambda root, **options: tiny_posts.config(root / "posts", **options),
        {
            "data_dir": (post_folder, {}),
            "data_root": (post_images, {}),
            **{f"{part}_csv": (post_table(part), {}) for part in ("train", "val", "test")},
            "weights": (file, {}),
            "image_weights": (file, {}),
            "text_weights": (file, {}),
            "resume": (checkpoint, {}),
        },
    ),
}
CASES = [(family, option) for family, (_key, _config, options) in INPUTS.items() for option in options]


@pytest.fixture(scope="module")
def defaults(tmp_path_factory) -> Path:
    """Return a folder with the data of every family."""
    root = tmp_path_factory.mktemp("defaults")
    tiny.make_images(root / "glyphs")
    tiny_longtail.make_images(root / "longtail")
    tiny_clip.make_images(root / "clip")
    tiny_clip.write_sentences(root / "texts.json")
    tiny_posts.write(root / "posts")
    return root


@pytest.mark.parametrize(("family", "option"), CASES)
def test_an_input_counts_by_what_it_holds_and_not_by_where_it_lies(tmp_path, monkeypatch, defaults, family, option):
    key, config, options = INPUTS[family]
    make, needs = options[option]
    # A resumed training is restored when it is made, from a whole checkpoint: here only the key is asked for.
    monkeypatch.setattr(longtail.LongtailTraining, "begin", lambda *_: 0)
    places = [make(tmp_path / name, content) for name, content in (("a", 0), ("elsewhere", 0), ("b", 1))]
    found = [key(config(defaults, **needs | ({"root": place} if option == "root" else {option: str(place)}))) for place in places]
    assert found[0] == found[1] and found[0] != found[2]


@pytest.mark.parametrize("family", INPUTS)
def test_every_input_of_a_training_is_tested_here(family):
    kinds = {"discovery": TrainConfig, "longtail": LongtailTrainConfig, "clip": clip.TrainClipConfig, "posts": OptimizeClipConfig}
    declared = {f.name for f in dataclasses.fields(kinds[family]) if f.metadata["digest"] and looks_like_a_place(f)}
    assert set(INPUTS[family][2]) == declared


def looks_like_a_place(field: dataclasses.Field) -> bool:
    ends = ("_dir", "_root", "_csv", "_path", "_file", "_meta", "_annotations", "weights", "resume", "_ckpt", "checkpoint")
    return field.name.endswith(ends) and isinstance(field.default, str)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_whatever_names_an_input_is_declared_as_one(stage):
    fields = [f for f in dataclasses.fields(stage) if f.metadata["role"] != "machine" and stage.__name__ != "PromoteConfig"]
    assert [f.name for f in fields if looks_like_a_place(f) and not f.metadata["digest"]] == []


def features(folder: Path, content: int) -> Path:
    folder.mkdir()
    save_file({"features": np.full(2, content, np.float32)}, folder / "features.safetensors")
    return folder


@pytest.mark.parametrize(("option", "make"), [("previous_pseudo_labels", labels), ("ckpt_path", checkpoint), ("features_path", features)])
def test_the_inputs_of_a_clustering_count_too(tmp_path, option, make):
    used = option == "features_path"
    places = [make(tmp_path / name, content) for name, content in (("a", 0), ("elsewhere", 0), ("b", 1))]
    found = [keys.digests(SsddbcConfig(**{option: str(place), "skip_feature_extraction": used}), ("weights", "data")) for place in places]
    assert option in found[0] and found[0] == found[1] != found[2]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return a dictionary of what repositories hold; those it lacks are out of reach."""
    held: dict[str, bytes] = {}

    def fetch(repository: str, filename: str = "model.safetensors", option: str = "weights", instead: str = "") -> Path:
        if repository not in held:
            raise UserError(f"{repository} cannot be downloaded")
        path = tmp_path / f"{repository.replace('/', '-')}.safetensors"
        path.write_bytes(held[repository])
        return path

    monkeypatch.setattr(weight_files, "hub_file", fetch)
    return held


VIT = {"model_name": "vit_tiny_patch16_224.augreg_in21k", "grad_from_block": 11}


def discovery_on(**options: Any) -> str:
    return keys.of_stage("t", recipes.resolve(TrainConfig(**VIT | options)), {"data": ""}, CPU, "fp32")


def posts_on(**options: Any) -> dict[str, str]:
    return keys.digests(OptimizeClipConfig(**{"model_name": "ViT-B-32", "image_size": 224} | options), ("data",))


@pytest.mark.parametrize("key", [discovery_on, posts_on])
def test_two_hub_names_are_two_keys_unless_they_hold_the_same(hub, key):
    assert key(weights="owner/a") != key(weights="owner/b")  # out of reach: the names
    hub |= {"owner/a": b"1", "owner/b": b"2", "owner/c": b"1"}
    assert key(weights="owner/a") != key(weights="owner/b")
    assert key(weights="owner/a") == key(weights="owner/c")
    known = key(weights="owner/a")
    hub["owner/a"] = b"33"  # a new revision
    assert key(weights="owner/a") != known


EVERY_CONFIG = sorted({stage.config for stage in catalog.stages()}, key=lambda kind: kind.__name__)
HUB_NAMED = [
    pytest.param(kind, name, id=f"{kind.__name__}-{name}")
    for kind in EVERY_CONFIG
    for name, field in kind.__dataclass_fields__.items()
    if field.metadata["digest"] in ("weights", "tower", "towers")
]


@pytest.mark.parametrize(("kind", "name"), HUB_NAMED)
def test_no_stage_takes_one_hub_name_for_another(hub, kind, name):
    one, other, alike = (counted_on_hub(kind, name, f"owner/{who}") for who in "abc")
    assert len({one, other, alike}) == 3  # out of reach: the names
    hub |= {"owner/a": b"1", "owner/b": b"2", "owner/c": b"1"}
    one, other, alike = (counted_on_hub(kind, name, f"owner/{who}") for who in "abc")
    assert one == alike != other


def counted_on_hub(kind: Any, name: str, given: str) -> str:
    small = {"image_encoder_name": "resnet18", "text_encoder_name": "clip:small-32x1", "model_name": "small_cnn", "backbone": "small_cnn"}
    return counted(kind(**{option: value for option, value in small.items() if option in kind.__dataclass_fields__} | {name: given}))


def test_an_index_of_weights_counts_by_its_shards(tmp_path):
    index, shard = tmp_path / "model.safetensors.index.json", tmp_path / "model-1.safetensors"
    index.write_text('{"weight_map": {"x": "model-1.safetensors"}}')
    found = set()
    for content in (b"1", b"22"):
        shard.write_bytes(content)
        found |= {discovery_on(weights=str(given)) for given in (index, tmp_path)}
    assert len(found) == 2


def test_a_model_s_own_weights_count_by_their_file(hub):
    without = discovery_on()
    hub["timm/vit_tiny_patch16_224.augreg_in21k"] = b"1"
    first = discovery_on()
    hub["timm/vit_tiny_patch16_224.augreg_in21k"] = b"22"
    assert len({without, first, discovery_on()}) == 3


def other(value: Any, annotation: Any) -> Any:
    """Return another value of an option's type."""
    if get_origin(annotation) is Literal:
        return next(choice for choice in get_args(annotation) if choice not in (value, "auto"))
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1 if isinstance(value, int) else value * 0.7 + 0.01
    kinds = {bool: True, int: 7, float: 0.3}  # instead of auto
    return next((number for kind, number in kinds.items() if kind in get_args(annotation)), f"{value}x")


LONGTAIL_SWITCHES = [f.name for f in dataclasses.fields(LongtailTrainConfig) if f.name.endswith(("_epoch", "_epoch1", "_epoch2"))]
TOWERS_ONLY = [
    *("epochs", "freeze_epochs", "lock_image", "lock_text", "batch_size", "lr", "head_lr", "layer_decay", "weight_decay", "use_cosine"),
    *("warmup_ratio", "clip_norm", "early_stop", "loss", "gamma", "beta", "logit_adjustment", "augment", "cached_views", "word_dropout"),
    *("head_variant", "dropout", "lora_rank", "context_length", "text_encoder_name", "text_pretrained", "save_best_thresh", "model_name"),
]
NGRAMS_ONLY = ["word_ngrams", "char_ngrams", "min_count", "regularisation", "image_regularisation", "image_share"]
FEWSHOT = ["fewshot_freeze_backbone", "fewshot_hidden", "fewshot_dropout", "fewshot_head_lr_scale"]
COVERAGE = ["pseudo_coverage", "pseudo_coverage_end"]
PSEUDO = [*COVERAGE, "pseudo_loss", "pseudo_points", "pseudo_for_labeled_mode", "pseudo_weight_mode", "gamma_ramp", "update_interval"]
ALL_PSEUDO = ["pseudo_loss_weight", *PSEUDO]
OF_VIEWS = ["entropy_weight", "teacher_temperature"]  # of a classifier, where it learns from its own answers
CLASSIFIER = ["classifier_weight", *OF_VIEWS]
ANSWERS = ["answers_by"]  # where the last epoch is taken
CONTRAST, BOTH = {"objective": "contrast"}, {"objective": "both"}
SUPERCLIP = ["class_loss_weight", "contrastive_loss_weight", "use_class_weights"]
STOPPING = ["early_stopping_min_delta", "early_stopping_monitor"]
ACT_EARLY = ("stage2_epoch", "stage3_epoch", "tail_focal_epoch")  # of 3 epochs, one later than given
FOLDED = {"epochs": 3, "schedule_epochs": 0, "warmup_epochs": 0, "stage3_epoch": 1}
# (configuration, what is given, the options that then cannot act: all others must)
SETTINGS: list[tuple[type, dict[str, Any], list[str]]] = [
    (TrainConfig, CONTRAST | {"optimizer": "adamw"}, ["momentum", "pseudo_loss_weight", *PSEUDO, *CLASSIFIER, *ANSWERS]),
    (
        TrainConfig,
        CONTRAST | {"optimizer": "sgd", "sup_con_weight": 1.0},
        ["temperature", "contrast_unlabel_only", "pseudo_loss_weight", *PSEUDO, *CLASSIFIER, *ANSWERS],
    ),
    (
        TrainConfig,
        CONTRAST | {"optimizer": "sgd", "sup_con_weight": 0.0, "pseudo_labels_path": "p"},
        ["sup_con_temperature", *CLASSIFIER, *COVERAGE, *ANSWERS],
    ),
    (
        TrainConfig,
        BOTH | {"optimizer": "sgd", "sup_con_weight": 0.0, "pseudo_labels_path": "p", "pseudo_loss": "supcon"},
        [*COVERAGE, *ANSWERS],
    ),
    (
        TrainConfig,
        BOTH | {"optimizer": "sgd", "sup_con_weight": 1.0},
        ["temperature", "contrast_unlabel_only", *OF_VIEWS, *ALL_PSEUDO, *ANSWERS],
    ),
    (
        TrainConfig,
        {"objective": "classifier", "optimizer": "sgd"},
        ["temperature", "contrast_unlabel_only", "sup_con_temperature", "classifier_weight", *ALL_PSEUDO, *ANSWERS],
    ),
    (TrainConfig, BOTH | {"optimizer": "sgd", "pseudo_labels_path": "p", "pseudo_loss_weight": 0.0}, [*PSEUDO, *ANSWERS]),
    (
        TrainConfig,
        CONTRAST | {"optimizer": "sgd", "pseudo_labels_path": "p", "gamma_ramp": "total"},
        ["update_interval", *CLASSIFIER, *COVERAGE, *ANSWERS],
    ),
    (TrainConfig, BOTH | {"optimizer": "sgd", "pseudo_labels_path": "p"}, [*COVERAGE, *ANSWERS]),
    (TrainConfig, BOTH | {"optimizer": "sgd", "pseudo_labels_path": "p", "pseudo_points": "margin", "select_by": "val"}, []),
    (PipelineConfig, CONTRAST | {"optimizer": "sgd"}, [*CLASSIFIER, "answers_by", *COVERAGE]),
    (PipelineConfig, BOTH | {"optimizer": "sgd", "pseudo_points": "density"}, []),
    (
        LongtailTrainConfig,
        {"use_center_loss": True, "epochs": 50, "loss_type": "crt", "balance_sampler": True},
        ["momentum", "ema_decay", "focal_gamma", "drw_epoch", *FEWSHOT],
    ),
    (
        LongtailTrainConfig,
        {"use_ema": True, "optimizer": "sgd", "loss_type": "focal", "balance_sampler": False, "model_type": "fewshot", **FOLDED}
        | {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, "label_smoothing": 0.0, "fewshot_freeze_backbone": False, "stage2_epoch": 2},
        [
            "center_loss_weight",
            "sampler_power",
            "mixup_prob",
            "cutmix_prob",
            "use_cosine_classifier",
            "use_center_loss",
            "progressive_image_size",
            *(name for name in LONGTAIL_SWITCHES if name not in ACT_EARLY),
        ],
    ),
    (clip.TrainClipConfig, {}, [*SUPERCLIP, "weight_method", "weight_smooth_factor", "word_supervision_weight", *STOPPING]),
    (
        clip.TrainClipConfig,
        {"use_superclip_loss": True, "word_supervision": True, "early_stopping_patience": 3, "contrastive_loss_weight": 0.0},
        ["contrastive_targets"],
    ),
    (
        clip.TrainClipConfig,
        {"use_weighted_sampling": True, "lock_image": True, "save_best": False, "wise_ft": False},
        [*SUPERCLIP, "augmentation", "select_by", "word_supervision_weight", *STOPPING],
    ),
    (OptimizeClipConfig, {"loss": "combo"}, NGRAMS_ONLY),
    (OptimizeClipConfig, {"loss": "focal"}, ["beta", *NGRAMS_ONLY]),
    (
        OptimizeClipConfig,
        {"loss": "cb", "modality": "image", "image_encoder_name": "resnet18"},
        [
            "gamma",
            "cleaning",
            "lock_text",
            "word_dropout",
            "context_length",
            "text_encoder_name",
            "text_pretrained",
            "model_name",
            *NGRAMS_ONLY,
        ],
    ),
    (OptimizeClipConfig, {"encoder": "tfidf", "image_encoder_name": "resnet18"}, TOWERS_ONLY),
]


@pytest.mark.parametrize(("kind", "given", "inert"), SETTINGS, ids=lambda value: getattr(value, "__name__", ""))
def test_an_option_is_in_the_key_exactly_where_it_acts(kind, given, inert):
    config = recipes.resolve(kind(**given)) if hasattr(kind, "dataset") else kind(**given)
    asked = configuration.asked(config)
    wrong = {}
    for name, annotation, _default, _doc in configuration.fields_of(kind):
        metadata = kind.__dataclass_fields__[name].metadata
        if name in given or metadata["role"] == "machine" or metadata["digest"]:
            continue
        changed = dataclasses.replace(config, **{name: other(getattr(config, name), annotation)})
        if (configuration.asked(changed) == asked) != (name in inert):
            wrong[name] = getattr(changed, name)
    assert wrong == {}
    assert set(inert) <= {name for name, *_ in configuration.fields_of(kind)}


BESIDE: list[dict[str, Any]] = [
    {},
    *(given for _kind, given, _inert in SETTINGS),
    {"loss_type": "ldam_drw", "use_cosine_classifier": True},
    {"loss_type": "crt", "use_ema": True, "tail_focal_epoch": 1, "disable_sampler_epoch": 1, "balance_sampler": True},
    {"encoder": "tfidf"},
    {"loss": "combo", "image_encoder_name": "resnet18"},
    {"skip_feature_extraction": True, "sup_con_weight": 0.5, "optimizer": "sgd", "pseudo_labels_path": "p", "epochs": 9},
    {"use_superclip_loss": True, "use_weighted_sampling": True, "word_supervision": True, "early_stopping_patience": 3},
]
"""What is given besides an option: beside one of these it acts, where it ever does."""


def beside(kind: Any) -> list[Any]:
    """Return resolved configurations of a class; each option that ever acts does so in one of them."""
    known = {f.name for f in dataclasses.fields(kind)}
    made = [kind(**{name: value for name, value in given.items() if name in known}) for given in BESIDE]
    return [recipes.resolve(one) if kind in (TrainConfig, PipelineConfig) else one for one in dict.fromkeys(made)]


def counted(config: Any, **found: str) -> str:
    """Return the key of a stage that has read `found`, and of its inputs those of the kinds that only a stage can know."""
    fields = [f for f in dataclasses.fields(config) if f.metadata["role"] == "place" and f.metadata["digest"] not in keys.OF]
    return keys.of_stage("t", config, {f.name: "" for f in fields if f.metadata["digest"] not in found} | found)


@pytest.fixture
def lying(monkeypatch) -> dict[str, str]:
    """Return what lies where, for inputs of all kinds that keys read by themselves."""
    held: dict[str, str] = {}
    kinds = dict.fromkeys(keys.OF, lambda config, option: held.get(getattr(config, option), ""))
    monkeypatch.setattr(keys, "OF", kinds)
    monkeypatch.setattr(stage_module, "stage_key", lambda *parts: digest.of_json(list(parts)))
    return held


def of_place(config: Any, name: str, kind: str, lying: dict[str, str]) -> bool:
    """Say whether an input counts by what it holds alone."""
    there, moved = (dataclasses.replace(config, **{name: place}) for place in ("there", "moved"))
    if kind not in keys.OF:  # the stage hands its digest over, or there is no key
        with pytest.raises(LookupError, match=f"no digest of {name}"):
            keys.digests(there, set(configuration.places(there)) - {name})
        return counted(there, **{kind: "1"}) == counted(moved, **{kind: "1"}) != counted(moved, **{kind: "2"})
    lying |= {"there": "1", "moved": "1"}
    same = counted(there) == counted(moved)
    lying["moved"] = "2"
    return same and counted(there) != counted(moved)


@pytest.mark.parametrize("kind", EVERY_CONFIG, ids=lambda kind: kind.__name__)
def test_every_option_counts_by_its_value_or_by_what_lies_there_or_is_the_machine_s(lying, kind):
    """Every option of every stage: a value that never acts beside any of the others would be no option."""
    configs, wrong = beside(kind), []
    known = functools.cache(counted)

    def counts(config: Any, changed: Any, standing: str) -> bool:
        """Say whether an option counts: by its value, and where a stage has a digest of what it decides by that alone."""
        configuration.check_limits(changed)
        if known(config) == counted(changed):
            return False
        with_digest = {digest: [counted(one, **{standing: digest}) for one in (config, changed)] for digest in "12" if standing}
        return not standing or (len(set(with_digest["1"])) == 1 and set(with_digest["1"]).isdisjoint(with_digest["2"]))

    for name, annotation, _default, _doc in configuration.fields_of(kind):
        said = kind.__dataclass_fields__[name].metadata
        pairs = ((config, dataclasses.replace(config, **{name: other(getattr(config, name), annotation)})) for config in configs)
        if said["role"] == "machine":
            good = all(known(config) == counted(changed) for config, changed in itertools.islice(pairs, 1))
        elif said["role"] == "place":
            good = of_place(next(filter(said["acts"], configs)), name, said["digest"], lying)
        else:
            good = any(counts(config, changed, said["digest"]) for config, changed in pairs)
        wrong += [] if good else [name]
    assert wrong == []


DRAWN = [
    *(
        (of_discovery, "discovery", name, value)
        for name, value in (("prop_train_labels", 0.6), ("labels_per_class", 5), ("val_fraction", 0.3), ("hidden_classes", 1))
    ),
    (of_discovery, "discovery", "novel_classes", "dot"),
    *((of_clip, "clip", name, value) for name, value in (("val_fraction", 0.4), ("test_fraction", 0.4), ("random_state", 43))),
    (of_clip, "clip", "group_pattern", "/(\\d+)_"),
    *((of_clip, "clip", name, value) for name, value in (("use_cv", {"use_cv": True, "fold": 1}), ("fold", {"use_cv": True, "fold": 2}))),
    (of_clip, "clip", "n_splits", {"use_cv": True, "fold": 1, "n_splits": 2}),
]


@pytest.mark.parametrize(("key", "family", "name", "value"), DRAWN, ids=lambda value: value if isinstance(value, str) else "")
def test_what_decides_who_is_held_out_counts_by_the_split_that_it_makes(defaults, key, family, name, value):
    _key, config, _options = INPUTS[family]
    given = value if isinstance(value, dict) else {name: value}
    before = {option: known for option, known in given.items() if option != name} | ({"fold": 1} if name == "fold" else {})
    before = {} if name == "use_cv" else before
    assert key(config(defaults, **before)) != key(config(defaults, **given))


def test_every_option_that_a_split_stands_for_is_tested_to_make_one():
    kinds = {TrainConfig: "discovery", clip.TrainClipConfig: "clip"}
    stood_for = {
        (family, f.name)
        for kind, family in kinds.items()
        for f in dataclasses.fields(kind)
        if (f.metadata["role"], f.metadata["digest"]) == ("", "data")
    }
    # a superclass is of CIFAR-100, a column of a groups_file, what is skipped of a heap: tests of these read them
    assert {(family, name) for _key, family, name, _value in DRAWN} == stood_for - {
        ("discovery", "superclass_name"),
        ("discovery", "bad_images"),
        ("discovery", "follow_links"),
        ("clip", "group_column"),
    }


def test_a_checkpoint_stands_for_how_its_network_is_brought_back(hub):
    state = SimpleNamespace(model={"w": torch.zeros(1)}, facts={"trunk_digest": "1"})
    data = SimpleNamespace(digest="d")

    def found(**options: Any) -> str:
        trained = rebuild.Trained(Path("c"), state, recipes.resolve(TrainConfig(**VIT | options)), data, data)
        return digest.of_json(trained.digests)

    made = [found(), found(image_size=96), found(weights="owner/a"), found(weights="owner/b")]
    assert len(set(made)) == 4 and found(lr=0.5, seed=3) == made[0]


# The one option is bounded by another, any number is allowed, or whoever uses it refuses it in its own words.
UNBOUNDED = {
    *("save_best_thresh", "stop_at_epoch", "current_epoch", "total_epochs", "k_min", "k_max", "density_min", "density_max"),
    *("n_splits", "dropout"),
}


@pytest.mark.parametrize("kind", EVERY_CONFIG, ids=lambda kind: kind.__name__)
def test_every_number_says_between_which_it_has_to_be(kind):
    limits = {f.name: f.metadata["limits"] for f in dataclasses.fields(kind)}
    numbers = [name for name, annotation, *_ in configuration.fields_of(kind) if {int, float} & {annotation, *get_args(annotation)}]
    assert {name for name in numbers if not str(limits[name])} <= UNBOUNDED
    configuration.check_limits(kind())


def test_a_number_format_counts_by_what_it_comes_to_and_without_a_device_by_its_name(lying):
    one, other = OptimizeClipConfig(), OptimizeClipConfig(use_amp=False)
    found = {"data": ""}
    assert keys.of_stage("t", one, found, CPU, "fp32") == keys.of_stage("t", other, found, CPU, "fp32")
    assert keys.of_stage("t", one, found, CPU, "fp32") != keys.of_stage("t", one, found, CPU, "bf16")
    assert keys.of_stage("t", one, found) != keys.of_stage("t", other, found)


MACHINE = {
    TrainConfig: (
        "num_workers",
        "gpu",
        "threads",
        "download",
        "eval_funcs",
        "save_ckpt_every",
        "keep_checkpoints",
        "train_all_superclasses",
        "config",
    ),
    LongtailTrainConfig: ("num_workers", "gpu", "threads", "save_freq", "keep_checkpoints", "log_interval", "register", "config"),
    clip.TrainClipConfig: (
        "num_workers",
        "gpu",
        "threads",
        "save_freq",
        "keep_checkpoints",
        "log_interval",
        "register",
        "config",
        "multi_config",
    ),
    OptimizeClipConfig: ("num_workers", "gpu", "threads", "save_freq", "keep_checkpoints", "log_interval", "register", "config"),
    CacheConfig: ("num_workers", "gpu", "threads", "overwrite", "download", "batch_size"),
    SsddbcConfig: ("num_workers", "gpu", "threads", "max_workers", "download", "batch_size"),
}


@pytest.mark.parametrize("kind", MACHINE)
def test_how_the_machine_is_used_is_in_no_key(kind):
    assert set(MACHINE[kind]) <= set(configuration.names_of(kind, "machine"))


def test_the_cores_are_in_no_key(defaults, monkeypatch):
    given = tiny.config(defaults / "glyphs", threads=0)
    monkeypatch.setattr(cores, "usable", lambda: 2)
    two = of_discovery(given)
    monkeypatch.setattr(cores, "usable", lambda: 64)
    assert of_discovery(given) == two == of_discovery(dataclasses.replace(given, threads=3))


def test_labels_for_each_class_leave_their_share_out(defaults):
    key = {share: of_discovery(tiny.config(defaults / "glyphs", labels_per_class=4, prop_train_labels=share)) for share in (0.5, 0.9)}
    assert key[0.5] == key[0.9] != of_discovery(tiny.config(defaults / "glyphs", labels_per_class=5))


def test_the_number_format_counts_and_not_how_it_was_asked_for(defaults):
    auto, named = (tiny.config(defaults / "glyphs", precision=name) for name in ("auto", "fp32"))
    made = [keys.of_stage("t", config, {"data": ""}, CPU, form) for config, form in ((auto, "fp32"), (named, "fp32"), (named, "bf16"))]
    assert made[0] == made[1] != made[2]


def test_two_equal_trainings_hand_on_the_same_content(place):
    files = [run.place / summary["checkpoint"] for summary, run in (place.publish(epochs=1), place.publish(epochs=1))]
    assert files[0].read_bytes() != files[1].read_bytes()  # they say how long they took
    digests = [states.content_digest(states.load_checkpoint(path)) for path in files]
    other_seed, run = place.publish(epochs=1, lr=3e-3)
    assert digests[0] == digests[1] != states.content_digest(states.load_checkpoint(run.place / other_seed["checkpoint"]))


def test_what_a_stage_of_posts_hands_on_are_its_files_without_reports():
    from core.stages.posts.pipeline import content_of

    def stage(**files: str) -> Any:
        names = {name: name.replace("__", "/").replace("_json", ".json") for name in files}
        return SimpleNamespace(manifest={names[name]: {"sha256": value} for name, value in files.items()})

    first = stage(posts__train="1", summary_json="2", checkpoints__epoch="3", posts__report_json="4")
    assert content_of(first) == content_of(stage(posts__train="1", summary_json="x", checkpoints__epoch="x", posts__report_json="x"))
    assert content_of(first) != content_of(stage(posts__train="x", summary_json="2", checkpoints__epoch="3", posts__report_json="4"))
