"""The typed configuration of training classifiers of posts; names and defaults are those of the older tool where it had them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.config import SEED, SHARE, ConfigFile, machine, option, place
from core.stages.kept import KEPT, Kept


def _towers(config: PostsModel) -> bool:
    return config.encoder == "towers"


def sides_read(config: PostsModel) -> tuple[str, ...]:
    """Return the sides of a post that a tower reads: n-grams stand in for the text's."""
    sides = ("image", "text") if config.modality == "both" else (config.modality,)
    return tuple(side for side in sides if side == "image" or _towers(config))


def _sees(config: PostsModel) -> bool:
    return "image" in sides_read(config)


def _reads_by_tower(config: PostsModel) -> bool:
    return "text" in sides_read(config)


def _fits(config: PostsModel) -> bool:
    """Say whether n-grams and image features are fitted, alone or beside towers."""
    return not _towers(config) or config.head_variant == "blend"


def _reads_ngrams(config: PostsModel) -> bool:
    return _fits(config) and config.modality != "image"


@dataclass(frozen=True)
class PostsData:
    """Which posts: the CSV files guid,text,image_path,label that `prepare_posts` (or a hand) wrote."""

    data_dir: str = place(
        "", "folder or URI (runs:/<id>/posts) with train.csv, val.csv and test.csv; what *_csv leave open is taken from it"
    )
    data_root: str = place("data/posts", "folder that image_path of the CSV files starts from")
    train_csv: str = place("", "CSV of the training posts, e.g. train_aug.csv")
    val_csv: str = place("", "CSV of the validation posts")
    test_csv: str = place("", "CSV of the test posts; without it and data_dir there is no test part")


@dataclass(frozen=True)
class PostsMachine:
    """How the machine is used."""

    num_workers: int = machine(4, "threads that make augmented views", at_least=0)
    gpu: str = machine("auto", "auto (CUDA, MPS, CPU in this order), cpu, mps, or a CUDA index")
    threads: int = machine(0, "CPU threads of a process's computations; 0 = all usable cores", at_least=0)
    use_amp: bool = option(
        True, "bf16 where the device is fast in it, else fp16 with loss scaling on CUDA, else fp32", digest="number_format"
    )


@dataclass(frozen=True)
class PostsModel:
    """What reads a post, and what decides."""

    encoder: Literal["towers", "tfidf"] = option(
        "towers", "towers = CLIP towers and a head; tfidf = word and character n-grams with logistic regression, the reference line"
    )
    modality: Literal["both", "image", "text"] = option("both", "what of a post is seen")
    model_name: str = option(
        "openai/clip-vit-base-patch32",
        "open_clip model whose two towers are taken",
        acts=lambda c: any(not getattr(c, f"{side}_encoder_name") for side in sides_read(c)),
    )
    image_encoder_name: str = option(
        "", "image tower instead of model_name's: a timm model, an open_clip tower, clip:small-<width>x<layers>", acts=_sees
    )
    text_encoder_name: str = option(
        "",
        "text tower instead of model_name's: an open_clip tower, clip:small-<width>x<layers> from scratch, or hf:<folder or owner/name> "
        "of a pretrained sentence encoder",
        acts=_reads_by_tower,
        digest="text_encoder",
    )
    weights: str = place("", "local .safetensors (or hub id) of a whole CLIP, for both towers", "towers")
    image_weights: str = place("", "local .safetensors of the image tower; overrides weights", "tower", _sees)
    text_weights: str = place("", "local .safetensors of the text tower; overrides weights", "tower", _reads_by_tower)
    image_pretrained: str = option("", "tag of published weights of the image tower (timm: default)", acts=_sees)
    text_pretrained: str = option("", "tag of published weights of the text tower", acts=_reads_by_tower)
    image_size: int = option(224, "side of the square image in pixels", acts=_sees, above=0)
    embed_dim: int = option(512, "width of the towers' shared space (that of the published weights, where there are any)", above=0)
    context_length: int = option(0, "tokens of a text that are read; 0 = the text tower's own", acts=_reads_by_tower, at_least=0)
    head_variant: Literal["base", "ln", "mlp", "gated", "blend"] = option(
        "base",
        "head over the joined embeddings (the older tool's best was ln); blend = the base head's probabilities joined with those of "
        "n-grams and of the frozen image tower, with weights fitted to training posts out of fold",
        acts=_towers,
    )
    dropout: float = option(0.15, "dropout after every ReLU of the head", acts=_towers)
    lora_rank: int = option(
        0, "rank of the low-rank change that pretrained towers train instead of their weights; 0 = none", acts=_towers, at_least=0
    )


@dataclass(frozen=True)
class PostsOptimiser:
    """Optimiser and learning rates."""

    epochs: int = option(12, "epochs", acts=_towers, above=0)
    freeze_epochs: int = option(
        1, "epochs at the start in which pretrained towers stay as they are; towers from scratch train at once", acts=_towers, at_least=0
    )
    lock_image: bool = option(
        False, "the image tower never trains; its features are computed once and kept", acts=lambda c: _towers(c) and _sees(c)
    )
    lock_text: bool = option(False, "the text tower never trains; its features are computed once and kept", acts=_reads_by_tower)
    batch_size: int = option(8, "posts of a batch", acts=_towers, above=0)
    lr: float = option(0.000008, "learning rate of pretrained towers", acts=_towers, above=0)
    head_lr: float = option(0.001, "learning rate of the head and of towers from scratch", acts=_towers, above=0)
    layer_decay: float = option(
        1.0,
        "learning rate of a pretrained tower's layer over that of the layer above it",
        acts=_towers,
        above=0,
        at_most=1,
        wrong=" must be above 0 and at most 1; 1 gives one learning rate a tower",
    )
    weight_decay: float = option(0.0001, "AdamW's weight decay of matrices; biases and norms have none", acts=_towers, at_least=0)
    use_cosine: bool = option(False, "learning rates fall to 0 as a cosine after the warm-up; else they stay", acts=_towers)
    warmup_ratio: float = option(0.0, "share of all steps in which the learning rates rise from 0", acts=_towers, **SHARE)
    clip_norm: float = option(1.0, "largest gradient norm; 0 = any", acts=_towers, at_least=0)
    early_stop: int = option(
        3,
        "end after this many epochs without a better validation score (macro_f1 for select_by = last); 0 = never",
        acts=_towers,
        at_least=0,
    )
    select_by: Literal["macro_f1", "accuracy", "balanced_accuracy", "last"] = option(
        "macro_f1", "validation metric that chooses the best epoch (and tau); last = the last epoch"
    )
    seed: int = option(1, "seed of initialisation, sampling, augmentation and dropout", **SEED)


@dataclass(frozen=True)
class PostsLoss:
    """Loss, cleaning, augmentation."""

    loss: Literal["ce", "focal", "cb", "combo"] = option(
        "ce", "cross-entropy, focal, class-balanced, or class-balanced focal; each is scaled to ce's size at the start", acts=_towers
    )
    gamma: float = option(2.0, "exponent of focal and combo", acts=lambda c: _towers(c) and c.loss in ("focal", "combo"), at_least=0)
    beta: float = option(
        0.9999,
        "effective-number parameter of cb and combo; 0 = no class weights",
        acts=lambda c: _towers(c) and c.loss in ("cb", "combo"),
        at_least=0,
        below=1,
        wrong=" must be at least 0 and below 1; 0.9999 is usual",
    )
    logit_adjustment: bool = option(
        False, "after every epoch take tau times the class prior out of the logits, tau chosen on validation", acts=_towers
    )
    cleaning: str = option(
        "light", "raw, light, standard, aggressive, or a comma-separated list of cleaning rules", acts=lambda c: c.modality != "image"
    )
    augment: bool = option(True, "crop, flip and recolour training images a little", acts=lambda c: _towers(c) and _sees(c))
    cached_views: int = option(
        4,
        "augmented views of each training image whose features a locked image tower keeps; 0 = the plain one only",
        acts=lambda c: _towers(c) and _sees(c) and c.augment,
        at_least=0,
    )
    word_dropout: float = option(
        0.0,
        "share of a training text's tokens that a text tower in training does not see",
        acts=lambda c: _reads_by_tower(c) and not c.lock_text,
        **SHARE,
    )


@dataclass(frozen=True)
class PostsTfidf:
    """The reference line, and what a blend has of it."""

    word_ngrams: int = option(2, "tfidf: longest word n-gram", acts=_reads_ngrams, above=0)
    char_ngrams: int = option(5, "tfidf: longest character n-gram, from 2; 0 = words only", acts=_reads_ngrams, at_least=0)
    min_count: int = option(2, "tfidf: training posts that an n-gram must be in", acts=_reads_ngrams, above=0)
    regularisation: float = option(1.0, "tfidf: inverse strength C of the logistic regression's penalty", acts=_reads_ngrams, above=0)
    image_regularisation: float = option(
        0.0003,
        "tfidf: the same for the standardised features of the frozen image tower",
        acts=lambda c: _fits(c) and _sees(c),
        above=0,
    )
    image_share: float = option(
        0.5,
        "tfidf with modality both: share of the image's log-probabilities in the decision, 0..1",
        acts=lambda c: not _towers(c) and c.modality == "both",
        **SHARE,
    )


@dataclass(frozen=True)
class OptimizeClipConfig(PostsTfidf, PostsLoss, PostsOptimiser, PostsModel, PostsMachine, PostsData, ConfigFile):
    """Train a classifier of posts (image + text) to a registered best model; resumable at any epoch."""

    save_best_thresh: float = option(-1.0, "a best checkpoint is kept only above this selection score", acts=_towers)
    save_freq: int = machine(0, "keep a checkpoint every so many epochs besides last and best; 0 = none", acts=_towers, at_least=0)
    keep_checkpoints: Kept = machine("needed", KEPT, acts=_towers)
    log_interval: int = machine(0, "losses of every so many batches are logged as step/*; 0 = none", acts=_towers, at_least=0)
    resume: str = place("", "checkpoint (file, folder or URI) to continue from", "checkpoint")
    register: bool = machine(True, "register the best model")
