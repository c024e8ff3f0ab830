"""An image is taken in every way that people send one; files of the server, and images that are too large, are not opened."""

from __future__ import annotations

import base64
import io
import os
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from core.data import decoding
from core.errors import UserError
from core.serving import images

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)


def png(image: Image.Image | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(buffer, "PNG", **options)
    return buffer.getvalue()


PNG = png()
TEXT = base64.b64encode(PNG).decode()
LINES = base64.encodebytes(PNG).decode()
WAYS = {
    "plain": TEXT,
    "line breaks": LINES,
    "windows line breaks": LINES.replace("\n", "\r\n"),
    "blanks around": f"  {TEXT}\n",
    "data address": f"data:image/png;base64,{TEXT}",
    "data address with a name": f"DATA:image/png;name=a.png;base64,{LINES}",
    "escaped data address": "data:image/png;base64," + TEXT.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
    "no padding": TEXT.rstrip("="),
    "url-safe": base64.urlsafe_b64encode(PNG).decode(),
    "url-safe without padding": base64.urlsafe_b64encode(PNG).decode().rstrip("="),
    "bytes": PNG,
    "bytearray": bytearray(PNG),
    "memoryview": memoryview(PNG),
    "base64 as bytes": TEXT.encode(),
    "numpy text": np.str_(TEXT),
}


@pytest.fixture(autouse=True)
def _guards(monkeypatch):
    monkeypatch.delenv(images.FOLDER, raising=False)
    monkeypatch.delenv(images.LIMIT, raising=False)


@pytest.mark.parametrize("way", WAYS)
def test_an_image_is_taken_as_people_send_it(way):
    assert np.array_equal(images.decode(WAYS[way]), PIXELS)


NONE = ["", "text", "data:image/png,abc", TEXT[:-30], None, 3, 3.5, b"", b"text", PNG[:60], ["a"], "é", "x" * 5000, f"{TEXT}?"]


@pytest.mark.parametrize("value", NONE, ids=range(len(NONE)))
def test_what_is_no_image_is_one_line_without_addresses(value):
    with pytest.raises(UserError, match="neither an image file nor base64") as caught:
        images.decode(value)
    line = str(caught.value)
    assert "\n" not in line and "0x" not in line and len(line) < 300


def test_paths_are_opened_only_below_the_folder_that_the_server_names(tmp_path, monkeypatch):
    for folder in ("open", "closed", "open2"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(PNG)
    (tmp_path / "open" / "link.png").symlink_to(tmp_path / "closed" / "a.png")
    (tmp_path / "open" / "out").symlink_to(tmp_path / "closed")
    inside = ["a.png", f"{tmp_path}/open/a.png", f"{tmp_path}/closed/../open/a.png", "./a.png"]
    outside = [
        f"{tmp_path}/closed/a.png",
        "../closed/a.png",
        "link.png",
        "out/a.png",
        f"{tmp_path}/open2/a.png",
        f"file://{tmp_path}/open/a.png",
    ]
    refused = []
    for value in [*inside, *outside]:
        with pytest.raises(UserError):
            images.decode(value)
    monkeypatch.setenv(images.FOLDER, str(tmp_path / "open"))
    for value in inside:
        assert np.array_equal(images.decode(value), PIXELS)
    for value in [*outside, f"{tmp_path}/closed/none.png"]:
        with pytest.raises(UserError) as caught:
            images.decode(value)
        refused.append(re.sub("'[^']*'", "", str(caught.value)))
    assert len(set(refused)) == 1  # nothing tells a file that is there from one that is not


def header_only(width: int, height: int) -> bytes:
    """Return a small PNG file that says to be large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_000, 5_001), (12_000, 12_000)])
def test_a_large_image_is_refused_before_it_is_decoded(monkeypatch, size):
    monkeypatch.setattr(images, "read_rgb", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(UserError, match=rf"{size[0]} x {size[1]} pixels is larger than the 50 megapixels"):
        images.decode(header_only(*size))


def test_an_image_above_pillows_own_limit_is_refused_in_the_same_words(monkeypatch):
    monkeypatch.setattr(images, "read_rgb", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(UserError, match="is larger than the 50 megapixels"):
        images.decode(header_only(30_000, 30_000))


def test_a_higher_limit_is_not_undone_by_pillows_own(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    monkeypatch.setattr(images, "read_rgb", lambda *_: np.zeros((1, 1, 3), np.uint8))
    monkeypatch.setenv(images.LIMIT, "40")
    assert images.decode(header_only(6_000, 6_000)).shape == (1, 1, 3)


def test_the_limit_is_the_one_of_the_environment(monkeypatch):
    monkeypatch.setenv(images.LIMIT, "0.00005")
    with pytest.raises(UserError, match="11 x 9 pixels"):
        images.decode(TEXT)
    monkeypatch.setenv(images.LIMIT, "many")
    with pytest.raises(UserError, match="TAXON_SERVE_MEGAPIXELS = 'many' is no number"):
        images.decode(TEXT)


def test_a_large_jpeg_is_decoded_at_a_smaller_scale_that_is_still_large_enough():
    buffer = io.BytesIO()
    Image.fromarray(np.full((1200, 1600, 3), (200, 100, 50), np.uint8)).save(buffer, "JPEG")
    assert images.decode(buffer.getvalue()).shape == (1200, 1600, 3)
    small = images.decode(buffer.getvalue(), 64)
    assert small.shape == (300, 400, 3) and abs(small.astype(int) - (200, 100, 50)).max() <= 3
    assert images.decode(buffer.getvalue(), 224).shape == (1200, 1600, 3)


def half(mode: str) -> bytes:
    """Return a picture, its left half black, its right half invisible red or grey, in one of the ways that files say so."""
    alpha = np.zeros((4, 4), np.uint8)
    alpha[:, :2] = 255
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:, 2:, 0], rgba[..., 3] = 200, alpha
    if mode == "P":
        indexed = Image.fromarray((alpha == 0).astype(np.uint8), "P")
        indexed.putpalette([0, 0, 0, 200, 0, 0])
        return png(indexed, transparency=1)
    if mode == "LA":
        return png(Image.merge("LA", [Image.fromarray(rgba[..., 0]), Image.fromarray(alpha)]))
    if mode == "RGBA":
        return png(Image.fromarray(rgba))
    if mode == "RGB":
        return png(Image.fromarray(rgba[..., :3]), transparency=(200, 0, 0))
    return png(Image.fromarray(rgba[..., 0]), transparency=200)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_what_is_transparent_is_white_for_training_and_serving(mode):
    for pixels in (images.decode(half(mode)), np.asarray(decoding.read_rgb(half(mode)))):
        assert (pixels[:, :2] == 0).all() and (pixels[:, 2:] == 255).all()


def test_half_transparent_is_half_white():
    grey = np.asarray(decoding.read_rgb(png(Image.new("RGBA", (2, 2), (0, 0, 0, 128)))))
    assert abs(grey.astype(int) - 127).max() <= 1


def test_sixteen_bits_are_scaled_and_cmyk_is_rgb():
    deep = Image.fromarray(np.full((3, 3), 0x8040, np.uint16))
    assert (images.decode(png(deep)) == 0x80).all()
    buffer = io.BytesIO()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(buffer, "JPEG")
    assert abs(images.decode(buffer.getvalue())[0, 0].astype(int) - (255, 0, 0)).max() <= 3
    assert os.environ.get(images.FOLDER) is None
