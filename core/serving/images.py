"""Images as a request brings them: base64 text, raw bytes or a path."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.data.decoding import read_rgb
from core.errors import UserError

LONGEST_PATH = 4096


def decode(value: str | bytes) -> np.ndarray:
    """Return the pixels (H, W, 3) uint8 of base64 text, raw bytes or a path; raise UserError when it is no image."""
    try:
        if isinstance(value, bytes):
            source: Any = value
        elif _is_file(value):
            source = value
        else:
            source = base64.b64decode(value, validate=True)
        return np.asarray(read_rgb(source))  # as the training read its images
    except Exception as error:  # Pillow raises almost anything on damaged files
        said = " ".join(str(error).split())[:160]
        reason = "" if isinstance(value, str) and len(value) < LONGEST_PATH else f" ({said})"  # says nothing about files of the server
        raise UserError(f"'{str(value)[:60]}' is neither an image file nor base64 of one{reason}; send either") from None


def _is_file(value: str) -> bool:
    """Say whether a text is a path; base64 is longer than any file name may be, which the system reports as an error."""
    try:
        return Path(value).is_file()
    except OSError:
        return False


def example(source: Any) -> Any:
    """Return the first image of a source as the table that a model takes."""
    import pandas

    buffer = io.BytesIO()
    Image.fromarray(source.load(np.array([0]))[0]).save(buffer, format="PNG")
    return pandas.DataFrame({"image": [base64.b64encode(buffer.getvalue()).decode()]})
