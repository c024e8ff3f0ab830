"""What all figures share: one way to write a PNG, colours for known and novel, text that stays readable on any background."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

from matplotlib import font_manager, rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.typing import ColorType

DPI = 120
KNOWN_COLOUR = "#1f5fa8"
NOVEL_COLOUR = "#c2410c"
MISSING_COLOUR = "#d4d4d4"
# sRGB luminance at which black and white text have the same contrast (WCAG 2).
_EVEN_CONTRAST = 0.179
_MISSING_GLYPH = re.compile(r"Glyph (\d+) .*missing from font")


def _families() -> list[str]:
    """Return matplotlib's own font and one with Chinese and Japanese letters, which lies in the environment on every machine."""
    found = importlib.util.find_spec("zhplot")  # only the font file is used: nothing of the package is imported
    places = found.submodule_search_locations if found else None
    file = Path(places[0], "fonts", "NotoSansSC-Regular.ttf") if places else Path()
    if not file.is_file():
        return ["DejaVu Sans"]
    font_manager.fontManager.addfont(file)
    regular = font_manager.fontManager.ttflist[-1]
    # The same letters serve for bold titles: nothing is said about a weight that is not there.
    font_manager.fontManager.ttflist.append(dataclasses.replace(regular, weight=700))
    return ["DejaVu Sans", regular.name]


# Names of classes and paths are drawn as they are: `$5_to_$10` is no formula, and a glyph comes from the first font that has it.
rcParams["text.parse_math"] = False
rcParams["font.family"] = _families()


def save(figure: Figure, path: str | Path) -> Path:
    """Write `figure` as a PNG at 120 dots an inch, making the folder, and return the path.

    Characters that neither font has are looked for in the machine's fonts; where none has them, one line says so.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    missing = _drawn(figure, path)
    if missing and (others := _fonts_with(missing)):
        for text in figure.findobj(Text):
            text.set_fontfamily([*text.get_fontfamily(), *others])
        missing = _drawn(figure, path)
    if missing:
        shown = " ".join(sorted(missing)[:10])
        print(f"taxon: no font of this machine has {shown} (in {path.name}): install one, e.g. a Noto font of that script", file=sys.stderr)
    return path


def _drawn(figure: Figure, path: Path) -> set[str]:
    """Write the PNG; return the characters for which no glyph was found."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        # Without a fixed Software entry the same data would give other bytes under another matplotlib.
        figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})
    missing = set()
    for warning in said:
        if found := _MISSING_GLYPH.match(str(warning.message)):
            missing.add(chr(int(found[1])))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return missing


def _fonts_with(characters: Iterable[str]) -> list[str]:
    """Return families of the machine's fonts that together have as many of the characters as possible."""
    left, found = {ord(character) for character in characters}, []
    for entry in font_manager.fontManager.ttflist:
        if not left:
            break
        try:
            covered = left & font_manager.get_font(entry.fname).get_charmap().keys()
        except (OSError, RuntimeError):  # a font file that FreeType does not read
            continue
        if covered and "lastresort" not in entry.fname.lower():
            found.append(entry.name)
            left -= covered
    return found


def text_colour(background: ColorType) -> str:
    """Return 'black' or 'white', whichever contrasts more with the `background` (any matplotlib colour), by relative luminance."""
    red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in to_rgb(background))
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > _EVEN_CONTRAST else "white"
