from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.data import longtail
from core.data.classification import ClassificationData, tail_classes
from core.data.images import ArrayImages, ImageSet, UnreadableImages, empty_set
from core.errors import UserError
from tests.core.data.test_folders import CROPS

COUNTS = {"train": {"rot": 3, "rust": 2, "scab": 1}, "val": {"rot": 1, "rust": 1}, "test": {"rot": 1, "scab": 1}}


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (value, value // 2, 0)).save(path)


@pytest.fixture
def root(tmp_path):
    root, value = tmp_path / "crops", 0
    for part, counts in COUNTS.items():
        for name, count in counts.items():
            for i in range(count):
                value += 7
                picture(root / part / name / f"{i}.png", value)
    return root


def load(root: Path, **options: str) -> ClassificationData:
    given = {f"{part}_{kind}": "" for part in longtail.PARTS for kind in ("dir", "meta")} | {"class_weights": ""}
    given |= {f"{part}_dir": str(root / part) for part in longtail.PARTS}
    return longtail.load(**(given | options))


def table(path: Path, rows: list[str], header: str = "image_path,label_61,label_name") -> str:
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def test_class_folders_become_three_parts_with_one_label_map(root):
    data = load(root)
    assert data.name == "crops" and data.class_names == ("rot", "rust", "scab")
    assert data.train.ids == (
        "train/rot/0.png",
        "train/rot/1.png",
        "train/rot/2.png",
        "train/rust/0.png",
        "train/rust/1.png",
        "train/scab/0.png",
    )
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 2] and data.val.labels.tolist() == [0, 1]
    assert data.test.ids == ("test/rot/0.png", "test/scab/0.png") and data.test.labels.tolist() == [0, 2]
    assert data.class_counts.tolist() == [3, 2, 1] and not data.attributes and data.class_weights is None
    np.testing.assert_allclose(data.weights, [6 / 9, 6 / 6, 6 / 3])
    assert data.val.source.load(np.array([1]))[0][0, 0, 0] == 8 * 7  # the eighth picture


def test_only_train_must_be_there(root):
    data = load(root, val_dir="", test_dir="")
    assert len(data.train) == 6 and len(data.val) == len(data.test) == 0 and len(data.digest) == 64
    with pytest.raises(UserError, match=r"give train_dir .* or train_meta"):
        load(root, train_dir="")


def test_metadata_says_the_same_as_the_folders(root, tmp_path):
    expected, options = load(root), {}
    for part in longtail.PARTS:
        images = getattr(expected, part)
        rows = [f"{id.split('/', 1)[1]},{label},{expected.class_names[label]}" for id, label in zip(images.ids, images.labels, strict=True)]
        options[f"{part}_meta"] = table(tmp_path / f"{part}_metadata.csv", rows)
    assert load(root, **options).digest == expected.digest
    with pytest.raises(UserError, match=r"do not exist below .*: correct the paths or name the folder"):
        load(root, **options, train_dir="")


def test_a_part_may_be_a_table_and_another_folders(root, tmp_path):
    meta = table(tmp_path / "val.csv", ["rust/0.png,1,rust"])
    data = load(root, val_meta=meta)
    assert data.val.ids == ("val/rust/0.png",) and data.val.labels.tolist() == [1]


def test_attributes_of_the_table_reach_the_data(root, tmp_path):
    rows = ["rot/0.png,0,rot,apple,serious", "rust/0.png,1,rust,pear,general", "scab/0.png,2,scab,apple,general"]
    meta = table(tmp_path / "train.csv", rows, "image_path,label_61,label_name,crop_type,severity")
    data = load(root, train_meta=meta)
    assert data.attributes["crop"].names == ("apple", "pear") and data.attributes["crop"].of_class.tolist() == [0, 1, 0]
    assert data.attributes["severity"].of_class.tolist() == [1, 0, 0]
    assert data.digest != load(root, train_meta=table(tmp_path / "plain.csv", [row.rsplit(",", 2)[0] for row in rows])).digest


def test_class_weights_are_read_and_checked(root, tmp_path):
    weights = table(tmp_path / "w.csv", ["scab,5", "rot,1", "rust,2"], "class,weight")
    data = load(root, class_weights=weights)
    assert data.weights.tolist() == data.class_weights.tolist() == [1, 2, 5] and data.digest != load(root).digest
    with pytest.raises(UserError, match="no weight for class 'rust'"):
        load(root, class_weights=table(tmp_path / "w.csv", ["scab,5", "rot,1"], "class,weight"))


def test_files_of_one_name_in_a_class_get_their_path_as_id(root, tmp_path):
    picture(root / "train" / "rot" / "deep" / "0.png", 250)
    data = load(
        root,
        train_meta=table(tmp_path / "t.csv", ["rot/0.png,0,rot", "rot/deep/0.png,0,rot", "rust/0.png,1,rust"]),
        val_dir="",
        test_dir="",
    )
    assert data.train.ids == ("train/rot/rot/0.png", "train/rot/rot/deep/0.png", "train/rust/0.png")


def test_ids_that_would_collide_are_refused(root, tmp_path):
    rows = ["rot/0.png,0,a", "rust/0.png,0,a", "scab/0.png,1,a/rot"]
    with pytest.raises(UserError, match=r"two images would share the id 'train/a/rot/0\.png'"):
        load(root, train_meta=table(tmp_path / "t.csv", rows), val_dir="", test_dir="")


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_class_outside_train_is_refused(root, part):
    picture(root / part / "rusty" / "0.png", 250)
    with pytest.raises(UserError, match=rf"class 'rusty' has images in {part} .* did you mean 'rust'"):
        load(root)


@pytest.mark.parametrize("part", longtail.PARTS)
def test_a_missing_folder_is_named_by_its_option(root, part):
    with pytest.raises(UserError, match=f"{part}_dir '.*nowhere' is not a folder"):
        load(root, **{f"{part}_dir": str(root / "nowhere")})


def test_unreadable_images_of_all_parts_are_named_together(root):
    (root / "train" / "rot" / "0.png").write_bytes(b"")
    (root / "test" / "scab" / "0.png").write_bytes(b"text")
    with pytest.raises(UnreadableImages, match="2 of 10 files") as error:
        load(root)
    assert [path.relative_to(root).as_posix() for path, _ in error.value.unreadable] == ["train/rot/0.png", "test/scab/0.png"]


@pytest.mark.parametrize(
    ("train_dir", "listing", "name"),
    [
        ("/data/crops/train", "", "crops"),
        ("/data/crops/Train/images", "", "crops"),
        ("/data/set_a", "/elsewhere/train.csv", "set_a"),
        ("", "/data/cleaned/metadata/train_metadata.csv", "cleaned"),
        ("/train", "", "train"),
    ],
)
def test_the_name_is_that_of_the_folder(train_dir, listing, name):
    assert longtail.name_of(train_dir, listing) == name


def test_duplicates_are_found_between_parts_with_their_labels(root):
    source = (root / "train" / "rot" / "1.png").read_bytes()
    for place in ("train/rot/2.png", "val/rot/9.png", "test/scab/9.png", "test/rot/9.png"):
        (root / place).write_bytes(source)
    data = load(root)
    assert longtail.duplicates_across(data) == [
        ("train/rot/1.png", "val/rot/9.png", False),
        ("train/rot/1.png", "test/rot/9.png", False),
        ("train/rot/1.png", "test/scab/9.png", True),
        ("val/rot/9.png", "test/rot/9.png", False),
        ("val/rot/9.png", "test/scab/9.png", True),
    ]
    assert [longtail.repeated_within(images) for images in (data.train, data.val, data.test)] == [1, 0, 1]


def test_a_duplicate_stands_beside_the_copy_with_another_label(root):
    source = (root / "train" / "rot" / "1.png").read_bytes()
    for place in ("train/rust/1.png", "test/rot/9.png"):
        (root / place).write_bytes(source)
    assert longtail.duplicates_across(load(root)) == [("train/rust/1.png", "test/rot/9.png", True)]


def test_duplicates_of_images_in_memory_are_found_by_their_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
    train = ImageSet(("train/0", "train/1", "train/2"), np.array([0, 1, 1]), ArrayImages(pixels[:3]))
    val = ImageSet(("val/0", "val/1"), np.array([0, 0]), ArrayImages(pixels[[2, 4]]))
    data = ClassificationData("x", ("a", "b"), train, val, empty_set())
    assert longtail.duplicates_across(data) == [("train/2", "val/0", True)]


@pytest.mark.skipif(not CROPS.is_dir(), reason="needs the crop disease images beside the repository (shared/data/crop_disease)")
def test_real_photos_load():
    data = load(CROPS)
    assert data.name == "crop_disease" and len(data.class_names) == 15
    assert (len(data.train), len(data.val), len(data.test)) == (2355, 608, 709)
    assert data.class_counts.min() == 11 and data.class_counts.max() == 694 and len(tail_classes(data.class_counts)) == 4
    assert [pair[:2] for pair in longtail.duplicates_across(data)] == [
        ("train/coffee_cercospora/1631_1449_0489_0327_0347.jpg", "test/coffee_cercospora/1632_1449_0489_0327_0347.jpg")
    ]
