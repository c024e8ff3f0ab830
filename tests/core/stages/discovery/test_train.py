"""Exact resume, refusals, and what never takes part, on tiny trainings of the real stage."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from core import lineage
from core.clustering import kmeans, n_classes
from core.data.loader import ViewLoader
from core.evaluation import discovery
from core.models.discovery import PROTOTYPES
from core.stages.discovery import materials, ssddbc, train
from core.stages.discovery.config import SsddbcConfig, TrainConfig
from core.training import state as states
from tests.core.stages import tiny
from tests.core.stages.discovery.test_answer import make_heap
from tests.core.stages.tiny import refused


class Killed(Exception):
    """Stands for a process that is gone."""


def timeless(history) -> list:
    """Return a history without its times."""
    return [[epoch, {name: value for name, value in metrics.items() if not name.startswith("time/")}] for epoch, metrics in history]


def killed_after(place, monkeypatch, epoch: int, **options) -> None:
    """Start a training and end it right after the checkpoint of `epoch`."""
    finish = train.Training.finish_epoch

    def finish_and_die(self, finished, metrics):
        finish(self, finished, metrics)
        if finished == epoch:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(train.Training, "finish_epoch", finish_and_die)
        with pytest.raises(Killed):
            place.fitted(**options)


def other_cache(place, monkeypatch, name: str) -> None:
    monkeypatch.setenv("TAXON_CACHE", str(place.folder / name))


@pytest.mark.parametrize(
    ("optimizer", "with_pseudo_labels", "objective"),
    [("adamw", False, "contrast"), ("adamw", True, "contrast"), ("sgd", False, "both"), ("sgd", True, "contrast"), ("adamw", True, "both")],
)
def test_a_killed_training_continues_exactly(place, monkeypatch, pseudo_path, optimizer, with_pseudo_labels, objective):
    options = {"epochs": 4, "optimizer": optimizer, "pseudo_labels_path": pseudo_path if with_pseudo_labels else "", "objective": objective}
    whole = place.fitted(**options)
    other_cache(place, monkeypatch, "second")
    killed_after(place, monkeypatch, 2, **options)
    resumed = train.Training(place.config(**options), place.run())
    assert resumed.epoch == 2
    resumed.fit()
    assert resumed.digest() == whole.digest()
    assert timeless(resumed.history) == timeless(whole.history)
    assert [step for _, step in resumed.run.history] == [0, 1, 2, 3, 4]
    assert ("L_pseudo" in resumed.history[-1][1]) == with_pseudo_labels
    assert resumed.facts["best"] == whole.facts["best"]


def test_two_segments_are_one_training(place, monkeypatch):
    whole, _run = place.publish(epochs=4)
    other_cache(place, monkeypatch, "second")
    _first, run = place.publish(epochs=4, stop_at_epoch=2)
    second, _run = place.publish(epochs=4, resume_from_ckpt=str(run.place))
    assert second["weights_digest"] == whole["weights_digest"] and timeless(second["history"]) == timeless(whole["history"])


@pytest.mark.parametrize("before", [{"objective": "contrast"}, {"objective": "both", "n_classes": 5}])
def test_a_classifier_that_the_checkpoint_lacks_starts_at_the_clusters_of_its_features(place, before):
    """All else goes on as it was: weights, moments, history."""
    _summary, run = place.publish(epochs=4, stop_at_epoch=2, **before)
    (path,) = (run.place / "checkpoints").glob("epoch_0002.safetensors")
    given = states.load_checkpoint(path)
    training = train.Training(place.config(epochs=4, objective="both", resume_from_ckpt=str(run.place)), place.run())
    own = training.model.trainable_state()
    assert all(torch.equal(own[name], value) for name, value in given.model.items() if name != PROTOTYPES)
    moments, kept = training.optimizer.state_dict()["state"], given.optimizer["state"]
    assert len(moments) == len(own) - 1 - sum(name.endswith("num_batches_tracked") or "running" in name for name in own)
    assert all(torch.equal(moments[i]["exp_avg"], kept[i]["exp_avg"]) for i in moments)
    assert len(training.model.prototypes) == len(tiny.CLASSES)
    torch.testing.assert_close(own[PROTOTYPES], centres_of(training))
    assert training.epoch == 2
    training.fit()
    assert training.history[-1][0] == 4 and "classifier/test/v2_all" in training.history[-1][1]


def centres_of(training) -> torch.Tensor:
    """Return the centres of the clusters of a training's features as they are, as many as its classifier has classes."""
    m, n = training.materials, len(training.model.prototypes)
    found = discovery.cluster(m.data, m.split, *training.features(), n, 1)
    return torch.nn.functional.normalize(torch.from_numpy(found.result.centres))


def test_a_warm_up_gives_its_classifier_to_the_same_images_and_labels_alone(place, tmp_path):
    _summary, run = place.publish(epochs=2, objective="both")
    (path,) = (run.place / "checkpoints").glob("epoch_0002.safetensors")
    given = states.load_checkpoint(path)
    for options, kept in (({}, True), ({"data_root": str(tiny.make_images(tmp_path / "others", seed=9))}, False)):
        training = train.Training(place.config(epochs=3, objective="both", warmup_model_dir=str(run.place), **options), place.run())
        own = training.model.trainable_state()
        assert all(torch.equal(own[name], value) for name, value in given.model.items() if name != PROTOTYPES)
        assert training.epoch == 0 and torch.equal(own[PROTOTYPES], given.model[PROTOTYPES]) == kept
        if not kept:
            torch.testing.assert_close(own[PROTOTYPES], centres_of(training))


def test_a_number_of_classes_is_estimated_once_from_the_weights_that_training_starts_with(place, tmp_path, monkeypatch):
    heap = str(make_heap(tmp_path))
    seen = []

    def counted(data, split, features, seed):
        seen.append(features.copy())
        return n_classes.Count(6, 3, 6, ())

    monkeypatch.setattr(discovery, "count_classes", counted)
    options = {"data_root": heap, "novel_classes": "", "objective": "both"}
    _summary, warm = place.publish(**options, epochs=2, n_classes=4)
    _summary, contrast = place.publish(**options | {"objective": "contrast"}, epochs=2)
    trained = train.Training(place.config(**options, epochs=3, warmup_model_dir=str(contrast.place)), place.run())
    np.testing.assert_allclose(seen[-1], trained.features()[0], rtol=0, atol=1e-6)
    assert len(trained.model.prototypes) == 6
    n = len(seen)
    goes_on = train.Training(place.config(**options, epochs=3, warmup_model_dir=str(warm.place)), place.run())
    assert len(goes_on.model.prototypes) == 4 and len(seen) == n
    resumed = train.Training(place.config(**options, epochs=4, resume_from_ckpt=str(warm.place)), place.run())
    assert len(resumed.model.prototypes) == 4 and len(seen) == n and resumed.epoch == 2
    joined = train.Training(place.config(**options, epochs=4, resume_from_ckpt=str(contrast.place)), place.run())
    np.testing.assert_allclose(seen[-1], joined.features()[0], rtol=0, atol=1e-6)
    assert len(joined.model.prototypes) == 6 and len(seen) == n + 1 and joined.epoch == 2


VALUES = {  # held-out accuracy, silhouette and All of epochs 0 to 3, by k-means and by the classifier
    "": ((0.1, 0.6, 0.5, 0.4), (0.0, 0.0, 0.1, 0.0), (0.1, 0.5, 0.6, 0.4)),
    "classifier/": ((0.1, 0.5, 0.4, 0.7), (0.0, 0.0, 0.0, -0.4), (0.1, 0.8, 0.5, 0.7)),
}


@pytest.mark.parametrize(
    ("select_by", "answers_by", "best"),
    [
        ("val", "kmeans", 1),
        ("val", "classifier", 3),
        ("val", "auto", 1),  # the classifier's .7 of epoch 3 does not answer: its silhouette is lower
        ("score", "kmeans", 1),
        ("score", "classifier", 1),
        ("oracle", "kmeans", 2),
        ("oracle", "classifier", 1),
        ("last", "classifier", 3),
    ],
)
def test_the_best_epoch_is_that_of_who_answers(place, monkeypatch, select_by, answers_by, best):
    def scripted(_self, epoch):
        names = ("val/accuracy_old", "selection/silhouette", "unlabelled/v2_all")
        return {way + name: values[epoch] for way, found in VALUES.items() for name, values in zip(names, found, strict=True)}

    monkeypatch.setattr(train.Training, "evaluate", scripted)
    summary, run = place.publish(epochs=3, objective="both", select_by=select_by, answers_by=answers_by, val_fraction=0.3)
    assert summary["chosen"]["epoch"] == best
    sums = {way: found[0][best] + found[1][best] for way, found in VALUES.items()}
    assert float(run.tagged["taxon.best_score"]) == pytest.approx(max(sums.values()))


def test_a_ceiling_wants_classes_that_somebody_knows(place, tmp_path):
    heap = {"data_root": str(make_heap(tmp_path)), "novel_classes": "", "objective": "classifier", "sup_con_weight": 1.0}
    assert "labels = all needs true classes" in refused(lambda: train.Training(place.config(**heap, labels="all"), place.run()))


def test_nothing_is_held_out_where_nothing_is_labelled_and_the_remedy_is_one(place, tmp_path):
    heap = make_heap(tmp_path)
    shutil.rmtree(heap / "labelled")
    options = {"data_root": str(heap), "novel_classes": "", "select_by": "score"}
    said = refused(lambda: materials.posed(place.config(**options)))
    assert "use val_fraction = 0 or use select_by = last" in said and "raise it" not in said
    materials.posed(place.config(**options, val_fraction=0.0))


def test_a_ceiling_is_told_every_class_and_held_out_images_stay_unseen(place):
    options = {"objective": "classifier", "labels": "all", "sup_con_weight": 1.0, "epochs": 2}
    training = place.fitted(**options)
    m, targets = training.materials, training._targets()
    used = np.sort(np.concatenate([m.split.labelled, m.split.unlabelled]))
    assert np.flatnonzero(targets.codes.numpy() >= 0).tolist() == used.tolist()
    assert targets.codes.numpy()[used].tolist() == training.truth.known_first[used].tolist()
    weights = training._loader().weights
    assert set(weights[used]) == {1.0} and not weights[m.split.validation].any()
    assert training.history[-1][1]["L_total"] == pytest.approx(training.history[-1][1]["L_class"])
    others = place.fitted(**options | {"labels": "given"})
    assert others.digest() != training.digest()
    learnt = lineage.flat(train.parts_of(m.data, m.split).unlabelled)
    assert learnt and learnt <= training.lineage.trained and not learnt & others.lineage.trained


def test_a_ceiling_is_tagged_and_nothing_goes_on_from_it(place):
    ceiling = {"objective": "classifier", "labels": "all"}
    _summary, run = place.publish(epochs=2, stop_at_epoch=1, **ceiling)
    assert run.tagged["taxon.select_by"] == "oracle" and json.loads(run.tagged["taxon.split"])["labels"] == "all"
    refusal = refused(lambda: train.Training(place.config(objective="classifier", resume_from_ckpt=str(run.place)), place.run()))
    assert refusal.startswith("the checkpoint to resume from was trained with labels = all, not given")
    told = refused(lambda: train.Training(place.config(objective="classifier", warmup_model_dir=str(run.place)), place.run()))
    assert "unlabelled images" in told
    assert "labels = all is the ceiling of a classifier" in refused(lambda: place.config(labels="all"))
    assert "hides some" in refused(lambda: place.config(hidden_classes=1, **ceiling))
    clustered = SsddbcConfig(ckpt_path=str(run.place), gpu="cpu")
    assert "was trained on every true class" in refused(lambda: ssddbc.begin(clustered))


def test_gamma_goes_on_over_segments(place, pseudo_path):
    """The ramp counts from the first pseudo labels, not from the resumed epoch."""
    _summary, run = place.publish(epochs=6, stop_at_epoch=2)
    first, run = place.publish(epochs=6, stop_at_epoch=3, resume_from_ckpt=str(run.place), pseudo_labels_path=pseudo_path)
    second, _run = place.publish(epochs=6, stop_at_epoch=5, resume_from_ckpt=str(run.place), pseudo_labels_path=pseudo_path)
    assert first["history"][-1][1]["gamma"] == pytest.approx(1 / 4)
    assert [metrics["gamma"] for _, metrics in second["history"][1:]] == pytest.approx([0, 0, 1 / 4, 2 / 4, 3 / 4])


@pytest.mark.parametrize("points", ["margin", "density"])
def test_the_coverage_goes_on_over_segments(place, monkeypatch, pseudo_path, points):
    """Who takes part is a function of the epoch: a training in segments is the whole one."""
    _summary, warm_up = place.publish(epochs=7, stop_at_epoch=1)
    given = {"epochs": 7, "pseudo_labels_path": pseudo_path, "pseudo_points": points, "pseudo_for_labeled_mode": "off"}
    given = given | {"pseudo_coverage": 0.2, "pseudo_coverage_end": 1.0}
    whole = place.fitted(**given, resume_from_ckpt=str(warm_up.place))
    sizes = [int((whole._targets(epoch).pseudo >= 0).sum()) for epoch in range(1, 7)]
    other_cache(place, monkeypatch, "second")
    _summary, run = place.publish(**given, stop_at_epoch=4, resume_from_ckpt=str(warm_up.place))
    other_cache(place, monkeypatch, "third")
    last = place.fitted(**given, resume_from_ckpt=str(run.place))
    assert [int((last._targets(epoch).pseudo >= 0).sum()) for epoch in range(1, 7)] == sizes == sorted(sizes)
    assert sizes[0] < sizes[2] < sizes[5]
    assert last.digest() == whole.digest() and timeless(last.history) == timeless(whole.history)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(place, monkeypatch, capsys):
    whole = place.fitted(epochs=4)
    other_cache(place, monkeypatch, "second")
    killed_after(place, monkeypatch, 3, epochs=4)
    (newest,) = (place.folder / "second").rglob("epoch_0003.safetensors")
    newest.write_bytes(newest.read_bytes()[:-100])
    resumed = train.Training(place.config(epochs=4), place.run())
    assert resumed.epoch == 2 and "epoch_0003.safetensors is damaged" in capsys.readouterr().err
    resumed.fit()
    assert resumed.digest() == whole.digest()


def test_a_finished_training_has_nothing_left_to_train(place):
    _summary, run = place.publish(epochs=2)
    again = train.Training(place.config(epochs=2, resume_from_ckpt=str(run.place)), place.run())
    digest = again.digest()
    again.fit()
    assert again.epoch == 2 and again.digest() == digest and len(again.run.history) == 3


@pytest.mark.parametrize(
    "options, named",
    [
        ({"seed": 2}, "split_digest"),
        ({"prop_train_labels": 0.5}, "split_digest"),
        ({"novel_classes": "dot"}, "data_digest"),
        ({"grad_from_block": 1}, "trunk_digest"),
        ({"image_size": 16}, "image_size"),
        ({"head_out": 16}, "head"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_by_name(place, shared, options, named):
    assert named in refused(lambda: train.Training(place.config(resume_from_ckpt=str(shared[0]), **options), place.run()))


def test_a_checkpoint_of_other_images_is_refused(place, shared, tmp_path):
    images = tiny.make_images(tmp_path / "other" / "glyphs", seed=5)
    line = refused(lambda: train.Training(place.config(resume_from_ckpt=str(shared[0]), data_root=str(images)), place.run()))
    assert "another data_digest" in line


def test_a_checkpoint_beyond_the_end_is_refused(place, shared):
    assert "raise epochs" in refused(lambda: train.Training(place.config(resume_from_ckpt=str(shared[0]), epochs=1), place.run()))


@pytest.mark.parametrize("options, said", [({"seed": 2}, "another split"), ({"novel_classes": "dot"}, "another data set")])
def test_pseudo_labels_of_something_else_are_refused_before_anything_is_built(place, pseudo_path, monkeypatch, options, said):
    monkeypatch.setattr(train.materials_module, "build_model", lambda *_: pytest.fail("built"))
    assert said in refused(lambda: place.fitted(pseudo_labels_path=pseudo_path, **options))


def test_a_loss_that_is_not_finite_ends_the_training_and_leaves_good_weights(place, monkeypatch):
    losses, epochs = train.DiscoveryTask.losses, []
    finish = train.Training.finish_epoch

    def spoilt(self, batch, epoch):
        found = losses(self, batch, epoch)
        return found | {"L_total": found["L_total"] * float("nan")} if epoch == 1 else found

    monkeypatch.setattr(train.DiscoveryTask, "losses", spoilt)
    monkeypatch.setattr(train.Training, "finish_epoch", lambda self, epoch, metrics: epochs.append(epoch) or finish(self, epoch, metrics))
    run = place.run()
    line = refused(lambda: train.train(place.config(epochs=4), run))
    assert "L_total is not finite in epoch 2" in line and epochs == [0, 1]
    assert not run.files() and max(step for _, step in run.history) == 1
    (newest,) = (place.folder / "cache").rglob("epoch_0001.safetensors")
    assert all(torch.isfinite(value).all() for value in states.load_checkpoint(newest).model.values())


def test_a_learning_rate_far_too_large_is_said_so(place):
    assert "lower lr" in refused(lambda: place.fitted(epochs=3, optimizer="sgd", lr=1e30))


@pytest.fixture
def watched(monkeypatch):
    """Return the points of every k-means fit, and those whose classes are counted."""
    fits = []
    fit, count = kmeans.semi_supervised_kmeans, n_classes.estimate

    def spy(features, *rest, **options):
        fits.append({row.tobytes() for row in np.asarray(features, np.float32)})
        return fit(features, *rest, **options)

    def counting(features, *rest):
        fits.append({row.tobytes() for row in np.asarray(features, np.float32)})
        return count(features, *rest)

    monkeypatch.setattr(discovery, "semi_supervised_kmeans", spy)
    monkeypatch.setattr(kmeans, "semi_supervised_kmeans", spy)
    monkeypatch.setattr(n_classes, "estimate", counting)
    return fits


def test_neither_test_nor_held_out_images_are_clustered(place, watched):
    training = place.fitted(epochs=1)
    watched.clear()
    training.evaluate(1)
    features, test = training.features()
    centred = discovery.centred(training.materials.split, features, test)
    taking_part = np.delete(np.arange(len(features)), training.materials.split.validation)
    allowed = {row.tobytes() for rows in (features, centred[0]) for row in rows[taking_part]}
    assert len(watched) > 4 and all(fit <= allowed for fit in watched)
    held_out = {row.tobytes() for rows in (features, centred[0]) for row in rows[training.materials.split.validation]}
    assert not any(fit & (held_out | {row.tobytes() for rows in (test, centred[1]) for row in rows}) for fit in watched)


def test_test_images_change_no_number_but_their_own(place):
    training = place.fitted(epochs=1)
    m = training.materials
    train_features, test = training.features()
    one = discovery.cluster(m.data, m.split, train_features, test, 4, 1)
    other = discovery.cluster(m.data, m.split, train_features, np.roll(test, 1, axis=0) * -1, 4, 1)
    assert np.array_equal(one.train, other.train) and np.array_equal(one.result.centres, other.result.centres)
    assert discovery.label_free(m.data, m.split, one, train_features) == discovery.label_free(m.data, m.split, other, train_features)


def test_held_out_images_are_in_no_batch_and_the_rest_is(place, monkeypatch):
    seen, build = set(), ViewLoader._build

    def spy(self, indices, parameters):
        seen.update(indices.tolist())
        return build(self, indices, parameters)

    monkeypatch.setattr(ViewLoader, "_build", spy)
    training = place.fitted(epochs=6, val_fraction=0.4)
    split = training.materials.split
    assert len(split.validation) == 14 and not seen & set(split.validation)
    assert seen <= {*split.labelled, *split.unlabelled} and len(seen) > 0.8 * (len(split.labelled) + len(split.unlabelled))


def test_only_labelled_images_have_a_class_in_the_loss(place):
    training = train.Training(place.config(), place.run())
    labels = training._targets().labels.numpy()
    assert np.array_equal(np.flatnonzero(labels >= 0), training.materials.split.labelled)


def test_a_published_training_leaves_its_work_folder_empty_and_a_manifest(shared, place):
    _folder, summary, run, _config = shared
    summary, run = place.publish(epochs=1)
    assert not list((place.folder / "cache" / "work").iterdir())
    assert {"manifest.json", "summary.json", "config.json", summary["checkpoint"]} <= set(run.files())
    assert not any(name.endswith((".pkl", ".pickle", ".pt", ".pth")) for name in run.files())


def test_more_classes_than_a_superclass_has_are_not_hidden_in_all_of_them():
    said = refused(lambda: train.run(TrainConfig(train_all_superclasses=True, hidden_classes=3), None))
    assert said.startswith("hidden_classes = 3, but flowers has 3 labelled classes, of which one must stay; use 2 at most")


def test_a_selection_by_held_out_images_wants_some_of_classes_that_are_not_hidden(place, monkeypatch):
    def all_withheld(posed, _n):
        return posed._replace(split=dataclasses.replace(posed.split, validation=np.zeros(0, np.int64)))

    config = place.config(select_by="val", hidden_classes=1)
    materials.posed(config)
    monkeypatch.setattr(materials, "withhold", all_withheld)
    assert "select_by = val, but val_fraction = 0.1" in refused(lambda: materials.posed(config))


def test_a_ceiling_s_classes_are_in_the_order_in_which_its_classifier_is_read(place, monkeypatch):
    """A known class without a labelled image comes after those that have some."""
    training = train.Training(place.config(objective="classifier", labels="all", sup_con_weight=1.0), place.run())
    m, classes = training.materials, training.truth.known_first
    first = m.data.train.labels[m.split.labelled] == 0
    split = dataclasses.replace(
        m.split, labelled=m.split.labelled[~first], unlabelled=np.union1d(m.split.unlabelled, m.split.labelled[first])
    )
    monkeypatch.setattr(training, "materials", dataclasses.replace(m, split=split))
    np.testing.assert_array_equal(training._all_classes(), np.array([2, 0, 1, 3])[classes])
    answered = discovery.classify(m.data, split, *training.features(), np.eye(4, training.model.feature_dim, dtype=np.float32))
    np.testing.assert_array_equal(answered.train[split.labelled], training._all_classes()[split.labelled])


def test_hidden_classes_are_scored_as_clusters_find_them_and_their_labels_train_nothing(place, monkeypatch):
    training = place.fitted(epochs=1, hidden_classes=1)
    m = training.materials
    assert not (training._targets().labels.numpy()[m.split.unlabelled] >= 0).any()
    metrics = training.history[-1][1]
    train_features, test = training.features()
    found = discovery.cluster(m.data, m.split, train_features, test, len(tiny.CLASSES), 1)
    hidden = np.flatnonzero(m.data.withheld >= 0)
    sizes = np.bincount(found.train[m.split.unlabelled], minlength=4)
    best = max(2 * n / (len(hidden) + max(n, 0.8 * sizes[c])) for c, n in enumerate(np.bincount(found.train[hidden], minlength=4)) if c > 1)
    assert metrics["selection/hidden"] == pytest.approx(best) and "selection/hidden" not in place.fitted(epochs=1).history[-1][1]
    assert "of which one must stay" in refused(lambda: place.fitted(hidden_classes=3))
