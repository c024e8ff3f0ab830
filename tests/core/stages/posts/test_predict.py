"""Predictions: every guid once, in the input's order, by the classifier that did best on validation."""

from __future__ import annotations

import numpy as np
import pytest

from core.errors import UserError
from core.lineage import Lineage, flat
from core.models.preprocessing import OLDER
from core.stages.posts import predict
from core.stages.posts.config_tools import PredictConfig
from tests.core.data import fake_posts
from tests.core.stages.posts import tiny_posts
from tests.memory_run import MemoryRun


class ByLength:
    """A classifier that goes by the length of texts."""

    class_names, image_size, needs_images = ("negative", "neutral", "positive"), 8, True
    preprocessing = OLDER

    def __init__(self, score=None, shift=0, held_out=("an image",), trained=()):
        self.lineage = Lineage(trained=flat([trained]), chosen=flat([held_out]))
        self.about, self.shift, self.seen = ({} if score is None else {"best/val/macro_f1": score}), shift, None

    def probabilities(self, texts, images):
        self.seen = images
        return np.eye(3)[[(len(text) + self.shift) % 3 for text in texts]] * 0.7 + 0.1


@pytest.fixture
def root(tmp_path):
    made = fake_posts.write(tmp_path / "root", n=6, n_predict=5)
    lines = (made / "test_without_label.txt").read_text().split()
    (made / "test_without_label.txt").write_text("\n".join([lines[0], *reversed(lines[1:])]))
    (made / "data" / "8.txt").write_text("longer than others")
    return made


@pytest.fixture
def told(tmp_path, monkeypatch):
    def tell(predictors, **options):
        monkeypatch.setattr(predict.model, "open_predictor", lambda uri: predictors[uri])
        run = MemoryRun(tmp_path / "run")
        return predict.run(PredictConfig(**options), run), run

    return tell


def test_every_guid_is_predicted_in_the_order_of_the_file(root, told, tmp_path):
    one = ByLength()
    summary, run = told({"a": one}, weights="a", data_root=str(root), output=str(tmp_path / "new" / "out.txt"))
    lines = (tmp_path / "new" / "out.txt").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["guid", "11", "10", "9", "8", "7"]
    assert lines[4] == f"8,{one.class_names[len('longer than others') % 3]}"
    assert (run.place / "predictions" / "test_with_label.txt").read_text().splitlines() == lines
    assert (run.place / "predictions" / "confidence.csv").read_text().splitlines()[1].endswith("0.800000")
    assert one.seen.shape == (5, 3, 8, 8) and summary["posts"] == sum(summary["tags"].values()) == 5


def test_a_csv_may_name_the_posts(tmp_path, told):
    root = tiny_posts.write(tmp_path / "tiny")
    summary, run = told({"a": ByLength()}, weights="a", data_root=str(root), predict_csv=str(root / "predict.csv"))
    guids = [line.split(",")[0] for line in (root / "predict.csv").read_text().splitlines()[1:]]
    lines = (run.place / "predictions" / "test_with_label.txt").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == guids and summary["posts"] == 12


def test_of_several_the_best_on_validation_predicts(root, told):
    predictors = {"a": ByLength(0.4), "b": ByLength(0.6, shift=1), "c": ByLength(0.5)}
    summary, run = told(predictors, weights="a, b,c", data_root=str(root))
    assert summary["weights"] == run.tagged["taxon.weights"] == "b" and predictors["b"].seen is not None and predictors["a"].seen is None


def recorded(folder, said):
    """Write what a training run keeps of its validation part, content -> predicted, all of them positive; return the folder."""
    (folder / "evaluation" / "val").mkdir(parents=True)
    rows = [f"g{n},positive,{predicted},{content}" for n, (content, predicted) in enumerate(said.items())]
    (folder / "evaluation" / "val" / "predictions.csv").write_text("\n".join(["guid,true,predicted,content", *rows]))
    return str(folder)


def test_candidates_of_other_splits_are_compared_on_what_all_hold_out(root, told, tmp_path, capsys):
    """`a` shines on easy posts of its own; of the two that both hold out, `b` has both right."""
    easy = {f"{n:016x}": "positive" for n in range(8)}
    a = recorded(tmp_path / "a", easy | {"c1 d1": "negative", "c2 d2": "positive"})
    b = recorded(tmp_path / "b", {"c1 d1": "positive", "c2 d2": "positive", "c3 d3": "negative", "c4 d4": "negative"})
    predictors = {a: ByLength(0.9, held_out=("x",)), b: ByLength(0.5, held_out=("y",))}
    assert told(predictors, weights=f"{a},{b}", data_root=str(root))[0]["weights"] == b
    assert "compared on the 2 posts that all hold out" in capsys.readouterr().err
    predictors[b] = ByLength(0.5, held_out=("y",), trained=("c1", "d2"))
    with pytest.raises(UserError, match="have no validation post in common; train them on one split"):
        told(predictors, weights=f"{a},{b}", data_root=str(root))
    (tmp_path / "c").mkdir()
    predictors[str(tmp_path / "c")] = ByLength(0.7, held_out=())
    with pytest.raises(UserError, match="does not say how it did on which validation post"):
        told(predictors, weights=f"{a},{tmp_path / 'c'}", data_root=str(root))


def test_other_index_files_are_read(root, told):
    summary, _ = told({"a": ByLength()}, weights="a", data_root=str(root), test_file="train.txt")
    assert summary["posts"] == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": " "}, "weights is empty"),
        ({"weights": "a,silent"}, "'silent' does not say how it did on validation"),
        ({"test_file": "absent.txt"}, "absent.txt cannot be read"),
        ({"output": "."}, "output = '.' is a folder"),
    ],
)
def test_mistakes_are_one_line(root, told, options, message):
    with pytest.raises(UserError, match=message):
        told({"a": ByLength(0.5), "silent": ByLength()}, **{"weights": "a", "data_root": str(root)} | options)


def test_missing_files_of_a_guid_are_listed_at_once(root, told):
    (root / "data" / "8.txt").unlink()
    (root / "data" / "9.jpg").unlink()
    with pytest.raises(UserError, match=r"lacks 2 files of test_without_label.txt: 8.txt, 9.jpg"):
        told({"a": ByLength()}, weights="a", data_root=str(root))


def test_the_written_lines_are_read_back():
    good = predict.table_of(("1", "2"), ["positive", "neutral"])
    predict.check(good, ("1", "2"), ByLength.class_names)
    for guids, names in ((("2", "1"), ByLength.class_names), (("1",), ByLength.class_names), (("1", "2"), ("positive",))):
        with pytest.raises(ValueError):
            predict.check(good, guids, names)
