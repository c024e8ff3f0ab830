"""From a folder of posts to predictions that were hardened honestly; each stage a process and a child run of its own.

    prepare -> train -> head variants, cleaning rules -> robustness -> bad cases out of fold -> image and text variants -> merge
    -> retrain -> compare with the first training on the untouched test part -> error analysis -> n-gram reference, blend
    -> predict by whichever of these did best on validation

A finished stage with the same key is reused, an interrupted training continues from its newest checkpoint: running the same command
again after a crash continues where it stopped.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from core import config as configuration
from core import digest
from core.data import post_splits
from core.data import posts as post_files
from core.models.post_head_names import BLEND
from core.stages import execute, keys
from core.stages.posts import checks, compare_variants, optimize, pipeline_report, results, robustness
from core.stages.posts import stages as declared
from core.stages.posts.augment import IMAGE_CSV, IMAGE_FOLDER, TEXT_CSV, TEXT_FOLDER
from core.stages.posts.checks import fitted
from core.stages.posts.config import OptimizeClipConfig
from core.stages.posts.config_tools import PostsPipelineConfig
from core.stages.server import StageServer
from core.stages.stage import Stage
from core.tracking import stage as stages
from core.tracking.recorder import Recorder
from core.tracking.stage import Finished
from core.training import precision

ENTRY_POINT = declared.POSTS_PIPELINE.name
# What no later stage reads: they also say when and where a stage ran.
UNREAD = {stages.SUMMARY, stages.ADDED, "config.json", "report.json", "history.json"}


def run(config: PostsPipelineConfig, run: Recorder) -> dict[str, Any]:
    """Run `posts_pipeline`; return its summary."""
    config = check(config)
    run.options(configuration.canonical(config))
    return Pipeline(config, run).run()


def check(config: PostsPipelineConfig) -> PostsPipelineConfig:
    """Return the configuration, its variants those that can be trained, or raise UserError for what a later stage would refuse."""
    checks.check_pipeline(config)
    robustness.chosen_corruptions(config.corruptions)
    post_splits.check_fractions(config.val_fraction, config.test_fraction, config.seed)
    results.require_folder(config.output_dir)
    precision.pick_device(config.gpu)
    # Wrong names and absent weights show here, not after the first stage.
    made, build = training_config(config), compare_variants.builder()
    build(made)
    if config.encoder == "tfidf":
        checks.announce(checks.idle_options(made) + checks.double_corrections(made))
    if config.encoder == "tfidf" or not config.variants:
        return config
    names, left_out = checks.head_variants(config, build)
    checks.announce(left_out)
    return dataclasses.replace(config, variants=",".join(names))


def training_config(config: PostsPipelineConfig, **places: str) -> OptimizeClipConfig:
    """Return the options of optimize_clip among those of the pipeline, and where its posts are."""
    return fitted(OptimizeClipConfig, config, **places)


class Pipeline:
    """One pipeline run: what it was asked for, its tracking run, and what its stages have made."""

    def __init__(self, config: PostsPipelineConfig, run: Recorder):
        self.config, self.run_ = config, run
        self.server = StageServer(declared.STAGES, ("core.models.open_clip_alone",))
        self.server.warm_up()
        self.device = precision.pick_device(config.gpu)
        self.number_format = precision.mixed_precision(config.use_amp, self.device)
        self.data_digest = data_digest(config)
        self.made: dict[str, Finished] = {}
        self.reused: list[str] = []
        run.dataset("posts", self.data_digest, config.data_root, "all parts")
        run.json(configuration.canonical(config), "config.json")

    def run(self) -> dict[str, Any]:
        """Run every stage in order and publish the pipeline's result."""
        config, towers = self.config, self.config.encoder == "towers"
        self._do("prepare", declared.PREPARE_POSTS, ())
        data = {"data_dir": str(self._folder("prepare", "posts"))}
        self._train("train", training_config(config, **data))
        if towers and config.variants:
            self._do("head variants", declared.HEAD_VARIANT_COMPARE, ("prepare",), **data)
        if config.rule_sets:
            self._do("cleaning rules", declared.PREPROCESS_COMPARE, ("prepare",), **data)
        judged = {**data, "weights": self._uri("train"), "max_posts": config.robustness_posts}
        self._do("robustness", declared.ROBUSTNESS_TEST, ("prepare", "train"), **judged)
        self._do("mine", declared.MINE_BAD_CASES, ("prepare",), **data)
        train_csv = self._variants(data)
        self._train("retrain", training_config(config, **data, train_csv=train_csv), ("merge",))
        pair = {"weights": self._uri("retrain"), "baseline_weights": self._uri("train")}
        self._do("compare with baseline", declared.COMPARE_WITH_BASELINE, ("prepare", "train", "retrain"), **data, **pair)
        self._do("error analysis", declared.ERROR_ANALYSIS, ("prepare", "retrain"), **data, weights=self._uri("retrain"))
        for name, others in self._others().items():
            self._train(name, dataclasses.replace(training_config(config, **data), **others))
        self._predict()
        return pipeline_report.publish(self)

    def _train(self, name: str, config: OptimizeClipConfig, after: tuple[str, ...] = ()) -> None:
        self._stage(name, declared.OPTIMIZE_CLIP, config, ("prepare", *after), optimize.key_of(config))

    def _others(self) -> dict[str, dict[str, Any]]:
        """Return by name what else may predict, beside what the options ask for: n-grams, and both together or the towers alone."""
        if self.config.encoder == "tfidf":
            return {}
        found: dict[str, dict[str, Any]] = {"reference": {"encoder": "tfidf"}}
        if self.config.head_variant == BLEND:
            return found | {"towers": {"head_variant": "base"}}
        return found | ({"blend": {"head_variant": BLEND}} if self.config.modality != "image" else {})

    def _variants(self, data: dict[str, str]) -> str:
        """Make variants of the bad cases, join them with the training posts and return the CSV of all."""
        listed = {"badcase_csv": str(self._folder("mine", "bad_cases") / "bad_cases.csv")}
        self._do("augment images", declared.AUGMENT_BAD_CASES, ("prepare", "mine"), **listed)
        self._do("augment texts", declared.AUGMENT_BAD_CASES_TEXT, ("prepare", "mine"), **listed)
        tables = {
            "badcase_image_csv": str(self._folder("augment images", IMAGE_FOLDER) / IMAGE_CSV),
            "badcase_text_csv": str(self._folder("augment texts", TEXT_FOLDER) / TEXT_CSV),
        }
        after = ("prepare", "mine", "augment images", "augment texts")
        self._do("merge", declared.MERGE_BADCASE_AUG, after, **data, **listed, **tables)
        return str(self._folder("merge", "train_aug") / "train_aug.csv")

    def _predict(self) -> None:
        """Predict by whichever training did best on validation."""
        trained = [name for name in pipeline_report.MODELS if name in self.made]
        given = {"weights": ",".join(map(self._uri, trained)), "predict_csv": str(self._folder("prepare", "posts") / "predict.csv")}
        self._do("predict", declared.PREDICT_TEST_CLIP, ("prepare", *trained), **given)

    def key(self) -> str:
        """Return the stage key of the pipeline itself: what its stages have made."""
        return self._key(ENTRY_POINT, self.config, tuple(self.made))

    def _uri(self, name: str) -> str:
        return f"runs:/{self.made[name].run_id}"

    def _folder(self, name: str, folder: str) -> Path:
        return self.made[name].folder / folder

    def _key(self, entry_point: str, config: Any, after: tuple[str, ...]) -> str:
        """Return a stage's key: its options, and digests of the data and of every file of the stages that it builds on."""
        read = digest.of_json([self.data_digest, {name: content_of(self.made[name]) for name in after}])
        return keys.of_stage(entry_point, config, {"data": read, "predictor": read}, self.device, self.number_format)

    def _do(self, name: str, stage: Stage, after: tuple[str, ...], **values: Any) -> None:
        """Do a stage with the pipeline's options and `values`."""
        self._stage(name, stage, fitted(stage.config, self.config, **values), after)

    def _stage(self, name: str, stage: Stage, config: Any, after: tuple[str, ...], key: str = "") -> None:
        """Reuse a finished stage or run it; either way its result is in `made` afterwards."""
        tags = {"taxon.data": "posts", "taxon.seed": str(self.config.seed)}
        registers = stage is declared.OPTIMIZE_CLIP and config.register
        key = key or self._key(stage.name, config, after)
        child = execute.Child(stage, config, name, key=key, registers=registers, tags=tags, follow=self._curve(name))
        done = execute.required(execute.below(child, self.run_, self.server))
        if done.reused:
            self.reused.append(name)
            for epoch, metrics in done.finished.summary.get("history", []):
                self._curve(name)(metrics, epoch)
        self.made[name] = done.finished

    def _curve(self, name: str) -> Any:
        """Return what puts a training's metrics onto the pipeline's page, under the stage's name."""
        return lambda values, step: self.run_.metrics({f"{name}/{key}": value for key, value in values.items()}, step)


def content_of(finished: Finished) -> str:
    """Return the digest of all that later stages can read of a stage: tables, pictures, classifiers."""
    files = finished.manifest.items()
    return digest.of_json({name: entry["sha256"] for name, entry in files if Path(name).name not in UNREAD and "checkpoints/" not in name})


def data_digest(config: PostsPipelineConfig) -> str:
    """Return the sha256 of the index files and of every file of data_root/data; UserError where the index cannot be read."""
    root = Path(config.data_root).expanduser()
    for name in (config.train_file, config.test_file):
        post_files.read_index(root / name)
    found = [digest.of_file(root / name) for name in (config.train_file, config.test_file)]
    folder = root / "data"
    files = sorted(entry.name for entry in os.scandir(folder) if entry.is_file()) if folder.is_dir() else []
    return digest.of_json([found, [[name, digest.of_file(folder / name)] for name in files]])
