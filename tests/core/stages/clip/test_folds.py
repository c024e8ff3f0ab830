"""Who trains and who is held out: stratified, grouped, honest, and a pure function of random_state."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.stages.clip import folds
from tests.core.stages.tiny import refused

OPTIONS = {"fold": 0, "n_splits": 4, "random_state": 42, "val_fraction": 0.2, "test_fraction": 0.2}


def pool(counts=(12, 8, 5), part=None, groups=None) -> SimpleNamespace:
    labels = np.repeat(np.arange(len(counts)), counts)
    images = SimpleNamespace(labels=labels, ids=tuple(map(str, range(len(labels)))))

    class Images:
        def __init__(self):
            self.labels, self.ids = images.labels, images.ids

        def __len__(self):
            return len(labels)

    names = tuple("abcdefgh"[: len(counts)])
    return SimpleNamespace(class_names=names, images=Images(), part=np.array(part or [""] * len(labels)), groups=groups)


def options(**changed) -> SimpleNamespace:
    return SimpleNamespace(**OPTIONS | changed)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), val=st.sampled_from([0.0, 0.1, 0.3, 0.5]), test=st.sampled_from([0.0, 0.2, 0.5]))
def test_a_split_parts_every_image_once_and_keeps_every_class(seed, val, test):
    given_pool = pool()
    found = folds.parts(given_pool, options(random_state=seed, val_fraction=val, test_fraction=test))
    assert sorted(np.concatenate(list(found.values()))) == list(range(25))
    labels = given_pool.images.labels
    assert set(labels[found["train"]]) == {0, 1, 2}
    assert bool(len(found["val"])) == bool(val) and bool(len(found["test"])) == bool(test)
    if test == 0.5:
        assert np.bincount(labels[found["test"]]).tolist() == [6, 4, 2]


def test_the_split_is_decided_by_random_state():
    one, same, other = (folds.parts(pool(), options(random_state=seed))["test"].tolist() for seed in (1, 1, 2))
    assert one == same != other


def test_given_parts_stay_and_validation_is_taken_from_training_where_there_is_none():
    part = ["train"] * 20 + ["test"] * 5
    found = folds.parts(pool((10, 15), part=part), options(val_fraction=0.25))
    assert found["test"].tolist() == [20, 21, 22, 23, 24] and len(found["val"]) == 2 + 2 and len(found["train"]) == 16
    given_val = folds.parts(pool((10, 15), part=["train"] * 15 + ["val"] * 10), options(val_fraction=0.25))
    assert given_val["val"].tolist() == list(range(15, 25)) and len(given_val["train"]) == 15 and not len(given_val["test"])


def test_a_class_with_one_image_trains():
    found = folds.parts(pool((6, 1)), options())
    assert 6 in found["train"]


def test_folds_hold_out_every_image_once_with_every_class():
    given_pool = pool()
    made = folds.folds(given_pool, options())
    assert sorted(np.concatenate([held_out for _, held_out in made])) == list(range(25))
    for train, held_out in made:
        assert not set(train) & set(held_out) and np.array_equal(np.bincount(given_pool.images.labels[held_out]) > 0, [True] * 3)


def test_a_folds_epoch_is_chosen_on_others_than_those_held_out():
    for k, (_, held_out) in enumerate(folds.folds(pool(), options()), start=1):
        found = folds.parts(pool(), options(fold=k))
        assert np.array_equal(found["test"], held_out) and len(found["val"]) in (3, 4)
        assert sorted(np.concatenate(list(found.values()))) == list(range(25))


def test_without_a_validation_share_the_fold_itself_chooses():
    found = folds.parts(pool(), options(fold=2, val_fraction=0.0))
    assert np.array_equal(found["val"], folds.folds(pool(), options())[1][1]) and not len(found["test"])


def test_folds_pool_train_and_val_and_leave_test_alone():
    part = ["train", "val", "test", "train", "val"] * 5
    made = folds.folds(pool((13, 12), part=part), options(n_splits=3))
    assert sorted(np.concatenate([held_out for _, held_out in made])) == [i for i in range(25) if part[i] != "test"]


def test_random_state_and_n_splits_decide_the_folds():
    def held(**changed):
        return [held_out.tolist() for _, held_out in folds.folds(pool(), options(**changed))]

    assert held() == held() != held(random_state=1) and len(held(n_splits=3)) == 3


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_groups_are_never_parted(fold):
    groups = np.arange(24) // 2
    found = folds.parts(pool((12, 12), groups=groups), options(fold=fold, n_splits=3))
    used = [set(groups[rows]) for rows in found.values()]
    assert all(used) and not used[0] & used[1] and not used[0] & used[2] and not used[1] & used[2]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(seed=st.integers(0, 1000), share=st.sampled_from([0.1, 0.15, 0.2, 0.3, 0.4, 0.6]), largest=st.integers(1, 6))
def test_the_share_that_was_asked_for_is_held_out_of_groups(seed, share, largest):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(90), rng.integers(1, largest + 1, 90))[:90])
    given_pool = pool((50, 30, 10), groups=groups)
    for option, part in (("val_fraction", "val"), ("test_fraction", "test")):
        asked = options(random_state=seed, **{"val_fraction": 0.0, "test_fraction": 0.0} | {option: share})
        found = folds.parts(given_pool, asked)
        assert abs(len(found[part]) - share * 90) <= largest and len(found["train"]) + len(found[part]) == 90
        assert not set(groups[found["train"]]) & set(groups[found[part]])
        assert set(given_pool.images.labels[found["train"]]) == {0, 1, 2}
        assert np.array_equal(folds.parts(given_pool, asked)[part], found[part])


@pytest.mark.parametrize("share", [0.15, 0.2, 0.4])
def test_held_out_groups_hold_each_class_in_its_share(share):
    counts = np.array([100, 60, 20])
    found = folds.parts(pool(counts, groups=np.arange(180) // 2), options(val_fraction=share, test_fraction=0.0))
    held = np.repeat(np.arange(3), counts)[found["val"]]
    assert (np.abs(np.bincount(held) - share * counts) <= 2).all()


def test_random_state_decides_which_groups_are_held_out():
    one, same, other = (folds.parts(pool(groups=np.arange(25)), options(random_state=seed))["val"].tolist() for seed in (1, 1, 2))
    assert one == same != other


def test_the_only_group_of_a_class_trains():
    groups = np.r_[np.arange(20), np.full(5, 99)]
    for seed in range(5):
        assert {20, 21, 22, 23, 24} <= set(folds.parts(pool((12, 8, 5), groups=groups), options(random_state=seed))["train"])


def test_fewer_images_of_a_class_than_folds_is_refused_by_name():
    assert "class 'c' has 5 images, fewer than n_splits = 6" in refused(lambda: folds.folds(pool(), options(n_splits=6)))


def test_fewer_groups_than_folds_is_refused():
    assert "form 2 groups" in refused(lambda: folds.folds(pool(groups=np.arange(25) % 2), options()))
    assert "val_fraction = 0.2" in refused(lambda: folds.parts(pool(groups=np.arange(25) % 2), options(test_fraction=0.0)))


def test_a_class_of_one_group_cannot_be_trained_in_the_fold_that_holds_it_out():
    groups = np.r_[np.arange(20), np.full(5, 99)]
    lines = []
    for k in range(1, 5):
        try:
            folds.parts(pool((12, 8, 5), groups=groups), options(fold=k, val_fraction=0.0))
        except Exception as error:
            lines.append(str(error))
    assert len(lines) == 1 and "class 'c' has no training image left in fold" in lines[0]


def test_absent_classes_are_named():
    assert folds.absent_classes(pool(), np.array([0, 13])) == ["c"]
