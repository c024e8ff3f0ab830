"""What stands at the top of a training's page."""

from __future__ import annotations

from types import SimpleNamespace

from core.stages.discovery import training_note


def metrics(value: float, truth: bool, classifier: float = 0.0) -> dict[str, float]:
    if classifier:
        return metrics(value, truth) | {f"classifier/{name}": its for name, its in metrics(value + classifier, truth).items()}
    told = {f"{where}/v2_{part}": value for where in ("unlabelled", "test") for part in ("all", "old", "new")} if truth else {}
    return told | {"val/accuracy_old": value, "selection/silhouette": value / 2, "n_clusters": 4.0}


def note(labels: str = "given", truth: bool = True, answers_by: str = "auto", classifier: float = 0.0) -> str:
    split = SimpleNamespace(labelled=range(6), unlabelled=range(30))
    materials = SimpleNamespace(data=SimpleNamespace(name="glyphs"), split=split)
    history = [[epoch, metrics(value, truth, classifier)] for epoch, value in enumerate((0.25, 0.75, 0.5))]
    config = SimpleNamespace(labels=labels, model_name="small_cnn", select_by="val", answers_by=answers_by)
    return training_note.markdown(config, materials, history, 1)


def test_start_end_and_best_epoch_stand_side_by_side():
    lines = note().splitlines()
    assert lines[0] == "**glyphs**: small_cnn, 6 labelled and 30 unlabelled images." and lines[-1].startswith("Best by val.")
    assert lines[4] == "| frozen features (0) | 0.250 / 0.250 / 0.250 | 0.250 / 0.250 / 0.250 | 0.250 | 4 | 0.125 |"
    assert lines[5].startswith("| last epoch (2) | 0.500 /") and lines[6].startswith("| best epoch (1) | 0.750 /")


def test_figures_are_of_who_answers():
    better, worse = note(classifier=0.125), note(classifier=-0.125)
    assert "| last epoch (2) | 0.625 /" in better and "| last epoch (2) | 0.500 /" in worse
    assert "| last epoch (2) | 0.500 /" in note(classifier=0.125, answers_by="kmeans")
    assert "Figures of who answers (answers_by = auto). Best by val." in better and "who answers" not in note()
    assert "| last epoch (2) | 0.375 /" in note("all", classifier=-0.125)


def test_what_nobody_knows_and_what_a_ceiling_has_learnt_is_left_out():
    assert "All / Old / New" not in note(truth=False) and "| last epoch (2) | 0.500 | 4 | 0.250 |" in note(truth=False)
    assert "test All / Old / New" in note("all") and "unlabelled All" not in note("all")
