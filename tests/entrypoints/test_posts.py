"""Posts through `mlflow run` and the entry points: trained, compared, predicted, served; and a mistake in one line."""

from __future__ import annotations

import csv
import sys

import pytest

from entrypoints import optimize_clip
from tests.core.stages.posts import tiny_posts

TINY = {
    "image_encoder_name": "small_cnn",
    "text_encoder_name": "clip:small-32x1",
    "context_length": "12",
    "embed_dim": "16",
    "image_size": "16",
    "epochs": "2",
    "batch_size": "8",
    "lock_image": "true",
    "cached_views": "1",
    "num_workers": "1",
    "threads": "1",
    "gpu": "cpu",
}


@pytest.mark.slow
def test_posts_are_trained_compared_predicted_and_served(make_place):
    place = make_place("posts")
    root = tiny_posts.write(place.folder / "root")
    given = {"data_dir": str(root), "data_root": str(root), **TINY}

    def ran(entry_point: str, make_command=place.command, **parameters: str):
        done = place.run(make_command(entry_point, **parameters))
        assert done.returncode == 0, done.stderr
        return done, place.parents()[0]

    _, trained = ran("optimize_clip", place.mlflow_command, **given)
    assert trained.info.status == "FINISHED" and "best/test/macro_f1" in trained.data.metrics
    _, reference = ran("optimize_clip", **given | {"encoder": "tfidf", "min_count": "1", "register": "false"})
    _, compared = ran("head_variant_compare", **given | {"variants": "base,text"})
    assert (place.artifacts(compared.info.run_id) / "comparison" / "bars.png").is_file()
    assert set(place.children(compared.info.run_id)) == {"head_variant_compare text seed 1"}, "the base head is trained already"
    _, cleaned = ran("preprocess_compare", **given | {"rule_sets": "raw,light", "encoder": "tfidf", "min_count": "1"})
    assert (place.artifacts(cleaned.info.run_id) / "comparison" / "table.csv").is_file()
    weights = f"runs:/{trained.info.run_id},runs:/{reference.info.run_id}"
    output = place.folder / "out.txt"
    ran("predict_test_clip", weights=weights, data_root=str(root), predict_csv=str(root / "predict.csv"), output=str(output))
    with open(root / "predict.csv", newline="") as file:
        asked = [row["guid"] for row in csv.DictReader(file)]
    with open(output, newline="") as file:
        assert [row["guid"] for row in csv.DictReader(file)] == asked
    served(place, root)


ASK = """
import sys, mlflow, pandas
model = mlflow.pyfunc.load_model("models:/taxon-posts@challenger")
(answer,) = model.predict(pandas.DataFrame({"image": [sys.argv[1]], "text": [sys.argv[2]]}))
assert answer["class"] in ("negative", "neutral", "positive") and 0 < answer["confidence"] <= 1
"""


def served(place, root) -> None:
    """Load the registered model as anyone would, and ask it about one post."""
    with open(root / "test.csv", newline="") as file:
        row = next(csv.DictReader(file))
    done = place.run([sys.executable, "-c", ASK, str(root / row["image_path"]), row["text"]])
    assert done.returncode == 0, done.stderr


def test_a_mistake_is_one_line_and_fails_the_run(client, tracking_env, own_process_state, capsys):
    assert optimize_clip.main([f"--data_dir={tracking_env}/absent", "--gpu=cpu"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("taxon: error: data_dir = ") and said.count("\n") == 1
    (run,) = client.search_runs([client.get_experiment_by_name("taxon").experiment_id])
    assert run.info.status == "FAILED" and "absent" in run.data.tags["taxon.reason"]
