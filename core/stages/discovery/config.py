"""The typed configuration of every discovery stage: small groups of options, joined into one frozen dataclass a stage.

`auto` is filled in by core/training/recipes.py; the published recipe's value stands in the documentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from core.config import SEED, SHARE, Auto, ConfigFile, machine, option, place
from core.stages.kept import KEPT, Kept
from core.training.recipes import COVERED, DATA_ROOT, WITH_CLASSIFIER

Dataset = Literal["digits", "cifar100", "folder"]
EPOCHS: dict[str, Any] = {"at_least": 1, "wrong": "; train for at least 1 epoch"}


def _has_pseudo_labels(config: Any) -> bool:
    """Say whether a training is given pseudo labels; a stage without that option makes its own."""
    return bool(getattr(config, "pseudo_labels_path", "made by the stage itself"))


def _pseudo(config: Any) -> bool:
    return _has_pseudo_labels(config) and config.pseudo_loss_weight != 0


def _covers(config: Any) -> bool:
    return _pseudo(config) and config.pseudo_points in COVERED


def _contrasts(config: Any) -> bool:
    return config.sup_con_weight != 1 and config.objective != "classifier"


def _classifies(config: Any) -> bool:
    return config.objective in WITH_CLASSIFIER


def _distills(config: Any) -> bool:
    return _classifies(config) and config.sup_con_weight != 1


def _answers(config: Any) -> bool:
    """Say whether it matters who answers: to a pipeline, which registers a model, always; else to the choice of the best epoch."""
    return _classifies(config) and (hasattr(config, "register") or config.select_by != "last")


@dataclass(frozen=True)
class DataOptions:
    """Which images, and who is labelled."""

    superclass_name: str = option("", "one of CIFAR-100's 15 superclasses, or 'all'; giving it implies dataset=cifar100", digest="data")
    dataset: Literal["auto", Dataset] = option(
        "auto",
        "data set; auto = cifar100 with a superclass, what lies in data_root where one is given, else digits",
        digest="checkpoint",
    )
    data_root: str = place(DATA_ROOT, "folder that holds cifar-100-binary(.tar.gz|.tar.xz), or the image folder with train/ and test/")
    images: str = place("", "CSV file of images instead of folders: path, label (empty = unlabelled), truth, group, split", "data")
    bad_images: Literal["auto", "refuse", "skip"] = option(
        "auto", "unreadable images end the run, or are left out and listed in skipped.csv; auto = skip on a heap", digest="data"
    )
    follow_links: bool = option(False, "symbolic links may lead out of data_root", digest="data")
    novel_classes: str = option(
        "", "comma-separated novel class names of an image folder or of digits; empty = the data set's own", digest="data"
    )
    download: bool = machine(True, "fetch CIFAR-100 from its publisher when data_root does not have it")
    prop_train_labels: float | Auto = option(
        "auto", "labelled share of the known classes' training images (published 0.8)", digest="data", above=0, at_most=1
    )
    labels_per_class: int = option(
        0, "labelled images per known class instead of a share; 0 = use prop_train_labels", digest="data", at_least=0
    )
    val_fraction: float = option(
        0.1, "share of the labelled images held out for model selection; 0 = published protocol", digest="data", at_least=0, below=1
    )
    seed: int = option(1, "seed of split, initialisation, sampling and views", **SEED)


@dataclass(frozen=True)
class CountOptions:
    """How many classes there are."""

    n_classes: int | Auto = option(
        "auto", "number of classes, known and novel; auto = the declared one of a benchmark, an estimate on a heap", at_least=1
    )


@dataclass(frozen=True)
class MachineOptions:
    """How the machine is used; nothing here changes what is computed, but for the batch size and the number format."""

    batch_size: int | Auto = option("auto", "global batch size, over all processes (published 128)", above=0)
    num_workers: int = machine(8, "threads that read and augment images; at most 4 are used", at_least=0)
    gpu: str = machine("auto", "auto (CUDA, MPS, CPU in this order), cpu, mps, or a CUDA index")
    threads: int | Auto = machine(
        "auto", "CPU threads of a process's computations; 0 = all usable ones (small networks are faster on 1)", at_least=0
    )
    precision: Literal["auto", "bf16", "fp32"] = option(
        "auto", "number format of forward passes; auto = bf16 where the device is fast in it", digest="number_format"
    )


@dataclass(frozen=True)
class ModelOptions:
    """Backbone and projection head."""

    model_name: str = option("auto", "any timm model or small_cnn (published vit_base_patch16_224.dino)")
    weights: str = place("", "local .safetensors with the backbone's weights; empty = download the pretrained ones", "weights")
    warmup_model_dir: str = place(
        "",
        "checkpoint (file, folder or URI) whose trained weights are the starting point",
        "checkpoint",
        lambda c: not getattr(c, "resume_from_ckpt", ""),
    )
    grad_from_block: int | Auto = option("auto", "first trained block or stage; everything before it is frozen (published 11)", at_least=0)
    batch_norm: Literal["auto", "train", "frozen"] = option("auto", "batch statistics of trained layers: renewed or kept")
    image_size: int | Auto = option("auto", "side of the square crop in pixels (published 224)", above=0)
    head_hidden: int | Auto = option("auto", "hidden width of the projection head (published 2048)", above=0)
    head_bottleneck: int | Auto = option("auto", "bottleneck width of the projection head (published 256)", above=0)
    head_out: int | Auto = option("auto", "output width of the projection head (published 65536)", above=0)


@dataclass(frozen=True)
class LossOptions:
    """Optimiser and losses."""

    objective: Literal["auto", "contrast", "classifier", "both"] = option(
        "auto", "contrast over views, a classifier of known and novel classes that learns from itself (SimGCD), or both"
    )
    classifier_weight: float = option(
        1.0, "weight of the classifier's losses beside the contrast", acts=lambda c: c.objective == "both", above=0
    )
    entropy_weight: float | Auto = option(
        "auto", "weight of the mean entropy, which keeps classes from running empty (published 2)", acts=_distills, at_least=0
    )
    teacher_temperature: float = option(0.04, "temperature of the classifier's teacher, reached after a warm-up", acts=_distills, above=0)
    optimizer: Literal["auto", "sgd", "adamw"] = option("auto", "optimiser (published sgd)")
    lr: float | Auto = option("auto", "learning rate at epoch 0, cosine to a thousandth of it (published 0.1)", above=0)
    momentum: float = option(0.9, "momentum of sgd", acts=lambda c: c.optimizer == "sgd", **SHARE)
    weight_decay: float | Auto = option("auto", "weight decay (published 0.0001)", at_least=0)
    temperature: float | Auto = option("auto", "temperature of the contrastive loss over views (published 1.0)", acts=_contrasts, above=0)
    sup_con_temperature: float = option(
        0.07,
        "temperature of the supervised contrastive loss",
        acts=lambda c: (c.sup_con_weight != 0 and c.objective != "classifier") or (_pseudo(c) and c.pseudo_loss == "supcon"),
        above=0,
    )
    sup_con_weight: float | Auto = option("auto", "weight of the supervised against the unsupervised loss, 0..1 (published 0.5)", **SHARE)
    contrast_unlabel_only: bool = option(False, "unsupervised contrast on unlabelled images only", acts=_contrasts)
    n_views: int = option(2, "augmented views per image and step", at_least=2, wrong="; contrast needs at least 2 views of each image")
    view_cache: int | Auto = option(
        0,
        "frozen-trunk outputs of this many augmented views are kept per image; 0 = fresh views every epoch; "
        "auto = the most, at most 10, that take 8 GiB or less, 0 below 4 or where nothing is frozen",
        at_least=0,
    )


@dataclass(frozen=True)
class PseudoOptions:
    """How pseudo labels enter the loss."""

    pseudo_loss: Literal["auto", "soft", "supcon", "prototypical"] = option(
        "auto",
        "loss on pseudo-labelled samples: soft = prototypical and, on all samples, self-distillation towards the prototypes",
        acts=_pseudo,
    )
    pseudo_loss_weight: float | Auto = option("auto", "largest weight of the pseudo loss", acts=_has_pseudo_labels, at_least=0)
    pseudo_points: Literal["auto", "core", "margin", "density", "agreed", "all"] = option(
        "auto",
        "who takes part: SSDDBC's core points, those of largest margin between k-means clusters or of largest density, core points on "
        "which k-means agrees, or all",
        acts=_pseudo,
    )
    pseudo_coverage: float | Auto = option(
        "auto", "share of each cluster's unlabelled points that take part by margin or density", acts=_covers, above=0, at_most=1
    )
    pseudo_coverage_end: float | Auto = option(
        "auto", "that share in the last epoch; equal to pseudo_coverage = held", acts=_covers, above=0, at_most=1
    )
    pseudo_for_labeled_mode: Literal["auto", "off", "all"] = option(
        "auto", "off = unlabelled samples only, all = labelled ones too", acts=_pseudo
    )
    pseudo_weight_mode: Literal["none", "density", "inverse_density"] = option(
        "none", "weight of a pseudo-labelled sample by its density", acts=_pseudo
    )
    gamma_ramp: Literal["intervals", "total"] = option(
        "intervals", "ramp of the pseudo loss: over two update intervals or to the end", acts=_pseudo
    )


@dataclass(frozen=True)
class EvalOptions:
    """What is reported and what selects the best model."""

    eval_funcs: str = machine("v2", "comma-separated accuracy versions to report: v1, v2, v2b")
    select_by: Literal["last", "val", "score", "hidden", "oracle"] = option(
        "last",
        "best model: the last epoch (nothing is selected, nothing can leak), held-out accuracy (val), that + silhouette (score), that and "
        "the classes of hidden_classes (hidden), or novel-class truth (oracle, tagged)",
    )
    save_best_thresh: float = option(-1.0, "a best checkpoint is kept only above this selection score")
    answers_by: Literal["auto", "kmeans", "classifier"] = option(
        "auto",
        "who gives the answer that is judged and serves: k-means, or the classifier that objective=classifier|both trains; auto = the "
        "higher held-out accuracy + silhouette",
        acts=_answers,
    )


@dataclass(frozen=True)
class ClusterOptions:
    """The SSDDBC grid."""

    k_min: int = option(3, "smallest number of neighbours")
    k_max: int = option(21, "largest number of neighbours, included")
    density_min: int = option(40, "smallest density percentile of core points")
    density_max: int = option(100, "largest density percentile, included")
    density_step: int = option(5, "step of the density percentile", at_least=1)
    max_workers: int = machine(
        0, "parallel grid workers; 0 = half the usable cores", at_least=0, wrong="; use 0 (half the usable cores) or more"
    )
    cell_choice: Literal["auto", "coverage", "score"] = option(
        "auto", "the cell taken: highest score alone, or among the cells that recover most known classes and at least one novel cluster"
    )
    cluster_sample: int = option(
        50_000,
        "at most so many images are clustered, drawn by the seed: time grows with their square; the others get no pseudo label",
        above=99,
    )
    split_novel: bool = option(True, "split a novel cluster that is much larger than the known classes' typical cluster")
    debug_cluster_heatmap: bool = option(False, "heat maps with every background (all, old, new, n_clusters, score), not only two")


@dataclass(frozen=True)
class HiddenOptions:
    """A discovery whose answer is known."""

    hidden_classes: int = option(
        0,
        "so many labelled classes are not told to the training and scored as novel ones would be (selection/hidden): what trials are "
        "compared by, without the truth of unlabelled images",
        digest="data",
        at_least=0,
    )


@dataclass(frozen=True)
class TrainConfig(
    HiddenOptions, CountOptions, PseudoOptions, EvalOptions, LossOptions, ModelOptions, MachineOptions, DataOptions, ConfigFile
):
    """Train a model on one superclass (or all of them, one child run each), with or without pseudo labels."""

    train_all_superclasses: bool = machine(False, "train the 15 superclasses one after another, a child run each")
    epochs: int | Auto = option("auto", "total epochs, which also span the learning-rate schedule (published 200)", **EPOCHS)
    update_interval: int | Auto = option(
        "auto",
        "epochs between refreshes of the pseudo labels; sets the ramp (published 5)",
        acts=lambda c: _pseudo(c) and c.gamma_ramp == "intervals",
        above=0,
    )
    stop_at_epoch: int = option(0, "end after this global epoch; 0 = epochs", acts=lambda c: c.stop_at_epoch not in (0, c.epochs))
    pseudo_labels_path: str = place("", "pseudo labels (.npz path or URI) that offline_ssddbc_superclass wrote", "pseudo_labels")
    resume_from_ckpt: str = place("", "checkpoint (file, folder or URI) to continue from", "checkpoint")
    save_ckpt_every: int = machine(0, "keep a checkpoint every so many epochs besides last and best; 0 = none", at_least=0)
    keep_checkpoints: Kept = machine("needed", KEPT)
    labels: Literal["given", "all"] = option(
        "given",
        "all = train with every true class, novel ones too: no discovery but its ceiling (tagged oracle); needs objective=classifier",
    )
    save_features_and_exit: bool = option(False, "store the features of the last epoch's model before ending")


@dataclass(frozen=True)
class CheckpointOptions:
    """How the network of a checkpoint is brought back; what it was trained with says the rest."""

    batch_size: int | Auto = machine("auto", "images of a forward pass; auto = 256", above=0)
    weights: str = place("", "local .safetensors of the frozen backbone, when it is no longer where the training found it", "weights")
    image_size: int | Auto = option("auto", "side of the square crop in pixels; auto = the checkpoint's", digest="checkpoint", above=0)


@dataclass(frozen=True)
class CacheConfig(CheckpointOptions, MachineOptions, DataOptions):
    """Extract the features of a checkpoint with the evaluation transform, for training and test images."""

    model_path: str = place("", "checkpoint (file, folder, run or URI) to extract with", "checkpoint")
    # wider than what it overrides: auto is no seed to train with
    seed: int | Auto = option("auto", "seed of the training whose checkpoint is wanted; auto = any", digest="checkpoint", **SEED)  # type: ignore[assignment]
    auto_find_best: bool = option(
        False, "take the best checkpoint that finished runs of this data set (and seed) have", digest="checkpoint"
    )
    all_superclasses: bool = machine(False, "every superclass that has a best checkpoint, one child run each")
    use_l2: bool = option(True, "L2-normalise the features")
    overwrite: bool = machine(False, "extract again even when the same features are stored")


@dataclass(frozen=True)
class SsddbcConfig(CountOptions, ClusterOptions, CheckpointOptions, MachineOptions, DataOptions):
    """Extract features of a checkpoint, search the SSDDBC grid on the training images, write pseudo labels."""

    # wider than what it overrides: auto is no seed to train with
    seed: int | Auto = option("auto", "seed that the checkpoint must have been trained with; auto = any", digest="checkpoint", **SEED)  # type: ignore[assignment]
    ckpt_path: str = place("", "checkpoint (file, folder or URI) whose features are clustered", "checkpoint")
    skip_feature_extraction: bool = option(False, "use features_path instead of extracting")
    features_path: str = place(
        "",
        "features (folder or URI) that cache_features wrote, with skip_feature_extraction",
        "features",
        lambda c: c.skip_feature_extraction,
    )
    previous_pseudo_labels: str = place("", "pseudo labels of the refresh before, to keep cluster identities", "pseudo_labels")
    current_epoch: int = option(-1, "epoch that names the outputs; -1 = the checkpoint's")


@dataclass(frozen=True)
class PipelineConfig(CountOptions, ClusterOptions, PseudoOptions, EvalOptions, LossOptions, ModelOptions, MachineOptions, DataOptions):
    """Warm up, then cluster and train with pseudo labels in turn; from split to registered best model."""

    stage1_epochs: int | Auto = option(
        "auto", "epochs before the first pseudo labels (published 50)", at_least=1, wrong="; the warm-up takes at least 1 epoch"
    )
    update_interval: int | Auto = option("auto", "epochs between refreshes of the pseudo labels (published 5)", above=0)
    total_epochs: int | Auto = option("auto", "all epochs (published 200)")
    save_ckpt_every: int = machine(0, "keep a checkpoint every so many epochs besides last and best; 0 = none", at_least=0)
    keep_checkpoints: Kept = machine("needed", KEPT)
    resume_run_id: str = machine("", "continue this pipeline run, with its own options; total_epochs may be raised")
    compare_without: bool | Auto = option(
        "auto", "also train the same epochs without pseudo labels, from the same warm-up, and report both"
    )
    register: bool = machine(True, "register the best model")
    over_cluster: float = option(
        1.0,
        "so many times as many clusters in the answer and the registered model, for a person to merge",
        above=0,
    )
    export: str = option("", "also write the answer as (comma-separated): folders, links, fiftyone, labelstudio, coco")
    export_to: str = machine("", "new folder for the exports; empty = artifacts of the run, which links cannot be")
    suggest: int = option(20, "images named in suggest.csv, whose labels would help most", at_least=0)


@dataclass(frozen=True)
class SplitConfig(DataOptions):
    """Write the labelled/unlabelled split of every superclass (or of the one named) as JSON."""

    dataset: Literal["auto", Dataset] = option(
        "auto", "data set; auto = what lies in data_root where one is given, or the images of a table, else cifar100", digest="checkpoint"
    )


@dataclass(frozen=True)
class RelabelConfig:
    """Turn the categories that a person has named, merged, split or dropped into labels: a table for the next pseudo_pipeline."""

    clusters: str = place("", "clusters.json that the report of a pseudo_pipeline or assign run saved (path or runs:/ URI)", "clusters")
    run: str = option("", "the run it is of; empty = the one that it names")
    output: str = machine("", "new folder for images.csv; empty = artifacts only")
    take: Literal["all", "core"] = option("all", "images of a named category that get its label: all but its outliers, or its core alone")
