"""What all figures share: one way to write a PNG, colours for known and novel, text that stays readable on any background."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

DPI = 120
KNOWN_COLOUR = "#1f5fa8"
NOVEL_COLOUR = "#c2410c"
MISSING_COLOUR = "#d4d4d4"
# sRGB luminance at which black and white text have the same contrast (WCAG 2).
_EVEN_CONTRAST = 0.179


def save(figure: Figure, path: str | Path) -> Path:
    """Write `figure` as a PNG at 120 dots an inch, making the folder, and return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    # Without a fixed Software entry the same data would give other bytes under another matplotlib.
    figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})
    return path


def text_colour(background: object) -> str:
    """Return 'black' or 'white', whichever contrasts more with the `background` (any matplotlib colour), by relative luminance."""
    red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in to_rgb(background))
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > _EVEN_CONTRAST else "white"
