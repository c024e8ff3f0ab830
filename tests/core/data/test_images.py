import numpy as np
import pytest
from PIL import Image

from core import digest
from core.data.images import ArrayImages, DiscoveryData, FileImages, ImageSet, UnreadableImages, empty_set, small, verified
from core.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), np.uint8)


def image_set(part: str, n: int = 4) -> ImageSet:
    return ImageSet(tuple(f"{part}/{i:05d}" for i in range(n)), np.arange(n) % 2, ArrayImages(PIXELS[:n]))


def test_file_images_decode_what_was_saved(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path, pixels in zip(paths, PIXELS, strict=True):
        Image.fromarray(pixels).save(path)
    source = FileImages(paths)
    loaded = source.load(np.array([2, 0]))
    np.testing.assert_array_equal(loaded[0], PIXELS[2])
    np.testing.assert_array_equal(loaded[1], PIXELS[0])
    assert len(source) == 4 and source.digest == FileImages(paths).digest != FileImages(paths[:3]).digest


def test_small_images_are_no_smaller_than_asked_and_keep_their_order(tmp_path):
    for name, shade in (("a.jpg", 20), ("b.jpg", 220)):
        Image.new("RGB", (1000, 600), (shade,) * 3).save(tmp_path / name)
    Image.new("RGB", (30, 20), (120,) * 3).save(tmp_path / "c.png")
    source = FileImages([tmp_path / name for name in ("a.jpg", "b.jpg", "c.png")])
    second, third, first = small(source, np.array([1, 2, 0]), 128)
    assert first.shape == second.shape == (150, 250, 3) and third.shape == (20, 30, 3)
    assert [round(one.mean()) for one in (first, second, third)] == [20, 220, 120]
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(small(ArrayImages(pixels), np.array([2, 0]), 128), pixels[[2, 0]])


def test_exif_orientation_turns_the_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees
    Image.fromarray(PIXELS[0]).save(tmp_path / "turned.png", exif=exif)
    (upright,) = FileImages([tmp_path / "turned.png"]).load(np.array([0]))
    np.testing.assert_array_equal(upright, np.rot90(PIXELS[0], -1))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_every_colour_mode_becomes_rgb(tmp_path, mode):
    name = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    grey = PIXELS[0, ..., 0]
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(PIXELS[0]).convert(mode)
    image.save(name)
    (pixels,) = FileImages([name]).load(np.array([0]))
    assert pixels.shape == (5, 6, 3) and pixels.dtype == np.uint8
    if mode == "I;16":
        np.testing.assert_array_equal(pixels[..., 0], grey)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_a_damaged_file_is_named_before_anything_starts(tmp_path, damage):
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.tile(PIXELS[0], (40, 40, 1))).save(path)
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "text": b"no image", "empty": b""}[damage])
    with pytest.raises(UserError, match=r"photo\.jpg: not a readable image") as error:
        FileImages([path])
    assert "\n" not in str(error.value)


def test_a_file_that_breaks_later_is_named_too(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(PIXELS[0]).save(path)
    source = FileImages([path])
    path.unlink()
    with pytest.raises(UserError, match=r"photo\.png"):
        source.load(np.array([0]))


def test_ids_may_not_collide_between_train_and_test():
    with pytest.raises(ValueError, match="not unique"):
        DiscoveryData("x", image_set("train"), image_set("train"), ("a", "b"), frozenset({0}))


def test_parts_of_an_image_set_must_match():
    with pytest.raises(ValueError, match="do not match"):
        ImageSet(("train/00000",), np.zeros(2, np.int64), ArrayImages(PIXELS[:2]))


def test_the_digest_depends_on_pixels_labels_ids_and_known_classes():
    train, test = image_set("train"), image_set("test")
    other_pixels = ImageSet(train.ids, train.labels, ArrayImages(255 - PIXELS))
    other_labels = ImageSet(train.ids, 1 - train.labels, train.source)
    names = ("a", "b")
    digests = [
        DiscoveryData("x", train, test, names, frozenset({0})).digest,
        DiscoveryData("x", other_pixels, test, names, frozenset({0})).digest,
        DiscoveryData("x", other_labels, test, names, frozenset({0})).digest,
        DiscoveryData("x", train, empty_set(), names, frozenset({0})).digest,
        DiscoveryData("x", train, test, names, frozenset({0, 1})).digest,
    ]
    assert len(set(digests)) == len(digests)
    assert digests[0] == DiscoveryData("x", train, test, names, frozenset({0})).digest


def test_novel_classes_are_the_others():
    assert DiscoveryData("x", image_set("train"), empty_set(), ("a", "b"), frozenset({0})).novel_classes == {1}


def damaged_folder(folder, n: int) -> list:
    """Write one good picture and `n` files that are none; return all paths."""
    Image.fromarray(PIXELS[0]).save(folder / "good.png")
    bad = [folder / f"bad{i}.png" for i in range(n)]
    for i, path in enumerate(bad):
        path.write_bytes(b"text" if i % 2 else b"")
    return [folder / "good.png", *bad]


def test_all_damaged_files_are_named_in_one_line(tmp_path):
    paths = damaged_folder(tmp_path, 3)
    with pytest.raises(UnreadableImages, match="3 of 4 files are not readable images") as error:
        FileImages(paths)
    assert [path for path, _ in error.value.unreadable] == paths[1:]
    assert [reason for _, reason in error.value.unreadable] == ["empty file", "unknown format", "empty file"]
    assert all(str(path) in str(error.value) for path in paths[1:]) and "good.png" not in str(error.value)
    assert "\n" not in str(error.value)


def test_of_many_damaged_files_five_are_named_and_all_are_listed_in_a_file(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    paths = damaged_folder(tmp_path, 12)
    with pytest.raises(UnreadableImages, match="12 of 13") as error:
        FileImages(paths)
    (listed,) = (tmp_path / "tmp").iterdir()
    assert f"and 7 more (all are listed in {listed})" in str(error.value)
    assert str(error.value).count("bad") == 5
    assert [line.split("\t")[0] for line in listed.read_text().splitlines()] == [str(path) for path in paths[1:]]


def test_a_list_that_cannot_be_written_hides_no_damage(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(UnreadableImages, match="and 1 more; mend or remove"):
        FileImages(damaged_folder(tmp_path, 6))


def test_file_digests_are_of_the_content_and_make_the_digest(tmp_path):
    for name, pixels in (("a", PIXELS[0]), ("b", PIXELS[1]), ("c", PIXELS[0])):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    source = FileImages(paths)
    assert source.file_digests == tuple(digest.of_bytes(path.read_bytes()) for path in paths)
    assert source.file_digests[0] == source.file_digests[2] != source.file_digests[1]
    assert source.digest == digest.of_json(list(source.file_digests))


def test_files_that_were_verified_are_not_read_again(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS[0]).save(path)
    known = verified([path])
    whole = FileImages([path]).digest
    path.write_bytes(b"")
    assert FileImages([path], known).digest == whole
    with pytest.raises(ValueError, match="do not match"):
        FileImages([path], ())
