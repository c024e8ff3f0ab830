import json
from collections import Counter

import pytest

from core.data import ai_challenger
from core.data.ai_challenger_classes import CLASSES
from core.errors import UserError
from tests.core.data import fake_ai_challenger


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return fake_ai_challenger.make(tmp_path_factory.mktemp("pdr2018"))


def test_the_class_table_has_the_published_sizes():
    assert len(CLASSES) == 61 == len({row["label_name"] for row in CLASSES})
    assert len({row["crop_type"] for row in CLASSES}) == 10 == len({row["crop_id"] for row in CLASSES})
    assert len({row["disease"] for row in CLASSES}) == 28 == len({row["disease_id"] for row in CLASSES})
    assert Counter(row["severity"] for row in CLASSES) == {"healthy": 10, "general": 24, "serious": 24, "none": 3}
    assert all((row["severity"] == "healthy") == (row["disease"] == "healthy") for row in CLASSES)


@pytest.mark.parametrize(
    ("label", "name"),
    [  # from the publisher's table
        (0, "apple_healthy"),
        (3, "apple_frogeye_spot"),
        (5, "apple_cedar_rust_serious"),
        (6, "cherry_healthy"),
        (9, "corn_healthy"),
        (16, "corn_dwarf_mosaic_virus"),
        (17, "grape_healthy"),
        (25, "citrus_greening_general"),
        (29, "peach_bacterial_spot_serious"),
        (30, "pepper_healthy"),
        (33, "potato_healthy"),
        (38, "strawberry_healthy"),
        (41, "tomato_healthy"),
        (44, "tomato_bacterial_spot_general"),
        (45, "tomato_bacterial_spot_serious"),
        (60, "tomato_mosaic_virus"),
    ],
)
def test_labels_have_the_publishers_numbers(label, name):
    assert CLASSES[label]["label_name"] == name


def test_json_and_list_file_say_the_same(parts):
    part = parts["train"]
    from_json, from_list = ai_challenger.read(part.annotations), ai_challenger.read(part.listing)
    assert [e.label for e in from_json] == [str(label) for label in part.labels]
    assert [(e.path, e.label, e.facts) for e in from_json] == [(e.path, e.label, e.facts) for e in from_list]
    assert all(e.path.is_file() and e.facts == CLASSES[int(e.label)] for e in from_json)
    assert from_json[0].source.endswith("annotations.json item 1") and from_list[0].source == "training_list.txt line 1"


def test_the_folder_may_be_the_one_of_the_images_or_the_one_around(parts, tmp_path):
    part = parts["val"]
    moved = tmp_path / "elsewhere.json"
    moved.write_text(part.annotations.read_text())
    for folder in (part.folder, part.images):
        for listing in (moved, part.listing):
            assert [e.path for e in ai_challenger.read(listing, folder)] == [e.path for e in ai_challenger.read(part.annotations)]


def test_a_list_may_write_its_paths_from_further_up(parts):
    part = parts["val"]
    listing = part.folder.parent / "list.txt"
    listing.write_text(part.listing.read_text().replace("images\\", f"{part.folder.name}/images\\"))
    expected = [e.path for e in ai_challenger.read(part.listing)]
    for folder in ("", part.folder, part.images):
        assert [e.path for e in ai_challenger.read(listing, folder)] == expected


def test_class_45_has_no_validation_image_and_44_has_one(parts):
    counts = Counter(e.label for e in ai_challenger.read(parts["val"].annotations))
    assert counts["45"] == 0 and counts["44"] == 1 and len(counts) == 60
    counts = Counter(e.label for e in ai_challenger.read(parts["train"].annotations))
    assert len(counts) == 61 and counts["0"] == 8 and counts["45"] == 1


def annotations(folder, content) -> object:
    path = folder / "annotations.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


@pytest.mark.parametrize("label", [-1, 61, 10**12])
def test_a_label_outside_the_map_is_named_with_its_place(parts, label):
    file = next(parts["val"].images.iterdir()).name
    path = annotations(parts["val"].folder, [{"disease_class": label, "image_id": file}])
    with pytest.raises(UserError, match=rf"annotations\.json item 1: label {label} is outside the map of 61 classes"):
        ai_challenger.read(path)


@pytest.mark.parametrize("label", [True, "1", 1.0, None])
def test_a_label_that_is_no_number_is_refused(parts, label):
    with pytest.raises(UserError, match="item 1 is not"):
        ai_challenger.read(annotations(parts["val"].folder, [{"disease_class": label, "image_id": "1_0.jpg"}]))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"[", "is not valid JSON"),
        (b"[" * 100_000, "is not (valid JSON|a list)"),
        (b"[]", "is not a JSON list"),
        (b'{"a": 1}', "is not a JSON list"),
        (b"[1]", "item 1 is not"),
        (b'[{"disease_class": 1}]', "item 1 is not"),
        (b'[{"disease_class": 1, "image_id": " "}]', "item 1 is not"),
        (b'[{"disease_class": 1, "image_id": "../secret.jpg"}]', "leads out of"),
        (b'[{"disease_class": 1, "image_id": "/etc/passwd"}]', "leads out of"),
        (b'[{"disease_class": 1, "image_id": "\\ud800.jpg"}]', "leads out of"),
        (b'[{"disease_class": 1, "image_id": "none.jpg"}]', "1 of the 1 images .* do not exist"),
        (
            b'[{"disease_class": 1, "image_id": "1_0.jpg"}, {"disease_class": 2, "image_id": "1_0.jpg"}]',
            "item 1 and .*item 2 name",
        ),
        (b"images\\1_0.jpg\n", "line 1 is not '<image> <label>'"),
        (b"images\\1_0.jpg one\n", "line 1 is not '<image> <label>'"),
        (b"images\\1_0.jpg 61\n", "line 1: label 61 is outside"),
        (b"images\\1_0.jpg -1\n", "line 1: label -1 is outside"),
        (b"..\\..\\1_0.jpg 1\n", "leads out of"),
        ("images\\苹果.jpg 1\n".encode("gb18030"), "not UTF-8"),
    ],
)
def test_a_bad_annotation_file_is_answered_in_one_line(parts, content, said):
    with pytest.raises(UserError, match=said) as error:
        ai_challenger.read(annotations(parts["val"].folder, content))
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_tabs_and_blanks_in_names_do_no_harm(parts):
    image = parts["val"].images / "a leaf 1.jpg"
    image.write_bytes(next(parts["val"].images.glob("1_0.jpg")).read_bytes())
    path = annotations(parts["val"].folder, b"\xef\xbb\xbfimages\\a leaf 1.jpg\t7\n\n")
    (entry,) = ai_challenger.read(path)
    assert entry.path.samefile(image) and entry.label == "7"
