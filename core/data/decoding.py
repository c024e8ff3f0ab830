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
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:  # dropped, it would show whatever colour an editor left under what is invisible
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a grey image of 16 or 32 bits or of floats as 8 bits, which Pillow would clip to 255 instead of scaling them.

    16 bits are scaled as they are defined, so that two images stay comparable; `I` may hold 8 or 16 bits, as PGM and some PNG and TIFF
    files have them; floats are taken for 0..1, 0..255 or 0..65535, the first range that holds them. What is above is scaled to its maximum.
    """
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        grey = values >> 8
        if isinstance(clear := image.info.get("transparency"), int):
            grey = np.where(values == clear, 255, grey)  # on white, as all that is transparent
        return Image.fromarray(grey.astype(np.uint8))
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    top = values.max(initial=0.0)
    ranges = ((1.0, 255.0), (255.0, 1.0), (65535.0, 1 / 256)) if image.mode == "F" else ((255.0, 1.0), (65535.0, 1 / 256))
    factor = next((factor for limit, factor in ranges if top <= limit), 255.0 / max(top, 1.0))
    return Image.fromarray((values * factor).clip(0, 255).astype(np.uint8))


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
