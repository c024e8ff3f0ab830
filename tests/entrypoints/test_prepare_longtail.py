"""The entry point in this process: what its run shows, and how it ends on a mistake."""

import pytest
from PIL import Image

from entrypoints import prepare_longtail


@pytest.fixture
def root(tracking_env):
    for value, place in enumerate(["train/rot/a", "train/rust/a", "val/rot/c"]):
        path = tracking_env / "crops" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 5), (50 * value, 0, 0)).save(path)
    return tracking_env / "crops"


def only_run(client):
    (found,) = client.search_runs([client.get_experiment_by_name("taxon").experiment_id])
    return found


def test_a_run_shows_files_figures_and_the_data(client, root, own_process_state):
    assert prepare_longtail.main([f"--train_dir={root}/train", f"--val_dir={root}/val", f"--output_dir={root}/out"]) == 0
    run = only_run(client)
    assert run.info.status == "FINISHED" and run.data.tags["taxon.data"] == "crops"
    assert run.data.metrics["data/imbalance_factor"] == 1 and run.data.metrics["data/train_images"] == 2
    stored = {artifact.path for artifact in client.list_artifacts(run.info.run_id, "metadata")}
    assert stored == {f"metadata/{name}" for name in ("train_metadata.csv", "val_metadata.csv", "class_weights.csv", "report.json")}
    assert {path.name for path in (root / "out").iterdir()} == {name.removeprefix("metadata/") for name in stored}


def test_an_unreadable_image_fails_the_run_with_one_line(client, root, own_process_state, capsys):
    (root / "val" / "rot" / "c.png").write_bytes(b"")
    assert prepare_longtail.main([f"--train_dir={root}/train", f"--val_dir={root}/val"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("taxon: error: ") and said.count("\n") == 1 and "c.png: not a readable image (empty file)" in said
    run = only_run(client)
    assert run.info.status == "FAILED" and "c.png" in run.data.tags["taxon.reason"]
    assert [artifact.path for artifact in client.list_artifacts(run.info.run_id, "metadata")] == ["metadata/report.json"]
