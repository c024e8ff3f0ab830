import dataclasses
import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data import digits, splits
from core.data.images import ArrayImages, DiscoveryData, ImageSet, empty_set
from core.data.splits import make_split, split_of, split_report
from core.data.superclasses import find
from core.errors import UserError

TREES = np.repeat(np.arange(5), 500)


@st.composite
def problems(draw):
    """Labels with 1..6 classes, some of them known, and parameters in range."""
    n_classes = draw(st.integers(1, 6))
    counts = [draw(st.integers(5, 40)) for _ in range(n_classes)]
    known = draw(st.sets(st.integers(0, n_classes - 1), min_size=1))
    labels = np.random.default_rng(draw(st.integers(0, 99))).permutation(np.repeat(np.arange(n_classes), counts))
    return labels, frozenset(known), draw(st.floats(0.5, 1.0)), draw(st.floats(0.0, 0.6)), draw(st.integers(0, 2**31))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(problems())
def test_a_split_is_a_partition_with_labels_from_known_classes_only(problem):
    labels, known, prop, val_fraction, seed = problem
    split = make_split(labels, known, prop, val_fraction, seed)
    parts = (split.labelled, split.validation, split.unlabelled)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts)
    n_chosen = round(prop * np.isin(labels, list(known)).sum())
    assert len(split.labelled) + len(split.validation) == n_chosen
    assert len(split.validation) == round(val_fraction * n_chosen)
    assert set(labels[split.labelled]) | set(labels[split.validation]) <= known


@settings(derandomize=True, deadline=None, max_examples=30)
@given(problems())
def test_a_split_is_a_function_of_its_parameters(problem):
    labels, known, prop, val_fraction, seed = problem
    split, again = (make_split(labels, known, prop, val_fraction, seed) for _ in range(2))
    assert split.digest == again.digest
    np.testing.assert_array_equal(split.labelled, again.labelled)
    without = make_split(labels, known, prop, 0.0, seed)
    np.testing.assert_array_equal(without.labelled, np.union1d(split.labelled, split.validation))


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_the_seed_really_changes_the_split(first, second):
    one, two = (make_split(TREES, {0, 1, 2, 3}, 0.8, 0.1, seed) for seed in (first, second))
    assert (first == second) == np.array_equal(one.labelled, two.labelled) == (one.digest == two.digest)


def test_trees_have_the_published_counts():
    published = make_split(TREES, {0, 1, 2, 3}, 0.8, 0.0, 1)
    assert (len(published.labelled), len(published.validation), len(published.unlabelled)) == (1600, 0, 900)
    held_out = make_split(TREES, {0, 1, 2, 3}, 0.8, 0.1, 1)
    assert (len(held_out.labelled), len(held_out.validation), len(held_out.unlabelled)) == (1440, 160, 900)


def test_labels_are_drawn_from_the_pool_and_not_class_by_class():
    counts = np.bincount(TREES[make_split(TREES, {0, 1, 2, 3}, 0.8, 0.0, 1).labelled])
    assert counts.sum() == 1600 and len(set(counts)) > 1


@settings(derandomize=True, deadline=None, max_examples=30)
@given(problems())
def test_validation_takes_its_share_of_every_class(problem):
    labels, known, prop, val_fraction, seed = problem
    split = make_split(labels, known, prop, val_fraction, seed)
    held = np.bincount(labels[split.validation], minlength=7)
    kept = np.bincount(labels[split.labelled], minlength=7)
    share = len(split.validation) / (len(split.labelled) + len(split.validation))
    assert (np.abs(held - share * (held + kept)) < 1 + 1e-6).all()


def test_labels_per_class_gives_each_known_class_the_same():
    split = make_split(TREES, {0, 2}, 0.8, 0.2, 3, labels_per_class=10)
    chosen = np.concatenate([split.labelled, split.validation])
    assert np.bincount(TREES[chosen], minlength=5).tolist() == [10, 0, 10, 0, 0] and len(split.validation) == 4


def test_asking_for_more_labels_than_there_are_names_the_class():
    with pytest.raises(UserError, match=r"labels_per_class is 501, but class 'oak' has only 500"):
        make_split(TREES, {1}, 0.8, 0.0, 0, 501, class_names=("maple", "oak", "palm", "pine", "willow"))


def test_everything_can_be_labelled():
    split = make_split(np.array([0, 0, 1, 1]), {0, 1}, 1.0, 0.0, 0)
    assert len(split.labelled) == 4 and len(split.unlabelled) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prop_train_labels": 0.0}, "prop_train_labels"),
        ({"prop_train_labels": 1.1}, "prop_train_labels"),
        ({"prop_train_labels": float("nan")}, "prop_train_labels"),
        ({"val_fraction": -0.1}, "val_fraction"),
        ({"val_fraction": 1.0}, "val_fraction"),
        ({"val_fraction": float("nan")}, "val_fraction"),
        ({"seed": -1}, "seed"),
        ({"labels_per_class": -1}, "labels_per_class"),
        ({"known_classes": ()}, "known class"),
        ({"prop_train_labels": 1e-6}, "no labelled image is left"),
        ({"labels_per_class": 1, "val_fraction": 0.9}, "no labelled image is left"),
    ],
)
def test_parameters_out_of_range_are_user_errors(change, message):
    given_ = {"known_classes": {0}, "prop_train_labels": 0.8, "val_fraction": 0.1, "seed": 0} | change
    with pytest.raises(UserError, match=message) as error:
        make_split(TREES, **given_)
    assert "\n" not in str(error.value)


def test_the_report_is_json_and_adds_up():
    data = digits.load()
    split = make_split(data.train.labels, data.known_classes, 0.5, 0.2, 0)
    report = json.loads(json.dumps(split_report(data, split)))
    assert report["indices"]["labelled"] == split.labelled.tolist()
    assert report["ids"]["labelled"][0] == data.train.ids[split.labelled[0]]
    for part in ("labelled", "validation", "unlabelled", "test"):
        assert sum(row[part] for row in report["by_class"].values()) == report["counts"][part] == len(report["ids"][part])
    assert report["by_class"]["9"]["known"] is False and report["by_class"]["9"]["labelled"] == 0
    assert report["novel_classes"] == [7, 8, 9] and "fine_ids" not in report


def test_the_report_of_a_superclass_maps_to_fine_ids(tmp_path, monkeypatch):
    from core.data.cifar100 import load_superclass
    from tests.core.data import fake_cifar

    fake_cifar.write_folder(tmp_path / "cifar-100-binary")
    data = load_superclass(tmp_path, "trees", expected=None)
    report = split_report(data, make_split(data.train.labels, data.known_classes, 0.8, 0.0, 0), find("trees"))
    assert report["fine_ids"] == {f"fine_{i}": i for i in (47, 52, 56, 59, 96)}
    assert (report["superclass"], report["superclass_number"]) == ("trees", 0)


@pytest.mark.parametrize("prop, val", [(0.8, 0.0), (0.8, 0.1), (1.0, 0.5), (0.05, 0.2)])
def test_the_labelled_share_is_that_of_known_images_that_are_not_held_out(prop, val):
    split = make_split(np.repeat(np.arange(5), 400), range(4), prop, val, 1)
    assert split.labelled_share == pytest.approx(len(split.labelled) / (1600 - len(split.validation)), abs=2e-3)


def test_a_number_of_labels_says_nothing_of_the_share():
    assert make_split(np.repeat(np.arange(5), 40), range(4), 0.8, 0.1, 1, labels_per_class=10).labelled_share is None


@st.composite
def heaps(draw):
    """A heap of up to 60 images: any of them labelled, in groups or not, some unlabelled ones copies, some labelled ones held out."""
    n, seed = draw(st.integers(1, 60)), draw(st.integers(0, 999))
    rng = np.random.default_rng(seed)
    n_classes = draw(st.integers(1, 5))
    given_ = rng.random(n) < draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    labels = np.where(given_, rng.integers(0, n_classes, n), -1)
    twins = ~given_ & (rng.random(n) < 0.2) if draw(st.booleans()) else None
    groups = rng.integers(0, draw(st.integers(1, 20)), n) if draw(st.booleans()) else None
    known = frozenset(labels[given_].tolist())
    names = tuple(f"class {c}" for c in range(n_classes))
    images = ImageSet(tuple(f"i{i}" for i in range(n)), labels.astype(np.int64), ArrayImages(np.zeros((n, 1, 1, 3), np.uint8)))
    return DiscoveryData("heap", images, empty_set(), names, known, given=given_, twins=twins, groups=groups)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(heaps(), st.floats(0.01, 1.0), st.floats(0.0, 0.9), st.integers(0, 2**31), st.integers(0, 3))
def test_a_split_of_a_heap_is_a_partition_and_every_class_keeps_a_labelled_image(data, prop, fraction, seed, count):
    split = split_of(data, prop, fraction, seed, count)
    parts = (split.labelled, split.validation, split.unlabelled, split.left_out)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(data.train)))
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts)
    assert data.given[split.labelled].all() and data.given[split.validation].all()
    assert set(data.train.labels[split.labelled]) == set(data.train.labels[data.given])
    twins = np.zeros(len(data.train), bool) if data.twins is None else data.twins
    np.testing.assert_array_equal(split.left_out, np.flatnonzero(twins))
    again = split_of(data, prop, fraction, seed, count)
    assert again.digest == split.digest and all(np.array_equal(getattr(again, n), getattr(split, n)) for n in ("labelled", "validation"))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(heaps(), st.floats(0.05, 0.9), st.integers(0, 999))
def test_a_group_of_a_heap_is_never_held_out_in_part(data, fraction, seed):
    split = split_of(data, 1.0, fraction, seed)
    groups = np.arange(len(data.train)) if data.groups is None else data.groups
    assert not set(groups[split.validation]) & set(groups[np.concatenate([split.labelled, split.unlabelled])])


@settings(derandomize=True, deadline=None, max_examples=60)
@given(heaps(), st.integers(0, 999))
def test_what_the_user_holds_out_is_held_out_and_nothing_else(data, seed):
    rng = np.random.default_rng(seed)
    first = {int(np.flatnonzero(data.given & (data.train.labels == c))[0]) for c in data.known_classes}
    held = data.given & (rng.random(len(data.train)) < 0.5) & ~np.isin(np.arange(len(data.train)), list(first))
    split = split_of(dataclasses.replace(data, held_out=held), 1.0, 0.5, seed)
    np.testing.assert_array_equal(split.validation, np.flatnonzero(held))


def plainly_held_out(labels, chosen, groups, elsewhere, val_fraction, rng):
    """Hold out as `hold_out_groups` does, by going through all images for each group."""
    held, taken = [], set(elsewhere.tolist())
    for c in np.unique(labels[chosen]):
        members = chosen[labels[chosen] == c]
        wanted, found = round(val_fraction * len(members)), 0
        for group in rng.permutation(np.unique(groups[members])):
            of_group = members[groups[members] == group]
            whole = group not in taken and len(of_group) == (groups[chosen] == group).sum()
            if found < wanted and whole and found + len(of_group) < len(members):
                held.append(of_group)
                found += len(of_group)
    return np.sort(np.concatenate([np.zeros(0, np.int64), *held]))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.integers(0, 2**31), st.integers(0, 80), st.integers(1, 30), st.integers(1, 6), st.floats(0.0, 0.95))
def test_groups_are_held_out_as_the_plain_way_holds_them_out(seed, n, n_groups, n_classes, fraction):
    rng = np.random.default_rng(seed)
    groups = rng.integers(-5, n_groups, n)
    labels = np.where(rng.random(n) < 0.8, np.abs(groups) % n_classes, rng.integers(0, n_classes, n))
    chosen = np.flatnonzero(rng.random(n) < 0.8)
    elsewhere = groups[np.setdiff1d(np.arange(n), chosen)]
    asked = labels, chosen, groups, elsewhere, fraction
    one, other = (hold(*asked, np.random.default_rng(1)) for hold in (splits.hold_out_groups, plainly_held_out))
    np.testing.assert_array_equal(one, other)


def grouped_heap(n, size, n_classes=10, held_out=None):
    """Return a labelled heap of images in groups of `size`, each of one class."""
    groups = np.random.default_rng(0).permutation(np.arange(n) // size)
    images = ImageSet(tuple(map(str, range(n))), groups % n_classes, ArrayImages(np.zeros((n, 1, 1, 3), np.uint8)))
    names = tuple(map(str, range(n_classes)))
    given_ = np.ones(n, bool)
    return DiscoveryData("heap", images, empty_set(), names, frozenset(range(n_classes)), given=given_, held_out=held_out, groups=groups)


@pytest.mark.slow
def test_a_hundred_thousand_images_in_groups_are_split_in_seconds():
    data = grouped_heap(100_000, 3)
    began = time.process_time()
    split = split_of(data, 1.0, 0.5, 1)
    assert time.process_time() - began < 5 and abs(len(split.validation) - 50_000) < 40
    assert not set(data.groups[split.validation]) & set(data.groups[split.labelled])


@pytest.mark.parametrize(("prop", "count"), [(0.5, 0), (0.3, 0), (1.0, 7)])
def test_a_share_is_drawn_by_groups_and_a_group_that_is_labelled_in_part_is_not_held_out(prop, count):
    data = grouped_heap(600, 4)
    split = split_of(data, prop, 0.3, 2, count)
    told = np.concatenate([split.labelled, split.validation])
    assert len(told) == (10 * count or round(prop * 600))
    torn = set(data.groups[told]) & set(data.groups[split.unlabelled])
    assert len(torn) <= (10 if count else 1) and len(split.validation) >= (10 if count else 0.2 * len(told))
    assert not set(data.groups[split.validation]) & set(data.groups[np.concatenate([split.labelled, split.unlabelled])])


@pytest.mark.parametrize(("prop", "count"), [(0.3, 0), (1.0, 3)])
def test_what_the_user_holds_out_stays_held_out_where_a_share_is_drawn(prop, count):
    groups = grouped_heap(600, 4).groups
    held = groups % 50 < 10
    split = split_of(grouped_heap(600, 4, held_out=held), prop, 0.5, 3, count)
    np.testing.assert_array_equal(split.validation, np.flatnonzero(held))
    assert len(split.labelled) == (30 if count else round(0.3 * (~held).sum()))
    assert not set(groups[split.validation]) & set(groups[np.concatenate([split.labelled, split.unlabelled])])


def test_a_class_that_is_held_out_as_a_whole_is_refused():
    images = ImageSet(("a", "b", "c"), np.array([0, 0, -1]), ArrayImages(np.zeros((3, 1, 1, 3), np.uint8)))
    given_ = np.array([True, True, False])
    data = DiscoveryData("heap", images, empty_set(), ("oak",), frozenset([0]), given=given_, held_out=given_)
    with pytest.raises(UserError, match=r"every labelled image of class 'oak' is held out \(split = val\): leave one to learn from"):
        split_of(data, 1.0, 0.1, 1)


def test_of_a_benchmark_the_labels_are_drawn():
    data = digits.load()
    split, plain = split_of(data, 0.8, 0.1, 3), make_split(data.train.labels, data.known_classes, 0.8, 0.1, 3, 0, data.class_names)
    assert split.digest == plain.digest and not split.of_heap and not len(split.left_out)


@pytest.mark.parametrize(
    ("sizes", "fraction", "held"),
    [
        ([1], 0.1, [0]),
        ([1, 1], 0.1, [1]),
        ([5, 5], 0.1, [5]),  # more than is wanted, but no smaller group is there
        ([9, 1], 0.1, [1]),
        ([7, 3], 0.1, [3]),
        ([6, 4, 2], 0.1, [2]),
        ([3, *[1] * 17], 0.1, [2]),  # the group of three would be too much
        ([1] * 11, 0.5, [5]),
    ],
)
def test_each_class_gives_one_group_or_its_share_and_at_most_half(sizes, fraction, held):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.arange(len(groups))
    for seed in range(10):
        rng = np.random.default_rng(seed)
        found = splits.hold_out_groups(np.zeros(len(rows), np.int64), rows, groups, rows[:0], fraction, rng, each_class=True)
        assert len(found) in held and set(groups[found]).isdisjoint(groups[np.setdiff1d(rows, found)])
