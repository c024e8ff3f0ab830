"""What a classifier of posts has learnt from: no mining, training, comparison or damage test on it."""

from __future__ import annotations

import pytest

from core.errors import UserError
from core.lineage import Lineage, flat, read
from core.serving import posts as serving
from core.stages.posts import baseline, error_analysis, materials, mining, model, optimize, results, robustness
from core.stages.posts.config_tools import BaselineConfig, ErrorAnalysisConfig, MineBadCasesConfig, RobustnessConfig
from tests.core.stages.posts import hardening, tiny_posts
from tests.memory_run import MemoryRun


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    """Return (folder of posts, the weights file of a predictor that was trained on its training part)."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("leak")
        patch.setenv("TAXON_CACHE", str(place / "cache"))
        root = tiny_posts.write(place / "posts")
        training = tiny_posts.fitted(root, place / "work", epochs=1)
        serving.write(place / "predictor", training.predictor())
        return root, place / "predictor" / "model.safetensors"


def test_a_predictor_names_its_posts_by_picture_and_text(predictor):
    root, weights = predictor
    rows = tiny_posts.parts(root)
    assert read(weights) == Lineage(flat(results.items_of(rows["train"])), chosen=flat(results.items_of(rows["val"])))
    assert serving.read(weights.parent).lineage == read(weights)
    assert model.open_predictor(str(weights.parent)).lineage.trained


@pytest.mark.parametrize("option", ["weights", "image_weights", "text_weights"])
def test_out_of_fold_predictions_by_weights_that_know_the_posts_are_refused(predictor, tmp_path, monkeypatch, option):
    """The audit's leak: out-of-fold accuracy .978 on labels that have nothing to do with the texts."""
    root, weights = predictor
    monkeypatch.setattr(mining, "out_of_fold", lambda *_: pytest.fail("trained"))
    config = MineBadCasesConfig(data_dir=str(root), data_root=str(root), folds=2, **{option: str(weights)})
    with pytest.raises(
        UserError,
        match=rf"{option} = '.*model\.safetensors' has learnt from 36 of the 36 training posts",
    ):
        mining.run(config, MemoryRun(tmp_path))


@pytest.mark.parametrize("encoder", ["towers", "tfidf"])
@pytest.mark.parametrize("option", ["image_weights", "text_weights"])
def test_a_training_that_holds_them_out_refuses_them(predictor, tmp_path, monkeypatch, option, encoder):
    root, weights = predictor
    monkeypatch.setattr(materials, "build_net", lambda *_: pytest.fail("built"))
    rows = tiny_posts.parts(root)
    rows["train"], rows["val"] = rows["val"], rows["train"]
    config = tiny_posts.config(root, encoder=encoder, **{option: str(weights)})
    with pytest.raises(UserError, match=f"{option} = '.*' has learnt from 36 of the 36 validation posts"):
        if encoder == "tfidf":
            optimize.reference.fit(config, materials.gather(config, rows))
        optimize.PostsTraining(config, rows, MemoryRun(tmp_path), "", tmp_path)


def test_the_same_split_may_go_on_from_them(predictor):
    root, weights = predictor
    config = tiny_posts.config(root, text_weights=str(weights))
    found = materials.gather(config, materials.load_rows(config)).lineage
    assert found == read(weights)


def knowing(workplace, part: str, kind: str) -> None:
    keys = flat(results.items_of(hardening.part(workplace.root, part)))
    workplace.predictor.lineage = Lineage(**{kind: keys})


@pytest.mark.parametrize("kind", ["trained", "seen", "chosen"])
@pytest.mark.parametrize("tool", ["robustness", "errors", "weights", "baseline_weights"])
def test_no_tool_measures_on_test_posts_that_a_model_knows(workplace, monkeypatch, tool, kind):
    knowing(workplace, "test", kind)
    monkeypatch.setattr(baseline, "require_same_test", lambda *_: None)
    option = tool if tool.endswith("weights") else "weights"
    with pytest.raises(UserError, match=f"^{option} = 'runs:/one' has learnt from 12 of the 12 test posts"):
        if tool == "robustness":
            robustness.run(RobustnessConfig(**workplace.data(weights="runs:/one")), workplace.run())
        elif tool == "errors":
            error_analysis.run(ErrorAnalysisConfig(**workplace.data(weights="runs:/one")), workplace.run())
        else:
            clean, known = hardening.WordPredictor(), workplace.predictor
            monkeypatch.setattr(model, "open_predictor", lambda uri: known if uri == "runs:/one" else clean)
            given = {"weights": "runs:/two", "baseline_weights": "runs:/two"} | {tool: "runs:/one"}
            baseline.run(BaselineConfig(**workplace.data(**given)), workplace.run())


def test_the_training_part_may_be_looked_at_and_is_named(workplace, capsys):
    knowing(workplace, "train", "trained")
    error_analysis.run(ErrorAnalysisConfig(**workplace.data(weights="runs:/one", part="train")), workplace.run())
    assert "weights = 'runs:/one' has trained on 36 of these 36 posts" in capsys.readouterr().err
