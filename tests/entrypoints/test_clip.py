"""`train_clip` through the real `mlflow run`: folds, a registered model that answers, and mistakes as one line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.core.stages.clip import tiny_clip
from tests.entrypoints.place import GUARD, broken_files

pytestmark = pytest.mark.slow

PREDICT = """
import json, mlflow, pandas, sys
model = mlflow.pyfunc.load_model("models:/taxon-clip-glyphs@challenger")
print(json.dumps(model.predict(pandas.DataFrame({"image": [sys.argv[1]]}))))
"""


def parameters(images, texts, **changed) -> dict[str, str]:
    tiny = (
        tiny_clip.TINY | {"data_dir": images, "class_texts_file": texts, "zero_shot": True, "linear_probe": True, "wise_ft": True} | changed
    )
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in tiny.items()}


@pytest.fixture(scope="module")
def clip(make_place):
    """Return a place with tiny images and their sentences."""
    place = make_place("clip")
    tiny_clip.make_images(place.folder / "glyphs")
    tiny_clip.write_sentences(place.folder / "texts.json")
    return place


def test_a_training_and_its_folds_through_mlflow_run(clip):
    given = (clip.folder / "glyphs", clip.folder / "texts.json")
    done = clip.run(clip.mlflow_command("train_clip", **parameters(*given, register=True, use_superclip_loss=True)))
    assert done.returncode == 0, done.stderr
    found = clip.parents()[0]
    assert found.info.status == "FINISHED" and {"best/test/mAP", "zero_shot/test/accuracy", "wise_ft/alpha"} <= set(found.data.metrics)
    assert broken_files(clip.artifacts(found.info.run_id)) == []
    image = str(clip.folder / "glyphs" / "bar" / "00_0.png")
    asked = subprocess.run(
        [sys.executable, "-c", PREDICT, image], cwd=clip.folder, env=clip.env, capture_output=True, text=True, timeout=GUARD
    )
    (answer,) = json.loads(asked.stdout.splitlines()[-1])
    assert answer["class"] in tiny_clip.COUNTS and 0.25 <= answer["confidence"] <= 1
    folds = clip.run(clip.mlflow_command("train_clip", **parameters(*given, use_cv=True, n_splits=2, epochs=1)))
    assert folds.returncode == 0, folds.stderr
    parent = clip.parents()[0]
    assert set(clip.children(parent.info.run_id)) == {"fold 1", "fold 2"} and "cv/std/best/test/accuracy" in parent.data.metrics
    assert {"cv_summary.json", "folds_info.json", "config.json", "history.json"} <= {
        path.name for path in clip.artifacts(parent.info.run_id).iterdir()
    }


def test_a_mistake_is_one_line_and_a_failed_run(clip):
    texts = clip.folder / "less.json"
    texts.write_text(json.dumps({"bar": "a bar", "cross": "a cross", "dot": "a dot", "rng": "a ring"}))
    done = clip.run(clip.command("train_clip", **parameters(clip.folder / "glyphs", texts)))
    said = [line for line in done.stderr.splitlines() if line.startswith("taxon: error: ")]
    assert done.returncode == 2 and len(said) == 1 and "no sentence for class 'ring'" in said[0] and "Traceback" not in done.stderr
    assert clip.parents()[0].info.status == "FAILED" and "'rng'" in clip.parents()[0].data.tags["taxon.reason"]
