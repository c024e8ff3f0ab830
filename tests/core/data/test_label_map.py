from pathlib import Path

import numpy as np
import pytest

from core.data import label_map
from core.data.metadata import ClassWeight, Entry
from core.errors import UserError


def entry(label: str, part: str = "train", line: int = 2, **facts: str) -> Entry:
    return Entry(Path("/x") / f"{line}.png", f"{line}.png", label, f"{part}.csv line {line}", facts)


def made(train: list[Entry], val: list[Entry] = (), test: list[Entry] = ()) -> label_map.LabelMap:
    return label_map.make({"train": train, "val": val, "test": test})


def test_numbers_are_sorted_by_value_and_other_labels_by_text():
    assert made([entry("10"), entry("9"), entry("0")]).labels == ("0", "9", "10")
    assert made([entry("rust"), entry("Rot"), entry("10"), entry("9")]).labels == ("9", "10", "Rot", "rust")


def test_every_entry_of_every_part_gets_its_class_and_classes_may_be_absent_outside_train():
    classes = made([entry("b"), entry("a"), entry("c")], [entry("c"), entry("b")])
    assert {part: found.tolist() for part, found in classes.indices.items()} == {"train": [1, 0, 2], "val": [2, 1], "test": []}
    assert all(found.dtype == np.int64 for found in classes.indices.values())


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_class_that_train_lacks_is_named_with_its_part_and_row(part):
    parts = {"train": [entry("rust"), entry("rot")], "val": [], "test": []} | {part: [entry("rusty", part, 7)]}
    with pytest.raises(
        UserError, match=rf"class 'rusty' has images in {part} \({part}\.csv line 7\) but none in train; did you mean 'rust'"
    ):
        label_map.make(parts)


def test_one_class_is_too_few():
    with pytest.raises(UserError, match=r"have 1 class \(images\)"):
        made([entry("images")])


def test_names_come_from_label_name_else_from_the_label():
    assert made([entry("1"), entry("0", label_name="rust"), entry("0")]).names == ("rust", "1")


def test_folders_and_numbers_meet_by_name():
    folders, numbers = [entry("rot"), entry("rust")], [entry("0", label_name="rot"), entry("1", label_name="rust")]
    assert made(folders, numbers).indices["val"].tolist() == [0, 1]
    assert made(numbers, folders).indices["val"].tolist() == [0, 1]
    with pytest.raises(UserError, match=r"class '1' \(mildew\)"):
        made(folders, [entry("1", label_name="mildew")])


def test_two_labels_may_not_share_a_name():
    with pytest.raises(UserError, match="label_name 'rust' is given to the labels 0 and 1"):
        made([entry("0", label_name="rust"), entry("1", label_name="rust")])


@pytest.mark.parametrize("column", ["label_name", "crop_type", "crop_id", "disease", "disease_id", "severity"])
def test_rows_that_contradict_each_other_are_both_named(column):
    train = [entry("0", line=2, **{column: "1"}), entry("1", line=3, **{column: "2"})]
    with pytest.raises(UserError, match=rf"train\.csv line 2 and val\.csv line 9 contradict .* '0': {column} is '1' .* '3'"):
        made(train, [entry("0", "val", 9, **{column: "3"})])


def test_attributes_are_in_the_order_of_their_ids_else_of_their_names():
    train = [
        entry("0", crop_type="apple", crop_id="10", severity="serious"),
        entry("1", crop_type="pear", crop_id="9", severity="general"),
        entry("2", crop_type="apple", crop_id="10", severity="serious"),
    ]
    found = made(train).attributes
    assert set(found) == {"crop", "severity"}
    assert found["crop"].names == ("pear", "apple") and found["crop"].of_class.tolist() == [1, 0, 1]
    assert found["severity"].names == ("general", "serious") and found["severity"].of_class.tolist() == [1, 0, 1]
    assert found["crop"].of_class.dtype == np.int64


def test_an_id_without_a_name_is_its_own_name():
    found = made([entry("0", crop_id="10"), entry("1", crop_id="9")]).attributes
    assert found["crop"].names == ("9", "10") and found["crop"].of_class.tolist() == [1, 0]


def test_an_attribute_that_some_classes_lack_is_refused():
    with pytest.raises(UserError, match=r"no severity for class '1' \(1 classes in all\)"):
        made([entry("0", severity="none"), entry("1")])


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"crop_type": "apple", "crop_id": "2"}, "gives crop_type 'apple' the ids '1' and '2'"),
        ({"crop_type": "pear", "crop_id": "1"}, "gives the id 1 to crop_type 'apple' and 'pear'"),
    ],
)
def test_ids_and_names_must_be_one_to_one(second, said):
    with pytest.raises(UserError, match=said):
        made([entry("0", crop_type="apple", crop_id="1"), entry("1", **second)])


def weight(value: float, label: str = "", name: str = "", line: int = 2) -> ClassWeight:
    return ClassWeight(label, name, value, f"weights.csv line {line}")


LABELS, NAMES = ("3", "5"), ("rot", "rust")


@pytest.mark.parametrize(
    "rows",
    [
        [weight(2, "5"), weight(1, "3")],
        [weight(2, name="rust"), weight(1, name="rot")],
        [weight(2, "5", "rust"), weight(1, "3", "rot")],
        [weight(2, "rust"), weight(1, name="3")],
        [weight(2, "1", "rust"), weight(1, "0", "rot")],  # folders numbered by prepare_longtail
    ],
)
def test_weights_find_their_class_by_label_or_name(rows):
    assert label_map.weights_of(rows, LABELS, NAMES).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([weight(1, "3")], r"no weight for class 'rust' \(1 missing\)"),
        ([weight(1, "3"), weight(1, name="rot", line=3)], r"line 2 and weights\.csv line 3 both give a weight to class 'rot'"),
        ([weight(1, name="rusty")], "class 'rusty' has no training image; did you mean 'rust'"),
        ([weight(1, "3", "rust")], "class '3' is not the class 'rust'"),
    ],
)
def test_weights_name_every_class_once(rows, said):
    with pytest.raises(UserError, match=said):
        label_map.weights_of(rows, LABELS, NAMES)
