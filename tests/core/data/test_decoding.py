"""Every combination of an EXIF tag and a type that Pillow cannot write back, and metadata that it cannot read."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from core.data import decoding

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

PIXELS = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
TAGS = (0x0100, 0x0102, 0x010E, 0x011A, 0x011B, 0x0128, 0x0132, 0x0213, 0x4746, 0x8769, 0x8825, 0x9286, 0xA005, 0xEA1C)
TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 99: 1}  # EXIF type: bytes of one value


def exif(entries, orientation=6):
    """An EXIF block, little endian: orientation and further entries (tag, type, count, four bytes), values at its end."""
    entries = sorted([(0x0112, 3, 1, struct.pack("<HH", orientation, 0)), *entries])
    table = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + struct.pack("<I", 0) + struct.pack("<ii", -1, 0) * 4


def saved(kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, **options)
    return buffer.getvalue()


def odd(tag, kind):
    """An entry whose value is small where it fits, else at an offset that may be anything."""
    return (tag, kind, 2, struct.pack("<I", 8 + 2 + 12 * 2 + 4) if TYPES[kind] > 2 else b"72\0\0")


@pytest.mark.parametrize(("kind", "format"), itertools.product(TYPES, ("JPEG", "PNG", "WEBP")))
def test_a_turned_photo_is_read_and_turned_whatever_its_other_tags_are(kind, format):
    for tag in TAGS:
        image = decoding.read_rgb(saved(format, exif=b"Exif\0\0" + exif([odd(tag, kind)])))
        assert (image.mode, image.size) == ("RGB", (20, 30)), (hex(tag), kind)


DAMAGED = (b"Exif\0\0", b"Exif\0\0II", b"Exif\0\0MM\0*\0\0\0\xff", b"Exif\0\0" + exif([])[:12], b"Exif\0\0nonsense" * 50)


@pytest.mark.parametrize("block", DAMAGED)
def test_exif_that_cannot_be_read_leaves_the_picture_as_it_is(block):
    assert decoding.read_rgb(saved("JPEG", exif=block)).size == (30, 20)


@pytest.mark.parametrize("raw", ["\nexif\n   zz\nnot hexadecimal", "\nexif\n    4\n00", "x"])
def test_an_exif_text_of_a_png_that_is_none_leaves_the_picture_as_it_is(raw):
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", raw)
    assert np.array_equal(np.asarray(decoding.read_rgb(saved("PNG", pnginfo=info))), PIXELS)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


LARGE = zlib.compress(bytes(2 << 20))  # unpacks to more than the 1 MiB that Pillow takes


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"iCCP", b"profile\0\0" + LARGE),
        chunk(b"zTXt", b"Comment\0\0" + LARGE),
        chunk(b"iTXt", b"Comment\0\x01\0\0\0" + LARGE),
        chunk(b"tEXt", b"Comment\0x")[:-4] + b"\0\0\0\0",  # a checksum that is wrong, of a text
        chunk(b"iCCP", b"profile\0\x07"),
        chunk(b"pHYs", b"\0"),
    ],
)
@pytest.mark.parametrize("at_end", [False, True])
def test_a_png_is_read_whatever_its_profile_and_texts_hold(extra, at_end):
    plain = saved("PNG")
    place = len(plain) - 12 if at_end else 33
    content = plain[:place] + extra + plain[place:]
    assert np.array_equal(np.asarray(decoding.read_rgb(content)), PIXELS)
    assert decoding.size_of(content) == (30, 20)


SEGMENTS = (
    (0xE1, b"Exif\0\0MM"),
    (0xE2, b"ICC_PROFILE\0\0\0"),
    (0xE2, b"MPF\0II*\0"),
    (0xED, b"Photoshop 3.0\x008BIM\x04\x04\xff"),
    (0xFE, b"\xff\xfe"),
)


@pytest.mark.parametrize(("marker", "data"), SEGMENTS)
def test_a_jpeg_is_read_whatever_its_application_segments_hold(marker, data):
    plain = saved("JPEG", quality=95)
    content = plain[:2] + b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data + plain[2:]
    assert np.array_equal(np.asarray(decoding.read_rgb(content)), np.asarray(decoding.read_rgb(plain)))


@pytest.mark.parametrize("kind", sorted(TYPES.keys() & {2, 5, 7, 10, 12}))
def test_a_tiff_with_an_odd_tag_is_read_and_turned(kind):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[0x0112] = 6
    info.tagtype[0x9286] = kind
    info[0x9286] = {2: "72", 5: 1.5, 7: b"\1\2", 10: -1.5, 12: 2.0}[kind]
    assert decoding.read_rgb(saved("TIFF", tiffinfo=info)).size == (20, 30)


def test_pixels_that_cannot_be_decoded_are_no_image_and_the_first_reason_is_given():
    content = saved("PNG")
    with pytest.raises(Exception, match=r"truncated|broken"):
        decoding.read_rgb(content[: len(content) // 2])
    with pytest.raises(Exception, match="cannot identify"):
        decoding.read_rgb(b"GIF89a nonsense")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_turns_as_pillow_does(orientation):
    from PIL import ImageOps

    content = saved("PNG", exif=b"Exif\0\0" + exif([], orientation))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))
    assert np.array_equal(np.asarray(decoding.read_rgb(content)), expected)


RAMP = np.linspace(0, 65535, 40 * 40).reshape(40, 40).astype(np.uint16)


def grey(image, kind):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return np.asarray(decoding.read_rgb(buffer.getvalue()))[..., 0]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PGM", "I"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind):
    if kind == "PGM":
        found = np.asarray(decoding.read_rgb(b"P5 40 40 65535\n" + RAMP.astype(">u2").tobytes()))[..., 0]
    else:
        found = grey(Image.fromarray(RAMP.astype(np.int32) if kind == "I" else RAMP), "TIFF" if kind == "I" else kind)
    np.testing.assert_array_equal(found, RAMP >> 8)
    assert len(np.unique(found)) == 256


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0, 1e6])
def test_floats_are_scaled_from_the_range_that_holds_them(top):
    values = (RAMP / 65535 * top).astype(np.float32)
    found = grey(Image.fromarray(values), "TIFF").astype(int)
    assert np.abs(found - RAMP / 65535 * 255).max() <= 1.01
    values[0, 0], values[0, 1], values[0, 2] = np.nan, np.inf, -5.0
    assert grey(Image.fromarray(values), "TIFF")[0, :3].tolist() == [0, 0, 0]


def test_whole_numbers_of_eight_and_of_many_bits_keep_their_grey():
    small = (RAMP >> 8).astype(np.int32)
    np.testing.assert_array_equal(grey(Image.fromarray(small), "TIFF"), small)
    large = RAMP.astype(np.int32) * 1000
    assert np.abs(grey(Image.fromarray(large), "TIFF").astype(int) - (RAMP >> 8)).max() <= 1


def raw_png(values, colour, *extra):
    """A 16-bit PNG of values (H, W, channels), which Pillow cannot write."""
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + b"".join([chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def test_sixteen_bit_colours_and_transparency_are_read():
    colours = np.random.default_rng(1).integers(0, 65536, (6, 5, 3))
    np.testing.assert_array_equal(np.asarray(decoding.read_rgb(raw_png(colours, 2))), colours >> 8)
    clear = np.full((4, 4, 1), 0x1234)
    clear[0] = 0x8000
    found = np.asarray(decoding.read_rgb(raw_png(clear, 0, chunk(b"tRNS", b"\x12\x34"))))
    assert (found[0] == 0x80).all() and (found[1:] == 255).all()


def test_what_is_transparent_is_white_whatever_lies_below_it():
    palette = Image.fromarray(PIXELS).quantize(8)
    index, colours = np.asarray(palette), np.asarray(palette.convert("RGB"))
    for kind in ("PNG", "GIF"):
        buffer = io.BytesIO()
        palette.save(buffer, kind, transparency=3)
        found = np.asarray(decoding.read_rgb(buffer.getvalue()))
        assert (found[index == 3] == 255).all() and np.array_equal(found[index != 3], colours[index != 3])
    layered = np.dstack([PIXELS, np.where(index == 3, 0, 255).astype(np.uint8)])
    for kind in ("PNG", "WEBP", "TIFF", "AVIF"):
        buffer = io.BytesIO()
        Image.fromarray(layered).save(buffer, kind)
        assert (np.asarray(decoding.read_rgb(buffer.getvalue()))[index == 3] >= 250).mean() > 0.9, kind


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_colours_for_print_are_those_on_a_screen(kind):
    smooth = Image.fromarray(PIXELS).resize((4, 3)).resize((48, 36), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    smooth.convert("CMYK").save(buffer, kind)
    found = np.asarray(decoding.read_rgb(buffer.getvalue())).astype(int)
    assert np.abs(found - np.asarray(smooth)).mean() < 3


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_of_several_frames_the_first_is_the_image(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    assert np.abs(np.asarray(decoding.read_rgb(buffer.getvalue())).astype(int) - [255, 0, 0]).max() <= 2


def test_an_avif_is_read_and_turned():
    wide = Image.new("RGB", (30, 20), "red")
    wide.paste("blue", (0, 0, 10, 20))
    buffer, turned = io.BytesIO(), Image.Exif()
    turned[0x0112] = 6
    wide.save(buffer, "AVIF", exif=turned, quality=95)
    found = np.asarray(decoding.read_rgb(buffer.getvalue())).astype(int)
    assert found.shape == (30, 20, 3) and np.abs(found[2, 10] - [0, 0, 255]).max() < 30 and np.abs(found[-3, 10] - [255, 0, 0]).max() < 30
