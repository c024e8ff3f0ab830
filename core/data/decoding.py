"""One way to decode an image, for training and serving alike: pixels that decode are an image, whatever its metadata holds."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image

Result = TypeVar("Result")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
# JPEG segments that a decoder can do without: application data but for JFIF (0xE0) and Adobe's colour transform (0xEE), comments.
_JPEG_METADATA = {*range(0xE1, 0xF0), 0xFE} - {0xEE}


def read_rgb(source: Path | str | bytes, draft: tuple[int, int] | None = None) -> Image.Image:
    """Return the image of a file or of its bytes, RGB and upright.

    draft: the size that suffices; a JPEG is then decoded at the smallest scale not below it, at a fraction of the cost, and
    still read to its end. Raises whatever Pillow raises where the pixels cannot be decoded.
    """

    def decoded(image: Image.Image) -> Image.Image:
        if draft:
            image.draft("RGB", draft)
        return upright_rgb(image)

    return _opened(source, decoded)


def size_of(source: Path | str | bytes) -> tuple[int, int]:
    """Return (width, height) as the header of an image file says; nothing is decoded or turned."""
    return _opened(source, lambda image: image.size)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return the image as RGB, turned as its EXIF orientation says, what is transparent on white.

    Pillow's own `exif_transpose` writes the EXIF block again, which tags of unusual types make impossible; nobody reads it here.
    """
    image.load()
    turn = _TURNS.get(_orientation(image))
    image = image if turn is None else image.transpose(turn)
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits to 255 instead of scaling them
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode == "I" and np.asarray(image).max() > 255:  # 16 bits as PGM and some PNG files have them
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:  # dropped, it would show whatever colour an editor left under what is invisible
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (as it is) where there is none that can be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged block raises almost anything, and says nothing of the pixels
        return 1


def _opened(source: Path | str | bytes, use: Callable[[Image.Image], Result]) -> Result:
    """Open an image for `use`; once more without its metadata where that is what cannot be read."""
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            return use(image)
    except Exception:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        plain = without_metadata(content)
        if plain == content:
            raise
        try:
            with Image.open(BytesIO(plain)) as image:
                return use(image)
        except Exception:
            pass  # what was wrong at first is the better message
        raise


def without_metadata(content: bytes) -> bytes:
    """Return a PNG or JPEG file without what is not needed for its pixels (texts, profiles, EXIF); other content as it is."""
    if content.startswith(_PNG):
        return _png_pixels(content)
    if content.startswith(b"\xff\xd8"):
        return _jpeg_pixels(content)
    return content


def _png_pixels(content: bytes) -> bytes:
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        if content[at + 4 : at + 8] in _PNG_PIXELS:
            kept.append(content[at:end])
        at = end
    return b"".join(kept)


def _jpeg_pixels(content: bytes) -> bytes:
    kept, at = [content[:2]], 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0xDA:  # the scan's data run to the end
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if content[at + 1] not in _JPEG_METADATA:
            kept.append(content[at:end])
        at = end
    return b"".join([*kept, content[at:]])
