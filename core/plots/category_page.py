"""The page on which a person looks at the categories of an answer, names, merges, splits or drops them, and saves `clusters.json`.

One HTML file that holds all: thumbnails (sheets of JPEG tiles), a map, the program. It asks nobody for anything, so that it opens
from a disk and in MLflow's artifact viewer, whose frame has no origin, no storage and no downloads. Names and ids come from people's
folders: they are data in a block of JSON, and the program puts them on the page as text only. The page's policy runs that program
and no other.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.data.class_names import MISSING
from core.evaluation.answer import POSITIONS, Answer, Category
from core.evaluation.answer_files import FORMAT
from core.plots.figure import KNOWN_COLOUR, NOVEL_COLOUR
from core.progress import bar

Load = Callable[[np.ndarray], Sequence[np.ndarray] | np.ndarray]

TILE = 64  # pixels; a multiple of the 16 of a JPEG block with halved colours, so that neighbours on a sheet do not mix
COLUMNS = 10
A_SHEET = COLUMNS * COLUMNS
AT_ONCE = 10  # images asked for together: a heap's may be photographs of a hundred megabytes each
TILE_BYTES = 4000  # 5,000 tiles as base64 are then at most 27 MB
QUALITIES = (80, 65, 45, 25, 10)  # the first whose sheet keeps TILE_BYTES
CROPPED = 4 / 3  # a longer image is cut to this shape at most, and shown with bars
CRISP = 16  # pixels; images so small are enlarged without smoothing

# Facts of the head, in their order, beside those of the answer itself: (key, words, what it means).
WORDS = (
    ("held_out_accuracy", "held-out accuracy of known classes", "of labelled images that training never saw; says nothing of novel ones"),
    ("silhouette", "silhouette", "how well the clusters lie apart: 1 is best, 0 is none"),
    ("stability", "stability", "how alike the clusters are when found again in other samples: 1 is best, 0 is chance"),
    ("core_share", "core share", "images that are surely of their category"),
)
# Facts that the page shows elsewhere, that others imply, or that only a program wants.
SILENT = frozenset(
    ("n_classes", "n_known", "n_novel", "n_classes_interval", "n_classes_curve", "curve", "estimated_classes", "estimated_low")
)
SILENT |= {"estimated_high", "number_of_classes", "images", "parts", "border_share", "outlier_share", "outliers", "duplicates"}
SILENT |= {"duplicate_groups", "calibrated", "calibration", "temperature"}
SHARES = frozenset(("core_share", "held_out_accuracy", "calibration_error"))
OTHERS = {"held_out": "held-out labelled images", "calibration_error": "error of the confidence on them (0 is best)"}


def write(path: Path, answer: Answer, load: Load, run: str, title: str, limit: int = 5000) -> None:
    """Write the page of an answer.

    Args:
        path: the file; its folder is made.
        answer: what was found.
        load: gives the RGB images (uint8 HxWx3 each) of some rows of the answer, AT_ONCE at a time; 2 x TILE pixels suffice.
        run: id of the run that found it, for `clusters.json`.
        title: of the page.
        limit: images shown at most. Of a larger answer a seeded sample is shown, in which each category keeps its central ones.
    """
    rows = sample(answer, limit)
    data = facts(answer, rows, run, title)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(_page(title, data, _sheets(rows, load)))


def sample(answer: Answer, limit: int, seed: int = 0) -> np.ndarray:
    """Return the rows to show (int64), category by category, each with its central, borderline and outlying images first.

    At most `limit`, but one of every category. Up to an equal share of the limit those named ones are kept; the rest is drawn at
    random from all others, so that large categories show more.
    """
    share = max(1, limit // max(1, len(answer.categories)))
    named = {c.cluster: list(dict.fromkeys(_alternating(c))) for c in answer.categories}
    kept = {cluster: rows[:share] for cluster, rows in named.items()}
    chosen = {row for rows in kept.values() for row in rows}
    others = np.setdiff1d(np.arange(len(answer)), np.fromiter(chosen, np.int64, len(chosen)))
    drawn = np.random.default_rng(seed).permutation(others)[: max(0, limit - len(chosen))]
    shown = chosen.union(drawn.tolist())
    ordered: list[int] = []
    for category in answer.categories:
        first = [row for row in (*category.exemplars, *category.borders, *category.outliers) if row in shown]
        rest = np.sort(drawn[answer.clusters[drawn] == category.cluster]).tolist()
        ordered += dict.fromkeys([*first, *rest])
    return np.array(list(dict.fromkeys([*ordered, *sorted(shown)])), np.int64)


def _alternating(category: Category) -> Iterator[int]:
    """Yield central, borderline and outlying rows in turn, so that a cut keeps some of each, the most central one first."""
    kinds = (category.exemplars, category.borders, category.outliers)
    for place in range(max(map(len, kinds))):
        yield from (kind[place] for kind in kinds if place < len(kind))


def facts(answer: Answer, rows: np.ndarray, run: str, title: str) -> dict[str, Any]:
    """Return what the page's program is given, ready for JSON: the head, the categories, and columns of the images shown."""
    place = {int(row): i for i, row in enumerate(rows)}
    return {
        "format": FORMAT,
        "run": run,
        "digest": answer.digest,
        "title": title,
        "total": answer.facts.get("images", len(answer)),  # the answer may itself be a sample
        "facts": _head(answer),
        "more": _more(answer.facts),
        "curve": _curve(answer.facts),
        "n_classes": answer.facts.get("n_classes", len(answer.categories)),
        "positions": POSITIONS,
        "missing": sorted(MISSING),
        "tile": TILE,
        "columns": COLUMNS,
        "categories": [_category(answer, category, place) for category in answer.categories],
        "images": _images(answer, rows),
    }


def _head(answer: Answer) -> list[list[str]]:
    """Return (words, value, what it means) of each fact of the head."""
    told, labelled = dict(answer.facts), sum(1 for label in answer.labels if label)
    known = sum(category.known for category in answer.categories)
    counts = f"K': {known:,} known, {len(answer.categories) - known:,} novel"
    # An answer may itself be a sample: what is told of all images then counts.
    total = int(told.get("images", len(answer)))
    counted = f"{labelled:,} with a label, {total - labelled:,} without" if total == len(answer) else f"{len(answer):,} of them are shown"
    said = [
        ["images", f"{total:,}", counted],
        ["categories", f"{len(answer.categories):,}", f"{counts}{_why(told.get('number_of_classes'))}"],
        *_estimate(told),
    ]
    if "core_share" not in told and len(answer):
        told["core_share"] = float(np.mean(answer.positions == POSITIONS.index("core")))
    said += [[words, _shown(key, told[key]), meaning] for key, words, meaning in WORDS if told.get(key) is not None]
    if len(answer):
        words = told.get("calibration", "mean of all images")
        said.append(["confidence", _shown("core_share", float(np.mean(answer.confidences))), str(words)])
    groups = len(np.unique(answer.duplicates[answer.duplicates >= 0]))
    outliers = int(told.get("outliers", np.sum(answer.positions == POSITIONS.index("outlier"))))
    said.append(["outliers", f"{outliers:,}", "images like no other; outliers.csv lists them"])
    if told.get("duplicate_groups", groups) is None:  # nobody has looked for them
        return said
    return [*said, ["near-duplicates", f"{groups:,}", "groups of nearly the same image; duplicates.csv lists them"]]


def _why(number: object) -> str:
    return f"; the number was {number}" if number else ""


def _estimate(told: Mapping[str, Any]) -> list[list[str]]:
    """Return the line of the estimated number of categories and its interval, where there is one."""
    low, high = told.get("n_classes_interval") or (told.get("estimated_low"), told.get("estimated_high"))
    if low is None or high is None:
        return []
    number = told.get("estimated_classes", told.get("n_classes"))
    between = f"{_shown('', low)} to {_shown('', high)}"
    shown = between if number is None else _shown("", number) + (f" ({between})" if low != high else "")
    return [["estimated categories", shown, "the estimate from the images, and the numbers that fit nearly as well"]]


def _more(told: Mapping[str, Any]) -> list[list[str]]:
    """Return (words, value) of the facts that the head has no place for."""
    named = SILENT.union(key for key, _, _ in WORDS)
    plain = (str, int, float, np.integer, np.floating)
    said = [
        [OTHERS.get(key, key.replace("_", " ")), _shown(key, told[key])]
        for key in told
        if key not in named and isinstance(told[key], plain)
    ]
    if "held_out_accuracy" in told and told["held_out_accuracy"] is None:
        said.append(["known classes", "nobody can say how well they are recognised: no labelled image was held out"])
    return said


def _shown(key: str, value: Any) -> str:
    """Return a fact as people read it."""
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return f"{_shown('', value[0])} and {_shown('', value[1])}"
    if isinstance(value, (bool, str)):
        return str(value)
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}"
    if not isinstance(value, (float, np.floating)):
        return str(value)
    if not math.isfinite(value):
        return "not known"
    return f"{100 * value:.0f} %" if key in SHARES else f"{value:,.3g}"


def _curve(told: Mapping[str, Any]) -> list[list[float]]:
    """Return (K, score) pairs of the curve over the number of categories, sorted by K; empty where there is none."""
    given = told.get("n_classes_curve", told.get("curve"))
    pairs = given.items() if isinstance(given, Mapping) else given or ()
    found = [[float(k), float(score)] for k, score in pairs if score is not None]
    return sorted(pair for pair in found if all(map(math.isfinite, pair)))


def _category(answer: Answer, category: Category, place: Mapping[int, int]) -> dict[str, Any]:
    """Return one category; `central`, `borders`, `outliers` are positions among the images shown."""

    def positions(rows: Sequence[int]) -> list[int]:
        return [place[row] for row in rows if row in place]

    return {
        "cluster": int(category.cluster),
        "name": category.name,
        "known": bool(category.known),
        "size": int(category.size),
        "cohesion": _number(category.cohesion),
        "separation": _number(category.separation),
        "nearest": int(category.nearest),
        "expected_purity": _number(category.expected_purity),
        "confidence": _number(category.confidence),
        "exemplars": [answer.ids[row] for row in category.exemplars],
        "halves": np.bincount(answer.halves[answer.clusters == category.cluster], minlength=2).tolist(),
        "central": positions(category.exemplars),
        "borders": positions(category.borders),
        "outliers": positions(category.outliers),
    }


def _images(answer: Answer, rows: np.ndarray) -> dict[str, Any]:
    """Return the columns of the images shown, in their order."""
    places = np.asarray(answer.places, np.float64).reshape(-1, 2)
    on_map = places[rows] if len(places) == len(answer) else np.zeros((0, 2))
    return {
        "id": [answer.ids[row] for row in rows],
        "label": [answer.labels[row] for row in rows],
        "part": [answer.parts[row] for row in rows],
        "cluster": answer.clusters[rows].tolist(),
        "half": answer.halves[rows].tolist(),
        "position": answer.positions[rows].tolist(),
        "duplicate": answer.duplicates[rows].tolist(),
        "confidence": [_number(value) for value in answer.confidences[rows]],
        "margin": [_number(value) for value in answer.margins[rows]],
        "x": [_number(value) for value in on_map[:, 0]],
        "y": [_number(value) for value in on_map[:, 1]],
    }


def _number(value: float | None) -> float | None:
    """Return a number of six digits; None for what is none, as JSON has no NaN."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _sheets(rows: np.ndarray, load: Load) -> Iterator[str]:
    """Yield the sheets of tiles of the rows, A_SHEET each, as base64 of a JPEG."""
    starts = range(0, len(rows), A_SHEET)
    for start in bar(starts, "thumbnails", total=len(starts)):
        mine = rows[start : start + A_SHEET]
        tiles = [tile(image) for i in range(0, len(mine), AT_ONCE) for image in load(mine[i : i + AT_ONCE])]
        yield base64.b64encode(sheet(tiles)).decode("ascii")


def sheet(tiles: Sequence[Image.Image]) -> bytes:
    """Return a JPEG of the tiles, COLUMNS a row, of at most TILE_BYTES a tile."""
    picture = Image.new("RGB", (COLUMNS * TILE, -(-len(tiles) // COLUMNS) * TILE), "#888888")
    for place, one in enumerate(tiles):
        picture.paste(one, (place % COLUMNS * TILE, place // COLUMNS * TILE))
    for quality in QUALITIES:
        written = io.BytesIO()
        picture.save(written, "JPEG", quality=quality, optimize=True, subsampling="4:2:0")
        if written.tell() <= TILE_BYTES * len(tiles):
            break
    return written.getvalue()


def tile(image: np.ndarray) -> Image.Image:
    """Return TILE x TILE pixels of an image: cut to CROPPED where it is longer, on a grey ground."""
    picture = Image.fromarray(np.ascontiguousarray(image, np.uint8))
    short = min(picture.size)
    # A shape near the square fills the tile; a longer one keeps CROPPED of its shorter side and gets bars.
    side = short if max(picture.size) <= CROPPED * short else min(max(picture.size), round(CROPPED * short))
    width, height = min(picture.width, side), min(picture.height, side)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    filled = max(1, round(TILE * width / side)), max(1, round(TILE * height / side))
    smooth = Image.Resampling.NEAREST if max(width, height) <= CRISP else Image.Resampling.BICUBIC
    small = picture.resize(filled, smooth, (left, top, left + width, top + height))
    if filled == (TILE, TILE):
        return small
    whole = Image.new("RGB", (TILE, TILE), "#888888")
    whole.paste(small, ((TILE - filled[0]) // 2, (TILE - filled[1]) // 2))
    return whole


def _page(title: str, data: Mapping[str, Any], sheets: Iterator[str]) -> Iterator[str]:
    """Yield the parts of the page, sheet by sheet, so that they need not be in memory together."""
    here = Path(__file__).with_suffix("")
    page, style, program = (here.with_suffix(end).read_text(encoding="utf-8") for end in (".html", ".css", ".js"))
    style = style.replace("KNOWN_COLOUR", KNOWN_COLOUR).replace("NOVEL_COLOUR", NOVEL_COLOUR)
    own = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode("ascii")
    parts = {"title": _escaped(title), "style": style, "program": program, "own": own, "data": as_json(data)}
    # Only the page itself is searched for places: a title may hold the name of one.
    for part in re.split(r"\{\{(\w+)\}\}", page):
        if part == "sheets":
            for number, content in enumerate(sheets):
                yield f'<script type="text/plain" id="sheet-{number}">{content}</script>\n'
        else:
            yield parts.get(part, part)


def as_json(data: Any) -> str:
    """Return JSON in ASCII that no HTML parser takes for markup, `</script>` and `<!--` in names included."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _escaped(text: str) -> str:
    """Return text for HTML; what cannot be written as UTF-8 (half a surrogate pair) as a replacement character."""
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))
