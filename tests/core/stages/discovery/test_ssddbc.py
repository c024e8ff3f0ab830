"""The clustering stage: every option does what it says; test and held-out images and hidden truth take no part."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from core.clustering import grid, pseudo_labels, roles
from core.data.problem import NOBODY_SAID, Truth
from core.stages.discovery import cache, ssddbc
from core.stages.discovery.config import CacheConfig, SsddbcConfig
from core.stages.discovery.feature_files import SPLITS
from tests.core.stages import tiny
from tests.core.stages.tiny import refused

GRID = {"gpu": "cpu", "k_min": 3, "k_max": 4, "density_min": 40, "density_max": 50, "density_step": 10}


@pytest.fixture
def cluster(place, shared, monkeypatch):
    """Return cluster(**options): the summary, run and pseudo labels of a clustering of the shared training."""
    monkeypatch.setattr("core.plots.figure.save", lambda _figure, path: path.write_bytes(b""))

    def made(**options):
        run = place.run()
        summary = ssddbc.run(SsddbcConfig(**GRID | {"ckpt_path": str(shared[0])} | options), run)
        return summary, run, pseudo_labels.read(run.place / summary["pseudo_labels"])

    return made


def cells(run) -> dict:
    return json.loads((run.place / "heatmaps" / "results_grid.json").read_text())["cells"]


def same(one, other) -> bool:
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name))
        for field in dataclasses.fields(one)
        if field.name not in ("metadata", "best_params")
    )


def test_what_a_clustering_leaves(clustered, shared):
    summary, run = clustered
    name = summary["pseudo_labels"].split("/")[-1]
    assert name.startswith("glyphs_epoch_2_k") and summary["epoch"] == 2
    assert {"manifest.json", "summary.json", f"pseudo_labels/{name}", "features/features.json"} <= set(run.files())
    assert {f"heatmaps/{x}" for x in ("all.png", "score.png", "results_grid.json")} <= set(run.files())
    assert "heatmaps/old.png" not in run.files()
    pseudo = pseudo_labels.read(run.place / summary["pseudo_labels"])
    assert pseudo.metadata["weights_digest"] == shared[1]["weights_digest"] and pseudo.metadata["epoch"] == 2
    assert run.history[-1][1] == 2 and run.forwarded == run.history


@pytest.mark.parametrize(
    "options, ks, percentiles",
    [
        ({}, (3, 4), (40, 50)),
        ({"k_min": 4, "k_max": 4}, (4,), (40, 50)),
        ({"k_max": 6}, (3, 4, 5, 6), (40, 50)),
        ({"density_min": 30}, (3, 4), (30, 40, 50)),
        ({"density_max": 75}, (3, 4), (40, 50, 60, 70)),
        ({"density_step": 5}, (3, 4), (40, 45, 50)),
    ],
)
def test_the_grid_is_the_one_asked_for(cluster, options, ks, percentiles):
    _summary, run, _pseudo = cluster(**options)
    assert set(cells(run)) == {f"k{k}_dp{p}" for k in ks for p in percentiles}


def test_neighbours_that_do_not_exist_are_left_out_or_refused(cluster):
    _summary, run, _pseudo = cluster(k_min=54, k_max=80, density_max=40)
    assert set(cells(run)) == {"k54_dp40", "k55_dp40"}  # 32 labelled and 24 unlabelled images
    assert "k_min = 56" in refused(lambda: cluster(k_min=56, k_max=60))


def test_as_many_workers_as_asked_for_and_the_same_result(cluster, monkeypatch):
    search, asked = grid.search, []
    monkeypatch.setattr(grid, "search", lambda *args: asked.append(args[5]) or search(*args))
    one, other = cluster(max_workers=1)[2], cluster(max_workers=2)[2]
    cluster(max_workers=0)
    assert asked == [1, 2, None] and same(one, other)


def test_the_cell_is_chosen_by_score_or_by_what_it_recovers(cluster, monkeypatch):
    asked = []
    monkeypatch.setattr(roles, "choose_cell", lambda partitions, *_: asked.append(len(partitions)) or 3)
    assert cluster(cell_choice="coverage")[0]["best_params"] == {"k": 4, "density_percentile": 50} and asked == [4]
    summary, run, _pseudo = cluster(cell_choice="score")
    best = max(cells(run).values(), key=lambda cell: cell["score"])
    assert summary["best_params"] == {name: best[name] for name in ("k", "density_percentile")} and asked == [4]


def test_the_cell_is_chosen_as_the_recipe_says_where_it_is_auto(cluster):
    assert cluster()[0]["best_params"] == cluster(cell_choice="coverage")[0]["best_params"]


@pytest.mark.parametrize("split", [True, False])
def test_novel_clusters_are_split_where_asked(cluster, monkeypatch, split):
    called = []
    monkeypatch.setattr(roles, "split_novel", lambda _features, targets, *_: called.append(1) or targets)
    _summary, _run, pseudo = cluster(split_novel=split)
    assert pseudo.metadata["n_novel"] >= 1 and bool(called) == split


def test_as_many_targets_as_classes_are_asked_for(cluster):
    found = [cluster(n_classes=n)[2] for n in (4, 6)]
    assert [int(pseudo.targets.max()) + 1 for pseudo in found] == [4, 6]


def test_of_many_images_a_sample_is_clustered(monkeypatch):
    rng, n = np.random.default_rng(0), 300
    features = SimpleNamespace(
        split=np.full(n, SPLITS.index("unlabelled")),
        ids=[str(i) for i in range(n)],
        features=rng.normal(size=(n, 4)).astype(np.float32),
        labels=np.full(n, -1),
    )
    trained = SimpleNamespace(split=SimpleNamespace(seed=1, labelled_share=None))
    monkeypatch.setattr(grid, "search", lambda *_: None)
    sizes = [len(ssddbc._search(SsddbcConfig(**GRID, cluster_sample=most), trained, features)[0].indices) for most in (120, 50_000)]
    assert sizes == [120, n]


def test_every_background_where_debugged(cluster):
    _summary, run, _pseudo = cluster(debug_cluster_heatmap=True)
    pictures = {name.split("/")[1] for name in run.files() if name.startswith("heatmaps/")}
    assert pictures == {"all.png", "score.png", "old.png", "new.png", "n_clusters.png", "results_grid.json"}


def test_the_epoch_that_names_the_outputs(cluster):
    summary, run, pseudo = cluster(current_epoch=37)
    assert summary["epoch"] == 37 == pseudo.metadata["epoch"] and "epoch_37_" in summary["pseudo_labels"]
    assert run.history[-1][1] == 37


def test_given_features_are_used_instead_of_extracting(cluster, shared, clustered, monkeypatch):
    monkeypatch.setattr(ssddbc.cache, "extract", lambda *_args, **_options: pytest.fail("extracted"))
    _summary, run, pseudo = cluster(skip_feature_extraction=True, features_path=str(shared[0] / "features"))
    summary, first = clustered
    assert same(pseudo, pseudo_labels.read(first.place / summary["pseudo_labels"]))
    assert not any(name.startswith("features/") for name in run.files())


def test_features_have_to_be_given_and_of_this_data_set(cluster, shared, place, tmp_path):
    assert "needs features_path" in refused(lambda: cluster(skip_feature_extraction=True))
    _summary, run = place.publish(seed=2, epochs=1, save_features_and_exit=True)
    line = refused(lambda: cluster(skip_feature_extraction=True, features_path=str(run.place / "features")))
    assert "another data set or split" in line


def test_features_have_to_be_of_this_checkpoint_and_of_unit_length(cluster, shared, place):
    def line(**made):
        run = place.run()
        cache.run(CacheConfig(**{"gpu": "cpu", "model_path": str(shared[0])} | made), run)
        return refused(lambda: cluster(skip_feature_extraction=True, features_path=str(run.place / "features")))

    _summary, other = place.publish(lr=3e-3, epochs=2)
    assert "are of another checkpoint; extract them from it" in line(model_path=str(other.place))
    assert "are not normalised (use_l2 = false)" in line(use_l2=False)
    assert "are of images of 16 pixels, not 12" in line(image_size=16)


def test_identities_and_change_rate_follow_the_previous_refresh(cluster, clustered, tmp_path):
    summary, run = clustered
    previous = pseudo_labels.read(run.place / summary["pseudo_labels"])
    renamed = dataclasses.replace(previous, labels=previous.labels + 7)
    pseudo_labels.write(tmp_path / "previous.npz", renamed)
    again, _run, pseudo = cluster(previous_pseudo_labels=str(tmp_path / "previous.npz"))
    assert np.array_equal(pseudo.labels, renamed.labels) and again["metrics"]["pseudo/label_change_rate"] == 0
    assert "pseudo/label_change_rate" not in summary["metrics"]


def test_a_previous_refresh_of_another_split_is_refused(cluster, clustered, tmp_path):
    summary, run = clustered
    previous = pseudo_labels.read(run.place / summary["pseudo_labels"])
    pseudo_labels.write(tmp_path / "p.npz", dataclasses.replace(previous, metadata=previous.metadata | {"split_digest": "other"}))
    assert "another split" in refused(lambda: cluster(previous_pseudo_labels=str(tmp_path / "p.npz")))


def test_held_out_and_test_images_take_no_part(clustered, shared, monkeypatch, cluster):
    summary, run = clustered
    pseudo = pseudo_labels.read(run.place / summary["pseudo_labels"])
    _folder, _summary, _run, config = shared
    data, split = ssddbc.rebuild.materials.load_data(config)
    assert sorted(pseudo.indices) == sorted([*split.labelled, *split.unlabelled])
    assert not set(pseudo.indices) & set(split.validation)
    assert set(pseudo.ids) <= set(data.train.ids)
    write = ssddbc.feature_files.write

    def spoilt(folder, m, train, test, *rest):
        train = train.copy()
        train[m.split.validation] = np.roll(train[m.split.validation], 1, axis=1)
        write(folder, m, train, np.roll(test, 3, axis=1), *rest)

    monkeypatch.setattr("core.stages.discovery.feature_files.write", spoilt)
    assert same(cluster()[2], pseudo)


def test_the_truth_of_unlabelled_images_steers_nothing(clustered, cluster, monkeypatch):
    summary, run = clustered
    read = ssddbc.rebuild.open_for_report

    def lying(*args, **options):
        """The same images, but the truth of the unlabelled ones rolled on."""
        trained, truth = read(*args, **options)
        hidden, labels = trained.split.unlabelled, truth.train.copy()
        assert (trained.data.train.labels[hidden] == -1).all()
        labels[hidden] = np.roll(labels[hidden], 7)
        return trained, dataclasses.replace(truth, train=labels)

    monkeypatch.setattr(ssddbc.rebuild, "open_for_report", lying)
    other, _run, pseudo = cluster()
    assert same(pseudo, pseudo_labels.read(run.place / summary["pseudo_labels"]))
    assert other["best_params"] == summary["best_params"]
    name = "pseudo/diagnostic_all_v2_all"
    assert other["metrics"][name] != summary["metrics"][name]


def hand_made() -> tuple[Truth, SimpleNamespace, pseudo_labels.PseudoLabels]:
    """Two labelled images, then six of class 0 and six of class 1, of which nobody said the last one's; 4 of them have no target.

    The cell: target 0 = images 2 to 5, target 1 = 6 to 9; k-means: 0 = 2 to 8, 1 = 9 to 13. Class 0 are 2 to 7.
    """
    n = np.arange(14)
    targets = np.repeat([0, 1, 0, 1, -1], [1, 1, 4, 4, 4])
    core = np.isin(n, (2, 3, 4, 7, 8, 9))
    pseudo = pseudo_labels.PseudoLabels(
        indices=n,
        ids=n.astype(str),
        labels=np.maximum(targets, 0),
        targets=targets,
        core_mask=core,
        agreed_mask=core & (n < 8),
        densities=1.0 / (1 + n),
        nearest=np.repeat([0, 1, 0, 1], [1, 1, 7, 5]),
        margins=n / 14,
        prototypes=np.eye(2, 3, dtype=np.float32),
        feature_mean=np.zeros(3, np.float32),
        best_params={},
        metadata={},
    )
    classes = np.repeat([0, 1, 0, 1, NOBODY_SAID], [1, 1, 6, 5, 1])
    return Truth(classes, n[:0], ("a", "b"), frozenset({0, 1})), SimpleNamespace(labelled=n[:2]), pseudo


def test_the_purity_of_each_kind_of_points_is_that_under_one_assignment_at_the_coverage_of_the_core():
    truth, split, pseudo = hand_made()
    metrics = ssddbc._diagnostics(truth, split, pseudo)
    purity = {kind: metrics[f"pseudo/diagnostic_{kind}_purity"] for kind in ("core", "agreed", "margin", "density", "all")}
    # 6 of 8 images with a target of the cell are core: three of each four by density, half of all 12, 5 to 8 and 11 to 13, by margin.
    assert purity == {"core": 5 / 6, "agreed": 3 / 4, "margin": 5 / 6, "density": 4 / 6, "all": 6 / 8}
    swapped = dataclasses.replace(pseudo, core_mask=np.isin(np.arange(14), (6, 7)))  # right among themselves, wrong among all
    metrics = ssddbc._diagnostics(truth, split, swapped)
    assert metrics["pseudo/diagnostic_core_purity"] == 0.0 and metrics["pseudo/diagnostic_core_v2_all"] == 1.0


def test_without_a_core_point_or_a_known_truth_there_is_no_purity():
    truth, split, pseudo = hand_made()
    bare = dataclasses.replace(pseudo, core_mask=np.zeros(14, bool), agreed_mask=np.zeros(14, bool))
    found = ssddbc._diagnostics(truth, split, bare)
    assert [name for name in found if name.endswith("purity")] == ["pseudo/diagnostic_all_purity"]
    unknown = dataclasses.replace(truth, train=np.full(14, NOBODY_SAID))
    assert ssddbc._diagnostics(unknown, split, pseudo) == {}


def test_the_purities_of_a_refresh_are_reported(clustered):
    metrics = clustered[0]["metrics"]
    assert all(0 < metrics[f"pseudo/diagnostic_{kind}_purity"] <= 1 for kind in ("core", "margin", "density", "agreed", "all"))


def test_the_file_of_features_hides_the_truth_of_unlabelled_images(clustered):
    features = ssddbc.feature_files.read(clustered[1].place / "features")
    labelled = features.split == SPLITS.index("labelled")
    assert (features.labels[labelled] >= 0).all() and (features.labels[~labelled] == -1).all()


def test_options_that_contradict_the_checkpoint_are_refused(cluster):
    for options in ({"seed": 5}, {"val_fraction": 0.3}, {"labels_per_class": 2}):
        (name,) = options
        assert name in refused(lambda options=options: cluster(**options))


@pytest.mark.parametrize("options, said", [({"ckpt_path": ""}, "ckpt_path is empty"), ({"batch_size": 0}, "batch_size = 0")])
def test_mistakes_are_named(cluster, options, said):
    assert said in refused(lambda: cluster(**options))


def test_images_that_changed_since_are_refused(cluster, tmp_path):
    other = tiny.make_images(tmp_path / "other" / "glyphs", seed=9)
    assert "data_digest differs" in refused(lambda: cluster(data_root=str(other)))
