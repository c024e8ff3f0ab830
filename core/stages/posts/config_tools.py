"""The typed configurations of all other stages on posts: preparing, comparing, hardening, judging, predicting, and all of it in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from core.config import SEED, SHARE, machine, option, place
from core.stages.posts.config import OptimizeClipConfig, PostsData, PostsLoss, PostsMachine, PostsModel, PostsOptimiser, PostsTfidf

PROBABILITY = SHARE | {"wrong": " is no probability; give a number from 0 to 1"}
NOT_NEGATIVE: dict[str, Any] = {"at_least": 0, "wrong": "; give 0 or more"}


@dataclass(frozen=True)
class PreparePostsConfig:
    """Split labelled posts into train, validation and test, grouped by image and text, and write them as CSV."""

    data_root: str = place("data/posts", "folder with the index files and data/<guid>.txt|jpg")
    train_file: str = place("train.txt", "index of the labelled posts in data_root, header guid,tag")
    test_file: str = place("test_without_label.txt", "index of the posts to predict in data_root; empty = none")
    seed: int = option(1, "seed of the split", **SEED)
    val_fraction: float = option(0.1, "share of the labelled posts for model selection", at_least=0, below=1)
    test_fraction: float = option(0.1, "share of the labelled posts that nothing is fitted to or selected by", at_least=0, below=1)
    output_dir: str = machine("", "folder that also gets the files; empty = only the run keeps them")


@dataclass(frozen=True)
class HeadVariantConfig(OptimizeClipConfig):
    """Train every head, and every modality alone, on the same posts with the same seeds; everything else as for optimize_clip."""

    variants: str = option(
        "base,ln,mlp,gated,image,text", "comma-separated values of head_variant, and image or text for it on that side alone"
    )
    seeds: int = option(1, "trainings of each variant, with seed, seed + 1, ...; figures are means over them", at_least=1)
    part: Literal["val", "test"] = option("val", "which posts the table is about; choose by val")


@dataclass(frozen=True)
class PreprocessConfig(OptimizeClipConfig):
    """Train once a set of cleaning rules, everything else equal; everything else as for optimize_clip."""

    rule_sets: str = option("raw,light,standard,aggressive", "comma-separated sets of cleaning rules; rules of one's own joined by +")
    seeds: int = option(1, "trainings of each set, with seed, seed + 1, ...; figures are means over them", at_least=1)
    part: Literal["val", "test"] = option("val", "which posts the table is about; choose by val")


@dataclass(frozen=True)
class MineBadCasesConfig(PostsTfidf, PostsLoss, PostsOptimiser, PostsModel, PostsMachine, PostsData):
    """List the training posts that a classifier which never saw them gets wrong or is unsure of, with thumbnails."""

    model: str = place(
        "",
        "run, folder, model or checkpoint of optimize_clip that has not seen these posts: it predicts them at once and nothing is "
        "trained; empty = classifiers trained on the other folds",
        "predictor",
    )
    folds: int = option(
        5,
        "parts that the training posts are predicted in, each by a classifier trained on the others",
        at_least=2,
        wrong="; a post can only be predicted by others' classifiers with 2 folds or more",
    )
    confidence_below: float = option(0.5, "right predictions of lower probability are bad cases too; 0 = only wrong ones", **PROBABILITY)
    shown: int = option(24, "bad cases on the page of thumbnails", **NOT_NEGATIVE)
    output_dir: str = machine("", "folder that also gets the files; empty = only the run keeps them")


@dataclass(frozen=True)
class RobustnessConfig:
    """Score a trained classifier under image and text corruptions in five severities; no figure of it selects anything."""

    data_dir: str = place("", "folder or URI (runs:/<id>/posts) with test.csv and val.csv")
    data_root: str = place("data/posts", "folder that image_path of the CSV starts from")
    part: Literal["test", "val"] = option("test", "which posts are damaged")
    test_csv: str = place("", "CSV of the test posts; empty = that of data_dir")
    val_csv: str = place("", "CSV of the validation posts; empty = that of data_dir")
    weights: str = place("", "run, folder or checkpoint (path or URI) that optimize_clip wrote", "predictor")
    corruptions: str = option("", "comma-separated names of image and text corruptions; empty = all of both")
    max_posts: int = option(0, "at most so many posts, drawn by the seed; 0 = all", **NOT_NEGATIVE)
    seed: int = option(1, "seed of noise, typos and of max_posts", **NOT_NEGATIVE)
    output_dir: str = machine("", "folder that also gets the files; empty = only the run keeps them")


@dataclass(frozen=True)
class AugmentConfig:
    """What both kinds of variants need."""

    badcase_csv: str = place("", "bad_cases.csv (path, folder or URI) of mine_bad_cases, or made by hand")
    data_root: str = place("data/posts", "folder that text_path and image_path start from; else the CSV's own folder")
    num_aug: int = option(1, "variants of each bad case", at_least=1, wrong="; give num_aug 1 or more")
    seed: int = option(1, "seed of the variants", at_least=0, wrong="; give seed 0 or more")
    output_dir: str = machine("", "folder that also gets the files; empty = only the run keeps them")


@dataclass(frozen=True)
class AugmentImagesConfig(AugmentConfig):
    """Make variants of the images of bad cases: crop of 0.85..1, flip, light colour jitter."""


@dataclass(frozen=True)
class AugmentTextsConfig(AugmentConfig):
    """Make variants of the texts of bad cases: synonyms of emoji, repeated letters, dropped words."""


@dataclass(frozen=True)
class MergeConfig:
    """Join training posts and variants of bad cases into train_aug.csv; refused when a validation or test post would come in."""

    data_dir: str = place("", "folder or URI (runs:/<id>/posts) with train.csv, val.csv and test.csv")
    data_root: str = place("data/posts", "folder that image_path of the CSV files starts from")
    train_csv: str = place("", "CSV of the training posts; empty = that of data_dir")
    val_csv: str = place("", "CSV of the validation posts; empty = that of data_dir")
    test_csv: str = place("", "CSV of the test posts; empty = that of data_dir")
    badcase_csv: str = place("", "bad_cases.csv: its reasons become a column, and only its posts may have variants; empty = none")
    badcase_image_csv: str = place("", "CSV of image variants (path, folder or URI) of augment_bad_cases, or by hand; empty = none")
    badcase_text_csv: str = place("", "CSV of text variants (path, folder or URI) of augment_bad_cases_text, or by hand; empty = none")
    output_dir: str = machine("", "folder that also gets the files; empty = only the run keeps them")


@dataclass(frozen=True)
class BaselineConfig:
    """Compare a classifier with a baseline on the untouched test posts: paired bootstrap and McNemar's test."""

    data_dir: str = place("", "folder or URI (runs:/<id>/posts) with test.csv")
    data_root: str = place("data/posts", "folder that image_path of the CSV starts from")
    test_csv: str = place("", "CSV of the test posts; empty = that of data_dir")
    weights: str = place("", "run of optimize_clip (runs:/<id> or its artifact folder) that may be better", "predictor")
    baseline_weights: str = place("", "run of optimize_clip that it is compared with", "predictor")
    metric: Literal["macro_f1", "accuracy", "balanced_accuracy"] = option("macro_f1", "what 'better' is about")
    resamples: int = option(2000, "bootstrap resamples", at_least=1)
    level: float = option(
        0.95,
        "level of the intervals; McNemar's test has to fall below 1 - level",
        above=0,
        below=1,
        wrong="; give a level between 0 and 1, e.g. 0.95",
    )
    seed: int = option(1, "seed of the resamples", **SEED)
    output_dir: str = machine("", "folder that also gets the files; empty = only the run keeps them")


@dataclass(frozen=True)
class ErrorAnalysisConfig:
    """Count the errors of a classifier, or of a bad_cases.csv, by what posts are like, with Wilson intervals and charts."""

    data_dir: str = place("", "folder or URI (runs:/<id>/posts) with train.csv, val.csv and test.csv")
    data_root: str = place("data/posts", "folder that paths of the CSV files start from")
    part: Literal["test", "val", "train"] = option("test", "which posts; with badcase_csv those that were mined: train")
    train_csv: str = place("", "CSV of the training posts; empty = that of data_dir")
    val_csv: str = place("", "CSV of the validation posts; empty = that of data_dir")
    test_csv: str = place("", "CSV of the test posts; empty = that of data_dir")
    weights: str = place("", "run, folder or checkpoint that optimize_clip wrote: its errors are counted", "predictor")
    badcase_csv: str = place("", "bad_cases.csv instead: its rows whose two labels differ are the errors")
    output_dir: str = machine("", "folder that also gets the files; empty = only the run keeps them")


@dataclass(frozen=True)
class PredictConfig:
    """Write guid,tag for every post to predict, by the trained classifier that did best on validation."""

    weights: str = place(
        "", "run, folder, model or checkpoint of optimize_clip; of several, comma-separated, the best on validation predicts", "predictor"
    )
    data_root: str = place("data/posts", "folder with test_file and data/<guid>.txt|jpg; also what image_path of predict_csv starts from")
    test_file: str = place("test_without_label.txt", "index of the posts to predict in data_root, header guid,tag")
    predict_csv: str = place("", "CSV guid,text,image_path of the posts to predict instead (predict.csv of prepare_posts)")
    output: str = machine("", "file that also gets the predictions; empty = only the run keeps them")


@dataclass(frozen=True)
class PostsPipelineConfig(PostsTfidf, PostsLoss, PostsOptimiser, PostsModel, PostsMachine, PreparePostsConfig):
    """Prepare, train, compare, mine out of fold, augment, retrain, judge on the untouched test part, predict: one parent run."""

    output_dir: str = machine("", "folder that also gets summary.json, the pictures and test_with_label.txt")
    variants: str = option("base,ln,mlp,gated,image,text", "heads, and image or text alone, to compare; empty = none")
    rule_sets: str = option("raw,light,standard,aggressive", "cleaning rules to compare; empty = none")
    corruptions: str = option("", "comma-separated corruptions of robustness_test; empty = all")
    robustness_posts: int = option(0, "at most so many test posts are damaged; 0 = all", **NOT_NEGATIVE)
    folds: int = option(5, "folds in which bad cases are mined", at_least=2, wrong="; give 2 or more")
    confidence_below: float = option(0.5, "right predictions of lower probability are bad cases too", **PROBABILITY)
    num_aug: int = option(1, "image variants and text variants of each bad case", at_least=1, wrong="; give 1 or more")
    metric: Literal["macro_f1", "accuracy", "balanced_accuracy"] = option("macro_f1", "what 'better than before hardening' is about")
    register: bool = machine(True, "register the trained models")
