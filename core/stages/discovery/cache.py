"""The feature stage: a checkpoint's features of all images under the evaluation transform, stored once."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from core.config import check_limits
from core.errors import UserError
from core.evaluation import features as features_module
from core.stages import execute, keys
from core.stages.discovery import feature_files, materials, rebuild
from core.stages.discovery.config import CacheConfig, MachineOptions
from core.stages.discovery.materials import SPLIT_OPTIONS
from core.tracking.recorder import Recorder
from core.training import recipes

ENTRY_POINT = "cache_features"


def run(config: CacheConfig, run: Recorder) -> dict[str, Any]:
    """Run `cache_features`: one checkpoint, or the best one of every superclass."""
    check_limits(config)
    if not config.all_superclasses:
        return cache(config, run)
    from core.data.superclasses import SUPERCLASSES
    from core.tracking.run import open_child
    from core.tracking.stage import trained_data

    done, trained = {}, trained_data()
    for superclass in SUPERCLASSES:
        one = dataclasses.replace(config, all_superclasses=False, auto_find_best=True, superclass_name=superclass.name)
        if f"cifar100/{superclass.name}" not in trained or not _best_uri(one):
            continue
        with open_child(run.run_id, f"{ENTRY_POINT} {superclass.name}", ENTRY_POINT, {}) as child:
            done[superclass.name] = cache(one, child)["features"]
    if not done:
        raise UserError(
            "all_superclasses: no finished training of a superclass in this store; run train_superclass or pseudo_pipeline first"
        )
    return {"features": done}


def cache(config: CacheConfig, run: Recorder) -> dict[str, Any]:
    """Extract and publish the features of one checkpoint; reuse stored ones unless `overwrite`."""
    uri = _best_uri(config) if config.auto_find_best else config.model_path
    if config.auto_find_best and not uri:
        raise UserError(
            "auto_find_best: no finished training of these images (with these labels, novel classes and options of the split) has a best "
            "checkpoint; run train_superclass first or give model_path"
        )
    done = execute.command(_job(config, uri), run, reuse=not config.overwrite)
    return done | {"features": f"runs:/{run.run_id}/features"}


def _job(config: CacheConfig, uri: str) -> execute.Job:
    """Open a checkpoint; the key of its features says whether they have been extracted before."""
    from core.tracking import stage

    trained = rebuild.open_checkpoint(uri, "model_path", config)
    model, m = trained.model()
    key = keys.of_stage(ENTRY_POINT, config, trained.digests, m.device, m.number_format)

    def describe(run: Recorder) -> None:
        run.dataset(m.data.name, m.data.digest, trained.config.data_root, "features")

    def work(run: Recorder, _unfinished: Any) -> dict[str, Any]:
        folder = stage.work_folder(key)
        run.tags({stage.KEY_TAG: key})
        describe(run)
        run.started()
        extract(trained, model, m, folder / "features", config, config.use_l2)
        summary = {"features": "features", "checkpoint": trained.path.name}
        stage.publish(run, folder, summary)
        shutil.rmtree(folder, ignore_errors=True)
        return summary

    return execute.Job(key, work, describe)


def extract(trained: rebuild.Trained, model: Any, m: Any, folder: Path, machine: MachineOptions, use_l2: bool) -> None:
    """Extract the features of training and test images as the `machine` options say and write them into `folder`."""
    from core.training.state import weights_digest

    train, test = (extractor.extract(model) for extractor in m.extractors(machine.batch_size, machine.num_workers))
    if use_l2:
        train, test = features_module.normalise(train), features_module.normalise(test)
    feature_files.write(folder, m, train, test, trained.facts, weights_digest(trained.state.model), use_l2)


def _best_uri(config: CacheConfig) -> str:
    """Return the URI of the best checkpoint among finished trainings on these images, by its own selection score; '' if none.

    Options of the split, and novel classes of a folder, have to be theirs where they are given.
    """
    from core.tracking.stage import best_checkpoint

    dataset = recipes.dataset_of(config)
    data = materials.read(recipes.resolve(config))
    given = {f.name: (getattr(config, f.name), f.default) for f in dataclasses.fields(config) if f.name in SPLIT_OPTIONS}
    drawn = {name: value for name, (value, default) in given.items() if value != default}
    named = config.novel_classes or dataset != "folder"
    return best_checkpoint(data.images_digest, drawn | ({"novel": list(data.novel_names)} if named else {}))
