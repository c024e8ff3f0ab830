"""Variants of bad cases, to train on beside the posts themselves: of their images, or of their texts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.config import check_limits
from core.data import bad_cases, post_augment, post_splits
from core.data.bad_cases import BadCases
from core.data.posts import Posts
from core.errors import UserError
from core.stages.inputs import file_at
from core.stages.posts import results
from core.stages.posts.config_tools import AugmentConfig, AugmentImagesConfig, AugmentTextsConfig
from core.tracking.recorder import Recorder

IMAGES, TEXTS = "augment_bad_cases", "augment_bad_cases_text"
IMAGE_FOLDER, IMAGE_CSV = "badcase_aug", "badcase_augmented.csv"
TEXT_FOLDER, TEXT_CSV = "badcase_text_aug", "badcase_text_aug.csv"
_QUALITY = 95


def run_images(config: AugmentImagesConfig, run: Recorder) -> dict[str, Any]:
    """Write badcase_aug/badcase_augmented.csv and badcase_aug/images/; return the report."""
    cases = _read(config)
    with results.made_in(run, IMAGE_FOLDER, config.output_dir) as (folder, publish):
        sources = cases.posts.images()  # every file is read once, so that a damaged one is named before anything is made
        (folder / "images").mkdir()
        rows, paths = [], []
        for i, guid in enumerate(cases.posts.guids):
            variants = post_augment.augment_image(sources.load(np.array([i]))[0], config.num_aug, config.seed, guid)
            for number, pixels in enumerate(variants, 1):
                path = folder / "images" / f"{_name(guid, 'image', number)}.jpg"
                Image.fromarray(pixels).save(path, "JPEG", quality=_QUALITY)
                rows.append(i)
                paths.append(path)
        texts = [cases.posts.texts[i] for i in rows]
        _write(folder / IMAGE_CSV, cases, rows, "image", texts, paths, config.data_root)
        return _finish(run, publish, {"kind": "image", "bad_cases": len(cases), "variants": len(rows), "unchanged": 0})


def run_texts(config: AugmentTextsConfig, run: Recorder) -> dict[str, Any]:
    """Write badcase_text_aug/badcase_text_aug.csv; variants that say the same as another are left out and counted."""
    cases = _read(config)
    with results.made_in(run, TEXT_FOLDER, config.output_dir) as (folder, publish):
        rows, texts, unchanged = [], [], 0
        for i, (guid, text) in enumerate(zip(cases.posts.guids, cases.posts.texts, strict=True)):
            said = {post_splits.normalise(text)}
            for variant in post_augment.augment_text(text, config.num_aug, config.seed, guid):
                if post_splits.normalise(variant) in said:
                    unchanged += 1
                    continue
                said.add(post_splits.normalise(variant))
                rows.append(i)
                texts.append(variant)
        _write(folder / TEXT_CSV, cases, rows, "text", texts, [cases.posts.image_paths[i] for i in rows], config.data_root)
        return _finish(run, publish, {"kind": "text", "bad_cases": len(cases), "variants": len(rows), "unchanged": unchanged})


def _read(config: AugmentConfig) -> BadCases:
    check_limits(config)
    if not config.badcase_csv:
        raise UserError("badcase_csv names no file; give the bad_cases.csv of mine_bad_cases (runs:/<id>/bad_cases)")
    return bad_cases.read(file_at(config.badcase_csv, "badcase_csv", "bad_cases*.csv"), config.data_root)


def _name(guid: str, kind: str, number: int) -> str:
    return f"{guid}-{kind}{number}"


def _write(path: Path, cases: BadCases, rows: list[int], kind: str, texts: list[str], images: list[Path], data_root: str) -> None:
    """Write the variants as a CSV of posts with `source_guid` and `origin`."""
    sources = [cases.posts.guids[i] for i in rows]
    count: Counter[str] = Counter()
    guids = []
    for guid in sources:
        count[guid] += 1
        guids.append(_name(guid, kind, count[guid]))
    posts = Posts(tuple(guids), tuple(texts), tuple(images), cases.posts.truth[rows], cases.posts.class_names)
    post_splits.write_csv(path, posts, data_root, {"source_guid": sources, "origin": [f"badcase_{kind}"] * len(rows)})


def _finish(run: Recorder, publish: Any, report: dict[str, Any]) -> dict[str, Any]:
    """Publish, record and print the report."""
    metrics = {f"augment/{name}": float(report[name]) for name in ("bad_cases", "variants", "unchanged")}
    report |= {"metrics": metrics}
    publish(report)
    run.metrics(metrics, 0)
    made = f"{report['variants']} {report['kind']} variants of {report['bad_cases']} bad cases"
    print(f"{made} ({report['unchanged']} said the same and were left out)")
    return report
