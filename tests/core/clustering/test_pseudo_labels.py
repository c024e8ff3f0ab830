"""Pseudo labels: the file, what it refuses, identities from refresh to refresh, who takes part, what the loss is given."""

import dataclasses
import io
import json
import math
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clustering import grid, pseudo_labels, roles, ssddbc
from core.clustering.pseudo_labels import Points, build, centred, check_origin, file_name, largest, read, write
from core.errors import UserError

ABOUT = {"data": "digits", "data_digest": "d1", "split_digest": "s1", "seed": 3}


def blobs(n_each: int = 30, spread: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    """L2-normalised features (4 * n_each, 6) of four classes around four directions, and their truth."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), n_each)
    features = np.eye(6)[truth] + spread * rng.standard_normal((len(truth), 6))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), truth


def points() -> Points:
    """Classes 0 to 2 are known (0 and 2 by half their labels, 1 has none in this refresh's labels), 3 is novel."""
    features, truth = blobs()
    labels = np.where((np.arange(len(truth)) % 2 == 0) & np.isin(truth, (0, 2)), truth, -1)
    return Points(np.arange(len(truth)) * 2, np.array([f"train/{i:05d}" for i in range(len(truth))]), features, labels)


def chosen(given: Points) -> ssddbc.Clustering:
    return ssddbc.cluster(centred(given.features), given.labels, given.labels >= 0, 5, 60)


@pytest.fixture(scope="module")
def pseudo():
    given = points()
    return build(given, chosen(given), {"k": 5, "density_percentile": 60}, None, True, ABOUT)


def test_the_id_of_a_cluster_that_vanished_is_not_given_out_again():
    given = points()
    whole = chosen(given)
    halves = dataclasses.replace(whole, labels=np.where(np.arange(len(whole.labels)) % 2, whole.labels, whole.labels + whole.n_clusters))
    first = build(given, halves, {}, None, False, ABOUT)
    second = build(given, whole, {}, first, False, ABOUT)  # half of the clusters vanish, among them the largest id
    third = build(given, halves, {}, second, False, ABOUT)
    vanished = set(first.labels.tolist()) - set(second.labels.tolist())
    assert max(vanished) > max(second.labels) and second.ids_given == first.ids_given == halves.n_clusters
    assert not vanished & set(third.labels.tolist()) and third.ids_given == halves.n_clusters + whole.n_clusters


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text and "Traceback" not in text
    return text


def test_a_file_holds_everything_and_no_pickle(pseudo, tmp_path):
    path = tmp_path / file_name("trees", "epoch_9", 10, 85)
    assert path.name == "trees_epoch_9_k10_dp85.npz"
    write(path, pseudo)
    again = read(path)
    for field in dataclasses.fields(pseudo):
        assert np.array_equal(getattr(again, field.name), getattr(pseudo, field.name)), field.name
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            np.load(io.BytesIO(archive.read(name)), allow_pickle=False)


@pytest.mark.parametrize("kind", ["object array", "foreign npz", "pickle", "text", "cut short", "no file", "wrong texts"])
def test_what_is_no_such_file_is_refused_in_one_line(kind, pseudo, tmp_path):
    path = tmp_path / "labels.npz"
    write(path, pseudo)
    arrays = dict(np.load(path))
    if kind == "object array":
        np.savez(path, **arrays | {"ids": np.array([{"a": 1}], dtype=object)})
    elif kind == "foreign npz":
        np.savez(path, features=np.zeros(3))
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(arrays))
    elif kind == "text":
        path.write_text("labels")
    elif kind == "cut short":
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "no file":
        path.unlink()
    else:
        np.savez(path, **arrays | {"metadata": np.array("{")})
    with pytest.raises(UserError) as error:
        read(path)
    assert "labels.npz" in one_line(error) and "offline_ssddbc_superclass" in str(error.value)


def test_a_file_of_a_version_without_margins_is_refused_by_what_it_lacks(pseudo, tmp_path):
    write(tmp_path / "labels.npz", pseudo)
    arrays = dict(np.load(tmp_path / "labels.npz"))
    np.savez(tmp_path / "labels.npz", **{name: value for name, value in arrays.items() if name not in ("nearest", "margins")})
    with pytest.raises(
        UserError, match=r"it lacks nearest, margins\); give an .npz that this version's offline_ssddbc_superclass"
    ) as error:
        read(tmp_path / "labels.npz")
    one_line(error)


def test_a_pickle_in_the_file_is_never_executed(pseudo, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    write(tmp_path / "labels.npz", pseudo)
    arrays = dict(np.load(tmp_path / "labels.npz"))
    np.savez(tmp_path / "labels.npz", **arrays | {"labels": np.array([Trap()], dtype=object)})
    with pytest.raises(UserError):
        read(tmp_path / "labels.npz")
    assert not (tmp_path / "executed").exists()


def test_another_data_set_or_split_is_refused_by_name(pseudo):
    check_origin(pseudo, "d1", "s1", "p.npz")
    with pytest.raises(UserError, match=r"p\.npz.*another data set \(digits\)") as error:
        check_origin(pseudo, "d2", "s1", "p.npz")
    one_line(error)
    with pytest.raises(UserError, match=r"p\.npz.*another split \(seed 3\)") as error:
        check_origin(pseudo, "d1", "s2", "p.npz")
    one_line(error)


def test_labelled_images_are_trained_towards_their_class_and_the_novel_cluster_towards_its_own(pseudo):
    given, (_, truth) = points(), blobs()
    labelled = given.labels >= 0
    assert np.array_equal(pseudo.targets[labelled], np.searchsorted([0, 2], given.labels[labelled]))
    assert pseudo.metadata["n_classes"] == 2 and pseudo.metadata["n_novel"] == 2 == pseudo.targets.max() - 1
    assert len(set(pseudo.targets[truth == 3])) == 1 and pseudo.targets[truth == 3][0] >= 2


def test_agreed_points_are_core_points_and_take_part_by_name(pseudo):
    assert not (pseudo.agreed_mask & ~pseudo.core_mask).any() and pseudo.agreed_mask.any()
    core, agreed, everyone = (pseudo.taking_part(name) for name in ("core", "agreed", "all"))
    assert np.array_equal(core, pseudo.core_mask & (pseudo.targets >= 0))
    assert np.array_equal(agreed, pseudo.agreed_mask & (pseudo.targets >= 0))
    assert np.array_equal(everyone, pseudo.targets >= 0)
    assert agreed.sum() <= core.sum() < everyone.sum()


def test_margins_are_those_of_the_plain_formula_and_point_to_the_nearest_centre(pseudo):
    features = centred(points().features)
    centres = np.stack([features[pseudo.nearest == c].mean(axis=0) for c in range(pseudo.nearest.max() + 1)])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    for i in range(0, len(features), 7):
        cosines = [float(features[i] @ centre) for centre in centres]
        own = cosines.pop(pseudo.nearest[i])
        assert pseudo.margins[i] == pytest.approx(own - max(cosines), abs=1e-4)
    labelled = points().codes >= 0
    assert (pseudo.nearest[labelled] == points().codes[labelled]).all() and pseudo.nearest.max() == pseudo.targets.max()
    assert (pseudo.targets_of("margin") == pseudo.nearest).all() and (pseudo.targets_of("density") == pseudo.targets).all()


def test_by_margin_and_density_as_many_of_each_target_take_part_as_asked(pseudo):
    labelled = points().codes >= 0
    for name, groups in (("margin", pseudo.nearest), ("density", pseudo.targets)):
        part = pseudo.taking_part(name, 0.5, labelled)
        for group in np.unique(groups[groups >= 0]):
            free = (groups == group) & ~labelled
            assert (part & free).sum() == math.ceil(free.sum() / 2)
        assert not (part & labelled).any() and not part[groups < 0].any()


@given(st.data())
def test_the_largest_of_each_group_are_those_of_plain_sorting(data):
    n = data.draw(st.integers(1, 20))
    values = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=n, max_size=n)))
    groups = np.array(data.draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n)))
    free = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    share, more = sorted(data.draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    found = largest(values, groups, free, share)
    wanted = set()
    for group in range(3):
        members = sorted((i for i in range(n) if free[i] and groups[i] == group), key=lambda i: (-values[i], i))
        wanted |= set(members[: math.ceil(share * len(members) - 1e-9)])
        assert not members or share < 1e-6 or any(found[i] for i in members)
    assert set(np.flatnonzero(found)) == wanted
    assert not (found & ~largest(values, groups, free, more)).any()


def test_a_point_of_a_mixed_cluster_never_takes_part(pseudo):
    mixed = dataclasses.replace(pseudo, targets=np.where(np.arange(len(pseudo.targets)) < 10, roles.MIXED, pseudo.targets))
    assert not any(mixed.taking_part(name)[:10].any() for name in ("core", "agreed", "all"))


def test_k_means_names_no_target_that_has_no_point_and_so_no_prototype(monkeypatch):
    """A part of a split novel cluster may be one labelled stray: that has its class, and the part is left with k-means alone."""
    given = points()
    stray = np.flatnonzero(given.labels == 0)[0]

    def parted(_features, targets, *_rest):
        return np.where(np.arange(len(targets)) == stray, targets.max() + 1, targets)

    monkeypatch.setattr(roles, "split_novel", parted)
    found = build(given, chosen(given), {}, None, True, ABOUT)
    assert found.targets[stray] == 0 == found.nearest[stray] and found.nearest.max() < len(found.prototypes) == 4
    assert (found.nearest == -1).any() and not found.taking_part("margin")[found.nearest == -1].any()


def test_prototypes_are_unit_means_of_core_and_labelled_points(pseudo):
    given = points()
    np.testing.assert_allclose(np.linalg.norm(pseudo.prototypes, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(pseudo.feature_mean, given.features.mean(axis=0), rtol=1e-6)
    features = centred(given.features)
    for target, prototype in enumerate(pseudo.prototypes):
        mean = features[(pseudo.targets == target) & (pseudo.core_mask | (given.labels >= 0))].sum(axis=0)
        np.testing.assert_allclose(prototype, mean / np.linalg.norm(mean), atol=1e-5)


def test_identities_are_kept_between_refreshes(pseudo):
    given, found = points(), chosen(points())
    renamed = dataclasses.replace(found, labels=(found.n_clusters - 1 - found.labels).astype(np.int32))
    again = build(given, renamed, pseudo.best_params, pseudo, True, ABOUT)
    assert np.array_equal(again.labels, pseudo.labels)
    assert np.array_equal(build(given, renamed, pseudo.best_params, None, True, ABOUT).labels, renamed.labels)


def test_a_large_novel_cluster_is_split_only_where_asked():
    given = points()
    labels = np.where(np.isin(blobs()[1], (1, 3)), 2, np.where(blobs()[1] == 2, 1, 0)).astype(np.int32)
    found = dataclasses.replace(chosen(given), labels=labels)
    whole, split = (build(given, found, {}, None, choice, ABOUT) for choice in (False, True))
    assert whole.metadata["n_novel"] == 1 and split.metadata["n_novel"] == 2
    assert np.array_equal(split.labels, whole.labels)


def test_without_a_novel_cluster_there_are_the_classes_only():
    given = points()
    labels = np.where(blobs()[1] >= 2, 1, 0).astype(np.int32)
    found = build(given, dataclasses.replace(chosen(given), labels=labels), {}, None, True, ABOUT)
    assert found.metadata["n_novel"] == 0 and len(found.prototypes) == 2 and set(found.targets) <= {-1, 0, 1}


def test_centred_features_have_unit_rows_and_a_zero_row_stays():
    features = centred(np.array([[3.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]))
    np.testing.assert_allclose(features, [[1, 0], [-1, 0], [0, 0]])


def test_only_labels_of_labelled_images_exist_in_what_is_clustered():
    """Points carry no truth of unlabelled images, and nothing here takes any: the fields are the interface."""
    assert [field.name for field in dataclasses.fields(Points)] == ["indices", "ids", "features", "labels", "share"]
    given = points()
    other = dataclasses.replace(given, labels=np.where(given.labels >= 0, given.labels, -5))
    one, same = (json.dumps(part.codes.tolist()) for part in (given, other))
    assert one == same and set(np.flatnonzero(given.codes >= 0)) == set(np.flatnonzero(given.labels >= 0))
    assert pseudo_labels.Points.codes.fget(given).max() == 1


def counted(given: Points, n_classes: int | None, **changes):
    return build(given, dataclasses.replace(chosen(given), **changes), {}, None, True, ABOUT, n_classes=n_classes)


@pytest.mark.parametrize("n_classes", range(2, 9))
def test_a_settled_number_of_classes_is_met_exactly(n_classes):
    """SSDDBC finds 4: two known and two novel ones."""
    given = points()
    found = counted(given, n_classes)
    assert set(range(n_classes)) <= set(found.targets.tolist()) <= set(range(-1, n_classes))
    assert found.metadata["n_novel"] == n_classes - 2 and len(found.prototypes) == n_classes
    labelled = given.labels >= 0
    assert np.array_equal(found.targets[labelled], given.codes[labelled])
    assert not (found.agreed_mask & ~found.core_mask).any()


def test_the_number_that_was_found_anyway_changes_nothing(pseudo):
    same = counted(points(), 4)
    assert all(np.array_equal(getattr(same, name), value) for name, value in vars(pseudo).items() if isinstance(value, np.ndarray))


def test_too_many_novel_clusters_leave_the_largest_and_the_others_join_what_is_nearest():
    given, (_, truth) = points(), blobs()
    labels = np.select([truth == 1, (truth == 3) & (np.arange(len(truth)) % 3 > 0), truth == 3], [1, 2, 3], np.where(truth == 0, 0, 4))
    labels = labels.astype(np.int32)  # class 3 in two parts, 20 and 10 points
    found = counted(given, 4, labels=labels)
    assert counted(given, None, labels=labels).metadata["n_novel"] == 3 and found.metadata["n_novel"] == 2
    assert len(set(found.targets[truth == 3])) == 1 and set(found.targets[truth == 3]) != set(found.targets[truth == 1])


def test_too_few_novel_clusters_are_made_up_by_draws_that_find_the_missing_class():
    given, (_, truth) = points(), blobs()
    labels = np.where(np.isin(truth, (1, 2)), 1, np.where(truth == 0, 0, 2)).astype(np.int32)  # classes 1 and 2 in one cluster
    assert counted(given, None, labels=labels).metadata["n_novel"] == 1
    found = counted(given, 4, labels=labels)
    assert len(set(found.targets[truth == 1])) == 1 and found.targets[truth == 1][0] >= 2
    assert (found.targets[truth == 2] == 1).all() and not found.agreed_mask[truth == 1].any()


@pytest.mark.parametrize("n_classes", [1, 63])
def test_a_number_that_targets_cannot_have_is_refused_in_one_line(n_classes):
    given = dataclasses.replace(points(), labels=np.where(blobs()[1] < 2, blobs()[1], -1))  # 60 of 120 labelled
    with pytest.raises(UserError, match=f"n_classes = {n_classes} .*2 labelled classes and 60 unlabelled") as error:
        counted(given, n_classes)
    one_line(error)


@pytest.mark.parametrize("n_classes", [None, 1, 3, 4, 6])
def test_without_any_label_every_category_is_novel(n_classes):
    given = dataclasses.replace(points(), labels=np.full(120, -1))
    found = counted(given, n_classes)
    n = n_classes or 4
    assert found.metadata["n_classes"] == 0 and found.metadata["n_novel"] == n == len(found.prototypes)
    assert set(found.targets.tolist()) == set(range(n)) and np.isfinite(found.prototypes).all()
    if n == 4:
        assert len({(a, b) for a, b in zip(found.targets, blobs()[1], strict=True)}) == 4


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n_points", [4, 5, 9])
def test_a_handful_of_points_without_a_label_are_one_category_or_more(n_points):
    whole = points()
    rows = np.arange(0, 120, 120 // n_points)[:n_points]
    given = Points(whole.indices[rows], whole.ids[rows], whole.features[rows], np.full(n_points, -1))
    found = build(given, ssddbc.cluster(centred(given.features), given.labels, given.labels >= 0, 3, 60), {}, None, True, ABOUT)
    assert found.targets.min() == 0 and found.metadata["n_novel"] == found.targets.max() + 1 == len(found.prototypes)


@pytest.mark.filterwarnings("error")
def test_the_whole_grid_works_without_any_label():
    given = dataclasses.replace(points(), labels=np.full(120, -1))
    found = grid.search(centred(given.features), given.labels, given.labels >= 0, range(3, 10, 2), range(40, 101, 20), 1)
    scores, eligible = [cell.score for cell in found.cells.values()], [not cell.degenerate for cell in found.cells.values()]
    cell = roles.choose_cell(list(found.partitions), scores, eligible, given.codes, 0)
    again = build(given, dataclasses.replace(found.best, labels=found.partitions[cell]), {}, None, True, ABOUT)
    assert again.metadata["n_novel"] == 4 and len(set(zip(again.targets, blobs()[1], strict=True))) == 4
