"""The typed configuration of training classifiers of posts; names and defaults are those of the older tool where it had them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.config import ConfigFile, option


@dataclass(frozen=True)
class PostsData:
    """Which posts: the CSV files guid,text,image_path,label that `prepare_posts` (or a hand) wrote."""

    data_dir: str = option(
        "", "folder or URI (runs:/<id>/posts) with train.csv, val.csv and test.csv; what *_csv leave open is taken from it"
    )
    data_root: str = option("data/posts", "folder that image_path of the CSV files starts from")
    train_csv: str = option("", "CSV of the training posts, e.g. train_aug.csv")
    val_csv: str = option("", "CSV of the validation posts")
    test_csv: str = option("", "CSV of the test posts; without it and data_dir there is no test part")


@dataclass(frozen=True)
class PostsMachine:
    """How the machine is used."""

    num_workers: int = option(4, "threads that make augmented views", affects_result=False)
    gpu: str = option("auto", "auto (CUDA, MPS, CPU in this order), cpu, mps, or a CUDA index", affects_result=False)
    threads: int = option(0, "CPU threads of a process's computations; 0 = all usable cores", affects_result=False)
    use_amp: bool = option(True, "bf16 where the device is fast in it, else fp16 with loss scaling on CUDA, else fp32")


@dataclass(frozen=True)
class PostsModel:
    """What reads a post, and what decides."""

    encoder: Literal["towers", "tfidf"] = option(
        "towers", "towers = CLIP towers and a head; tfidf = word and character n-grams with logistic regression, the reference line"
    )
    modality: Literal["both", "image", "text"] = option("both", "what of a post is seen")
    model_name: str = option("openai/clip-vit-base-patch32", "open_clip model whose two towers are taken")
    image_encoder_name: str = option(
        "", "image tower instead of model_name's: a timm model, an open_clip tower, clip:small-<width>x<layers>"
    )
    text_encoder_name: str = option(
        "", "text tower instead of model_name's: an open_clip tower, or clip:small-<width>x<layers> from scratch"
    )
    weights: str = option("", "local .safetensors (or hub id) of a whole CLIP, for both towers")
    image_weights: str = option("", "local .safetensors of the image tower; goes before weights")
    text_weights: str = option("", "local .safetensors of the text tower; goes before weights")
    image_pretrained: str = option("", "tag of published weights of the image tower (timm: default)")
    text_pretrained: str = option("", "tag of published weights of the text tower")
    image_size: int = option(224, "side of the square image in pixels")
    embed_dim: int = option(512, "width of the towers' shared space (that of the published weights, where there are any)")
    context_length: int = option(0, "tokens of a text that are read; 0 = the text tower's own")
    head_variant: Literal["base", "ln", "mlp", "gated"] = option("base", "head over the joined embeddings; the older tool's best was ln")
    dropout: float = option(0.15, "dropout after every ReLU of the head")
    lora_rank: int = option(0, "rank of the low-rank change that pretrained towers train instead of their weights; 0 = none")


@dataclass(frozen=True)
class PostsOptimiser:
    """Optimiser and learning rates."""

    epochs: int = option(12, "epochs")
    freeze_epochs: int = option(1, "epochs at the start in which pretrained towers stay as they are; towers from scratch train at once")
    lock_image: bool = option(False, "the image tower never trains; its features are computed once and kept")
    lock_text: bool = option(False, "the text tower never trains; its features are computed once and kept")
    batch_size: int = option(8, "posts of a batch")
    lr: float = option(0.000008, "learning rate of pretrained towers")
    head_lr: float = option(0.001, "learning rate of the head and of towers from scratch")
    layer_decay: float = option(1.0, "learning rate of a pretrained tower's layer over that of the layer above it")
    weight_decay: float = option(0.0001, "AdamW's weight decay of matrices; biases and norms have none")
    use_cosine: bool = option(False, "learning rates fall to 0 as a cosine after the warm-up; else they stay")
    warmup_ratio: float = option(0.0, "share of all steps in which the learning rates rise from 0")
    clip_norm: float = option(1.0, "largest gradient norm; 0 = any")
    early_stop: int = option(3, "end after this many epochs without a better validation score (macro_f1 for select_by = last); 0 = never")
    select_by: Literal["macro_f1", "accuracy", "balanced_accuracy", "last"] = option(
        "macro_f1", "validation metric that chooses the best epoch (and tau); last = the last epoch"
    )
    seed: int = option(1, "seed of initialisation, sampling, augmentation and dropout")


@dataclass(frozen=True)
class PostsLoss:
    """Loss, cleaning, augmentation."""

    loss: Literal["ce", "focal", "cb", "combo"] = option(
        "ce", "cross-entropy, focal, class-balanced, or class-balanced focal; each is scaled to ce's size at the start"
    )
    gamma: float = option(2.0, "exponent of focal and combo")
    beta: float = option(0.9999, "effective-number parameter of cb and combo; 0 = no class weights")
    logit_adjustment: bool = option(False, "after every epoch take tau times the class prior out of the logits, tau chosen on validation")
    cleaning: str = option("light", "raw, light, standard, aggressive, or a comma-separated list of cleaning rules")
    augment: bool = option(True, "crop, flip and recolour training images a little")
    cached_views: int = option(
        4, "augmented views of each training image whose features a locked image tower keeps; 0 = the plain one only"
    )
    word_dropout: float = option(0.0, "share of a training text's tokens that a text tower in training does not see")


@dataclass(frozen=True)
class PostsTfidf:
    """The reference line."""

    word_ngrams: int = option(2, "tfidf: longest word n-gram")
    char_ngrams: int = option(5, "tfidf: longest character n-gram, from 2; 0 = words only")
    min_count: int = option(2, "tfidf: training posts that an n-gram must be in")
    regularisation: float = option(1.0, "tfidf: inverse strength C of the logistic regression's penalty")
    image_regularisation: float = option(0.0003, "tfidf: the same for the standardised features of the frozen image tower")
    image_share: float = option(0.5, "tfidf with modality both: share of the image's log-probabilities in the decision, 0..1")


@dataclass(frozen=True)
class OptimizeClipConfig(PostsTfidf, PostsLoss, PostsOptimiser, PostsModel, PostsMachine, PostsData, ConfigFile):
    """Train a classifier of posts (image + text) to a registered best model; resumable at any epoch."""

    save_best_thresh: float = option(-1.0, "a best checkpoint is kept only above this selection score")
    save_freq: int = option(0, "keep a checkpoint every so many epochs besides last and best; 0 = none", affects_result=False)
    log_interval: int = option(0, "losses of every so many batches are logged as step/*; 0 = none", affects_result=False)
    resume: str = option("", "checkpoint (file, folder or URI) to continue from")
    register: bool = option(True, "register the best model", affects_result=False)
