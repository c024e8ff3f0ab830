"""The typed configuration of SuperCLIP training; names and defaults are those of the older tool where it had them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.config import HALF, SEED, Auto, ConfigFile, machine, option, place
from core.stages.kept import KEPT, Kept


def _weighs_classes(config: ClipLoss) -> bool:
    return config.use_superclip_loss and config.class_loss_weight != 0


def _weighs_anything(config: ClipLoss) -> bool:
    return config.use_weighted_sampling or (_weighs_classes(config) and bool(config.use_class_weights))


@dataclass(frozen=True)
class ClipData:
    """Which images and sentences, and who is held out."""

    data_dir: str = place("", "folder with <class>/* , or with train/, val/ and test/ that each hold <class>/*")
    class_texts_file: str = place("", "JSON {class folder: sentence, or list of sentences of which each image draws one a step}")
    val_fraction: float = option(
        0.15,
        "share of the training images that chooses the epoch, where data_dir has no val/; 0 = none",
        digest="data",
        **HALF,
    )
    test_fraction: float = option(
        0.15,
        "share of the images held out for testing, where data_dir has no parts and use_cv is off; 0 = none",
        digest="data",
        **HALF,
    )
    use_cv: bool = option(
        False, "stratified k-fold cross-validation over train (and val), one child run a fold; test/ stays untouched", digest="data"
    )
    n_splits: int = option(5, "folds of use_cv", digest="data")
    fold: int = option(0, "use_cv: train only this fold (from 1); 0 = all", digest="data", at_least=0)
    random_state: int = option(42, "seed of folds and splits", digest="data", **SEED)
    group_pattern: str = option("", "regular expression on <class>/<file>: images whose first (...) agrees are never parted", digest="data")
    groups_file: str = place("", "CSV with image_path (below data_dir) and group_column, instead of group_pattern")
    group_column: str = option("group", "column of groups_file", digest="data")


@dataclass(frozen=True)
class ClipTowersConfig:
    """The two towers."""

    image_encoder_name: str = option("resnet18", "any timm model, an open_clip tower (clip:ViT-B/32) or clip:small-<width>x<layers>")
    text_encoder_name: str = option(
        "clip:ViT-B/32",
        "an open_clip text tower, clip:small-<width>x<layers>, or hf:<folder or owner/name> of a pretrained sentence encoder",
        digest="text_encoder",
    )
    embed_dim: int = option(512, "width of the shared space; a sentence encoder of that very width needs no projection", above=0)
    image_pretrained: str = option("", "published weights of the image tower: an open_clip tag, timm's tag or default; empty = none")
    text_pretrained: str = option("", "published weights of the text tower: an open_clip tag; empty = none")
    image_weights: str = place("", "local .safetensors of the image tower; overrides image_pretrained", "tower")
    text_weights: str = place("", "local .safetensors of the text tower; overrides text_pretrained", "tower")
    context_length: int = option(0, "tokens a sentence may have; 0 = the text tower's own", at_least=0)
    lock_image: bool = option(False, "freeze the image network: its features are computed once and only the projection trains")
    lock_text: bool = option(False, "freeze the text tower: its embeddings are computed once")
    grad_from_block: int = option(0, "timm image towers: first trained stage, counted from 0; 0 = everything trains", at_least=0)
    view_cache: int = option(
        0, "augmented views of each image kept as the frozen part's outputs; 0 = augmented anew (locked: plain)", at_least=0
    )
    img_size: int = option(224, "side of the square crop in pixels", above=0)
    temperature: float = option(0.07, "temperature at the start; 0 = that of the weights", at_least=0)
    learnable_temperature: bool = option(True, "train the temperature; the scale stays at most 100")


@dataclass(frozen=True)
class ClipLoss:
    """Losses and sampling."""

    use_superclip_loss: bool = option(False, "class_loss_weight * L_class + contrastive_loss_weight * L_contrastive; else L_contrastive")
    class_loss_weight: float = option(
        1.0, "weight of the cross-entropy against the class sentences", acts=lambda c: c.use_superclip_loss, at_least=0
    )
    contrastive_loss_weight: float = option(
        1.0, "weight of the contrast in use_superclip_loss", acts=lambda c: c.use_superclip_loss, at_least=0
    )
    contrastive_targets: Literal["multi_positive", "instance"] = option(
        "multi_positive",
        "what is positive: every sentence of the image's class in the batch, or the image's own; the same where classes have one sentence",
        acts=lambda c: not c.use_superclip_loss or c.contrastive_loss_weight != 0,
    )
    use_class_weights: bool | Auto = option(
        "auto", "weight L_class by weight_method; auto = unless use_weighted_sampling corrects already", acts=_weighs_classes
    )
    use_weighted_sampling: bool = option(False, "draw images by weight_method, with replacement")
    weight_method: Literal["inverse_freq", "sqrt_inverse", "effective_num"] = option(
        "inverse_freq", "class weights: 1 / n, 1 / sqrt(n), or (1 - b) / (1 - b^n) with b = 0.9999", acts=_weighs_anything
    )
    weight_smooth_factor: float = option(
        1.0, "exponent of the class weights: 1 = as they are, 0 = all alike", acts=_weighs_anything, at_least=0
    )
    word_supervision: bool = option(False, "add the published SuperCLIP term: image tokens foretell the sentence's words")
    word_supervision_weight: float = option(1.0, "weight of that term", acts=lambda c: c.word_supervision, at_least=0)


@dataclass(frozen=True)
class ClipTraining:
    """Optimiser, epochs, machine."""

    epochs: int = option(100, "epochs", above=0)
    batch_size: int = option(32, "global batch size, over all processes", above=0)
    learning_rate: float = option(0.0001, "AdamW's learning rate at the start", above=0)
    scheduler: Literal["cosine", "none"] = option("cosine", "learning rate: cosine to a thousandth, or flat")
    weight_decay: float = option(0.01, "weight decay of matrices and kernels; biases, norms and the temperature have none", at_least=0)
    augmentation: Literal["none", "light", "standard", "strong"] = option(
        "standard", "how much training images are changed", acts=lambda c: c.view_cache > 0 or not c.lock_image
    )
    num_workers: int = machine(4, "threads that read and augment images; at most 4 are used", at_least=0)
    gpu: str = machine("auto", "auto (CUDA, MPS, CPU), cpu, mps, a CUDA index, or several (0,1) for folds and configurations")
    threads: int = machine(0, "CPU threads of a process's computations; 0 = all usable cores", at_least=0)
    use_amp: bool = option(
        True, "bf16 where the device is fast in it, else fp16 with loss scaling on CUDA, else fp32", digest="number_format"
    )
    seed: int = option(42, "seed of initialisation, sampling, augmentation and drawn sentences", **SEED)
    early_stopping_patience: int = option(0, "end after this many epochs without improvement; 0 = never", at_least=0)
    early_stopping_min_delta: float = option(
        0.001, "what counts as an improvement", acts=lambda c: c.early_stopping_patience > 0, at_least=0
    )
    early_stopping_monitor: Literal["val_loss", "val_acc", "val_map"] = option(
        "val_loss", "what has to improve: -log p of the class on validation, accuracy, or mAP", acts=lambda c: c.early_stopping_patience > 0
    )


@dataclass(frozen=True)
class TrainClipConfig(ClipTraining, ClipLoss, ClipTowersConfig, ClipData, ConfigFile):
    """Train an image and a text tower to classify images by a sentence a class, to a registered best model."""

    select_by: Literal["balanced_accuracy", "accuracy", "macro_f1", "mAP", "last"] = option(
        "balanced_accuracy",
        "validation metric that chooses the best epoch; last = the last epoch",
        acts=lambda c: getattr(c, "save_best", True) or c.wise_ft,
    )
    save_best: bool = option(True, "evaluate and register the best epoch; else the last one")
    save_best_thresh: float = option(-1.0, "a best checkpoint is kept only above this selection score")
    save_freq: int = machine(0, "keep a checkpoint every so many epochs besides last and best; 0 = none", at_least=0)
    keep_checkpoints: Kept = machine("needed", KEPT)
    log_interval: int = machine(10, "losses of every so many batches are logged as step/*; 0 = none", at_least=0)
    zero_shot: bool = option(True, "score the towers before training, beside the result")
    linear_probe: bool = option(True, "fit a linear classifier on the untrained image tower's features, beside the result")
    few_shot: bool = option(
        True,
        "score linear classifiers on 1, 4 and 16 images a class, and classes known by their sentences alone, on the untrained towers, "
        "beside the result",
    )
    wise_ft: bool = option(True, "score the best mix of the weights before and after training, chosen on validation, beside the result")
    resume: str = place("", "checkpoint (file, folder or URI) to continue from", "checkpoint")
    register: bool = machine(True, "register the model (never that of a fold)")
    multi_config: bool = machine(False, "config holds a list of configurations: one child run each")
