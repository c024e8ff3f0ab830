"""The typed configuration of every discovery stage: small groups of options, joined into one frozen dataclass a stage.

`auto` is filled in by core/training/recipes.py; the published recipe's value stands in the documentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from core.config import Auto, ConfigFile, option, place
from core.training.recipes import DATA_ROOT


def _has_pseudo_labels(config: Any) -> bool:
    """Say whether a training is given pseudo labels; a stage without that option makes its own."""
    return bool(getattr(config, "pseudo_labels_path", "made by the stage itself"))


def _pseudo(config: Any) -> bool:
    return _has_pseudo_labels(config) and config.pseudo_loss_weight != 0


def _contrasts(config: Any) -> bool:
    return config.sup_con_weight != 1


@dataclass(frozen=True)
class DataOptions:
    """Which images, and who is labelled."""

    superclass_name: str = option("", "one of CIFAR-100's 15 superclasses, or 'all'; giving it implies dataset=cifar100", digest="data")
    dataset: Literal["auto", "digits", "cifar100", "folder"] = option(
        "auto", "data set; auto = cifar100 with a superclass, what lies in data_root where one is given, else digits"
    )
    data_root: str = place(DATA_ROOT, "folder that holds cifar-100-binary(.tar.gz|.tar.xz), or the image folder with train/ and test/")
    novel_classes: str = option(
        "", "comma-separated novel class names of an image folder or of digits; empty = the data set's own", digest="data"
    )
    download: bool = option(True, "fetch CIFAR-100 from its publisher when data_root does not have it", affects_result=False)
    prop_train_labels: float | Auto = option("auto", "labelled share of the known classes' training images (published 0.8)", digest="data")
    labels_per_class: int = option(0, "labelled images per known class instead of a share; 0 = use prop_train_labels", digest="data")
    val_fraction: float = option(0.1, "share of the labelled images held out for model selection; 0 = published protocol", digest="data")
    seed: int = option(1, "seed of split, initialisation, sampling and views")


@dataclass(frozen=True)
class MachineOptions:
    """How the machine is used; nothing here changes what is computed, but for the batch size and the number format."""

    batch_size: int | Auto = option("auto", "global batch size, over all processes (published 128)")
    num_workers: int = option(8, "threads that read and augment images; at most 4 are used", affects_result=False)
    gpu: str = option("auto", "auto (CUDA, MPS, CPU in this order), cpu, mps, or a CUDA index", affects_result=False)
    threads: int | Auto = option(
        "auto", "CPU threads of a process's computations; 0 = all usable ones (small networks are faster on 1)", False
    )
    precision: Literal["auto", "bf16", "fp32"] = option(
        "auto", "number format of forward passes; auto = bf16 where the device is fast in it"
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
    grad_from_block: int | Auto = option("auto", "first trained block or stage; everything before it is frozen (published 11)")
    batch_norm: Literal["auto", "train", "frozen"] = option("auto", "batch statistics of trained layers: renewed or kept")
    image_size: int | Auto = option("auto", "side of the square crop in pixels (published 224)")
    head_hidden: int | Auto = option("auto", "hidden width of the projection head (published 2048)")
    head_bottleneck: int | Auto = option("auto", "bottleneck width of the projection head (published 256)")
    head_out: int | Auto = option("auto", "output width of the projection head (published 65536)")


@dataclass(frozen=True)
class LossOptions:
    """Optimiser and losses."""

    optimizer: Literal["auto", "sgd", "adamw"] = option("auto", "optimiser (published sgd)")
    lr: float | Auto = option("auto", "learning rate at epoch 0, cosine to a thousandth of it (published 0.1)")
    momentum: float = option(0.9, "momentum of sgd", acts=lambda c: c.optimizer == "sgd")
    weight_decay: float | Auto = option("auto", "weight decay (published 0.0001)")
    temperature: float | Auto = option("auto", "temperature of the contrastive loss over views (published 1.0)", acts=_contrasts)
    sup_con_temperature: float = option(
        0.07,
        "temperature of the supervised contrastive loss",
        acts=lambda c: c.sup_con_weight != 0 or (_pseudo(c) and c.pseudo_loss == "supcon"),
    )
    sup_con_weight: float | Auto = option("auto", "weight of the supervised against the unsupervised loss, 0..1 (published 0.5)")
    contrast_unlabel_only: bool = option(False, "unsupervised contrast on unlabelled images only", acts=_contrasts)
    n_views: int = option(2, "augmented views per image and step")
    view_cache: int = option(0, "frozen-trunk outputs of this many augmented views are kept per image; 0 = fresh views every epoch")


@dataclass(frozen=True)
class PseudoOptions:
    """How pseudo labels enter the loss."""

    pseudo_loss: Literal["auto", "soft", "supcon", "prototypical"] = option(
        "auto",
        "loss on pseudo-labelled samples: soft = prototypical and, on all samples, self-distillation towards the prototypes",
        acts=_pseudo,
    )
    pseudo_loss_weight: float | Auto = option("auto", "largest weight of the pseudo loss", acts=_has_pseudo_labels)
    pseudo_points: Literal["auto", "core", "agreed", "all"] = option(
        "auto", "who takes part: SSDDBC's core points, also points on which clusterings agree, or all", acts=_pseudo
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

    eval_funcs: str = option("v2", "comma-separated accuracy versions to report: v1, v2, v2b", affects_result=False)
    select_by: Literal["last", "val", "score", "oracle"] = option(
        "last",
        "best model: the last epoch (nothing is selected, nothing can leak), held-out accuracy (val), that + silhouette (score), "
        "or novel-class truth (oracle, tagged)",
    )
    save_best_thresh: float = option(-1.0, "a best checkpoint is kept only above this selection score")


@dataclass(frozen=True)
class ClusterOptions:
    """The SSDDBC grid."""

    k_min: int = option(3, "smallest number of neighbours")
    k_max: int = option(21, "largest number of neighbours, included")
    density_min: int = option(40, "smallest density percentile of core points")
    density_max: int = option(100, "largest density percentile, included")
    density_step: int = option(5, "step of the density percentile")
    max_workers: int = option(0, "parallel grid workers; 0 = half the usable cores", affects_result=False)
    cell_choice: Literal["auto", "coverage", "score"] = option(
        "auto", "the cell taken: highest score alone, or among the cells that recover most known classes and at least one novel cluster"
    )
    split_novel: bool = option(True, "split a novel cluster that is much larger than the known classes' typical cluster")
    debug_cluster_heatmap: bool = option(False, "heat maps with every background (all, old, new, n_clusters, score), not only two")


@dataclass(frozen=True)
class TrainConfig(PseudoOptions, EvalOptions, LossOptions, ModelOptions, MachineOptions, DataOptions, ConfigFile):
    """Train a model on one superclass (or all of them, one child run each), with or without pseudo labels."""

    train_all_superclasses: bool = option(False, "train the 15 superclasses one after another, a child run each", affects_result=False)
    epochs: int | Auto = option("auto", "total epochs, which also span the learning-rate schedule (published 200)")
    update_interval: int | Auto = option(
        "auto",
        "epochs between refreshes of the pseudo labels; sets the ramp (published 5)",
        acts=lambda c: _pseudo(c) and c.gamma_ramp == "intervals",
    )
    stop_at_epoch: int = option(0, "end after this global epoch; 0 = epochs", acts=lambda c: c.stop_at_epoch not in (0, c.epochs))
    pseudo_labels_path: str = place("", "pseudo labels (.npz path or URI) that offline_ssddbc_superclass wrote", "pseudo_labels")
    resume_from_ckpt: str = place("", "checkpoint (file, folder or URI) to continue from", "checkpoint")
    save_ckpt_every: int = option(0, "keep a checkpoint every so many epochs besides last and best; 0 = none", affects_result=False)
    save_features_and_exit: bool = option(False, "store the features of the last epoch's model before ending")


@dataclass(frozen=True)
class CacheConfig(MachineOptions, DataOptions):
    """Extract the features of a checkpoint with the evaluation transform, for training and test images."""

    model_path: str = place("", "checkpoint (file, folder, run or URI) to extract with", "checkpoint")
    seed: int | Auto = option("auto", "seed of the training whose checkpoint is wanted; auto = any")
    auto_find_best: bool = option(False, "take the best checkpoint that finished runs of this data set (and seed) have")
    all_superclasses: bool = option(False, "every superclass that has a best checkpoint, one child run each")
    weights: str = place("", "local .safetensors of the frozen backbone, when it is no longer where the training found it", "weights")
    image_size: int | Auto = option("auto", "side of the square crop in pixels; auto = the checkpoint's")
    use_l2: bool = option(True, "L2-normalise the features")
    overwrite: bool = option(False, "extract again even when the same features are stored", affects_result=False)


@dataclass(frozen=True)
class SsddbcConfig(ClusterOptions, MachineOptions, DataOptions):
    """Extract features of a checkpoint, search the SSDDBC grid on the training images, write pseudo labels."""

    seed: int | Auto = option("auto", "seed that the checkpoint must have been trained with; auto = any")
    ckpt_path: str = place("", "checkpoint (file, folder or URI) whose features are clustered", "checkpoint")
    weights: str = place("", "local .safetensors of the frozen backbone, when it is no longer where the training found it", "weights")
    image_size: int | Auto = option("auto", "side of the square crop in pixels; auto = the checkpoint's")
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
class PipelineConfig(ClusterOptions, PseudoOptions, EvalOptions, LossOptions, ModelOptions, MachineOptions, DataOptions):
    """Warm up, then cluster and train with pseudo labels in turn; from split to registered best model."""

    stage1_epochs: int | Auto = option("auto", "epochs before the first pseudo labels (published 50)")
    update_interval: int | Auto = option("auto", "epochs between refreshes of the pseudo labels (published 5)")
    total_epochs: int | Auto = option("auto", "all epochs (published 200)")
    save_ckpt_every: int = option(0, "keep a checkpoint every so many epochs besides last and best; 0 = none", affects_result=False)
    resume_run_id: str = option("", "continue this pipeline run, with its own options; total_epochs may be raised", affects_result=False)
    compare_without: bool | Auto = option(
        "auto", "also train the same epochs without pseudo labels, from the same warm-up, and report both"
    )
    register: bool = option(True, "register the best model", affects_result=False)


@dataclass(frozen=True)
class SplitConfig(DataOptions):
    """Write the labelled/unlabelled split of every superclass (or of the one named) as JSON."""

    dataset: Literal["digits", "cifar100", "folder"] = option("cifar100", "data set")
