"""Images as a request brings them: base64 text as people send it, raw bytes, or the path of a file that the server may open."""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from PIL import Image, UnidentifiedImageError

from core.data.decoding import read_rgb, size_of
from core.errors import UserError

FOLDER = "TAXON_SERVE_IMAGES"  # names the folder whose files a request may ask for; unset = none
LIMIT = "TAXON_SERVE_MEGAPIXELS"  # larger images are refused before they are decoded
MEGAPIXELS = 50.0
LONGEST_PATH = 4096
DRAFT = 4  # a JPEG is decoded at a scale of at least this many times the size that the model looks at
KINDS = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"II", b"MM", b"P", b"RIFF", b"\0\0\0", b"\xff\x4f", b"8BPS", b"qoif")
ALPHABET = re.compile(rb"[A-Za-z0-9+/]*={0,2}")
ADDRESS = re.compile(r"<[^<>]* object at 0x[0-9a-fA-F]+>")


def decode(value: Any, enough: int = 0) -> np.ndarray:
    """Return the pixels (H, W, 3) uint8 of one image, as training reads its images; raise UserError when it is none.

    Args:
        value: base64 text (line breaks, a `data:` address, the URL-safe alphabet and no padding are fine), bytes, or a path below
            the folder of TAXON_SERVE_IMAGES.
        enough: the shorter side that the model looks at; a far larger JPEG is decoded at a smaller scale. 0 = as it is.
    """
    source, limit = _source(value), megapixels()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is the one that counts
            width, height = size_of(source)
            if width * height > limit * 1e6:
                raise _too_large(f"an image of {width} x {height} pixels", limit)
            return np.asarray(read_rgb(source, (DRAFT * enough, DRAFT * enough) if enough else None))
    except UserError:
        raise
    except Image.DecompressionBombError:  # Pillow's own limit, which is met while it reads the size
        raise _too_large("an image", limit) from None
    except Exception as error:  # Pillow raises almost anything on damaged files
        raise _no_image(value, _reason(error)) from None


def _source(value: Any) -> bytes | Path:
    """Return the file that a value holds or names."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        content = bytes(value)
        # A data frame may hold base64 as bytes: letters and digits alone are no image file of any kind.
        return (_from_base64(content) or content) if not content.startswith(KINDS) else content
    if not isinstance(value, str):
        raise _no_image(value, "")
    return _allowed_file(value) or _from_base64(value.encode(errors="replace")) or _refused(value)


def _refused(value: str) -> bytes:
    raise _no_image(value, "")


def _from_base64(text: bytes) -> bytes:
    """Return what base64 stands for, b'' where a text is none."""
    text = text.strip()
    if text[:5].lower() == b"data:":
        head, _, text = text.partition(b",")
        if not head.lower().endswith(b";base64"):
            return b""
    if b"%" in text:
        text = unquote(text.decode(errors="replace")).encode(errors="replace")
    text = b"".join(text.split()).translate(bytes.maketrans(b"-_", b"+/"))
    bare = text.rstrip(b"=")
    if not ALPHABET.fullmatch(bare) or len(bare) % 4 == 1:
        return b""
    try:
        return binascii.a2b_base64(bare + b"=" * (-len(bare) % 4))
    except binascii.Error:
        return b""


def _allowed_file(value: str) -> Path | None:
    """Return the file below the allowed folder that a text names, links followed; None where there is none or none is allowed."""
    folder = os.environ.get(FOLDER)
    if not folder or not value or len(value) > LONGEST_PATH:
        return None
    try:
        root = Path(folder).expanduser().resolve(strict=True)
        path = (root / value).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        return None
    return path if path.is_relative_to(root) and path.is_file() else None


def _too_large(what: str, limit: float) -> UserError:
    return UserError(f"{what} is larger than the {limit:g} megapixels that are accepted; send a smaller one")


def megapixels() -> float:
    """Return the size above which images are refused; raise UserError for a limit that is no number."""
    given = os.environ.get(LIMIT) or str(MEGAPIXELS)
    try:
        limit = float(given)
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise UserError(f"{LIMIT} = '{given}' is no number above 0; give the megapixels that an image may have")
    if limit * 1e6 > (Image.MAX_IMAGE_PIXELS or limit * 1e6):
        Image.MAX_IMAGE_PIXELS = int(limit * 1e6)  # Pillow's own limit would come first
    return limit


def _no_image(value: Any, reason: str) -> UserError:
    """Return the line about a value that is no image; it says nothing about files of the server."""
    shown = f"'{value[:40]}'" if isinstance(value, str) else f"a value of type {type(value).__name__}"
    shown = " ".join(shown.split()) if isinstance(value, str) else shown
    if isinstance(value, (bytes, bytearray, memoryview)):
        shown = f"what was sent, {len(value)} bytes,"
    said = f" ({reason})" if reason else ""
    return UserError(f"{shown} is neither an image file nor base64 of one{said}; send base64 of an image file")


def _reason(error: Exception) -> str:
    """Return an error's text in one line; addresses of objects and Pillow's sentence around them say nothing."""
    if isinstance(error, UnidentifiedImageError):
        return "unknown format"
    return ADDRESS.sub("the image", " ".join(str(error).split()))[:160] or type(error).__name__


def example(source: Any) -> Any:
    """Return the first image of a source as the table that a model takes."""
    import pandas

    buffer = io.BytesIO()
    Image.fromarray(source.load(np.array([0]))[0]).save(buffer, format="PNG")
    return pandas.DataFrame({"image": [base64.b64encode(buffer.getvalue()).decode()]})
