"""The page of an answer: its data, that names stay names, the sample, its size."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.evaluation.answer import Answer, Category
from core.plots import category_page

NASTY = "</script><script>alert(1)</script><!-- & \"'`$1 $& {{data}} \u2028"


def answer_of(sizes: tuple[int, ...] = (6, 4, 3), names: tuple[str, ...] = (), ids: tuple[str, ...] = (), **facts: Any) -> Answer:
    """Return an answer with a category of each size, the first one known; its first three images are the central ones."""
    clusters = np.repeat(np.arange(len(sizes)), sizes).astype(np.int64)
    n = len(clusters)
    names = names or ("oak", *(f"novel {i}" for i in range(1, len(sizes))))
    categories = []
    for cluster, size in enumerate(sizes):
        rows = np.flatnonzero(clusters == cluster).tolist()
        central, borders, outliers = tuple(rows[:3]), tuple(rows[3:4]), tuple(rows[-1:])
        nearest = (cluster + 1) % len(sizes) if len(sizes) > 1 else -1
        purity = 0.9 if cluster == 0 else None
        categories.append(
            Category(cluster, names[cluster], cluster == 0, size, 0.8, 0.3, nearest, purity, 0.75, central, borders, outliers)
        )
    ids = ids or tuple(f"heap/{i:05d}.jpg" for i in range(n))
    labels = tuple("oak" if i < 2 else "" for i in range(n))
    parts = tuple("labelled" if i < 2 else "unlabelled" for i in range(n))
    ramp = np.linspace(0, 1, n)
    places = np.stack([ramp, ramp[::-1]], axis=1).astype(np.float32)
    zeros = np.zeros(n, np.int64)
    halves = np.arange(n) % 2
    return Answer(
        ids, ids, ("",) * n, labels, parts, clusters, halves, ramp, ramp, zeros, zeros - 1, places, tuple(categories), facts, "abc"
    )


def grey(rows: np.ndarray) -> list[np.ndarray]:
    """Return images whose shade is the row's number, so that tiles tell which image they are of."""
    return [np.full((20, 20, 3), 10 * row % 256, np.uint8) for row in rows]


def written(answer: Answer, folder: Path, title: str = "Categories", **options: Any) -> str:
    category_page.write(folder / "answer" / "report.html", answer, options.pop("load", grey), "run1", title, **options)
    return (folder / "answer" / "report.html").read_text(encoding="utf-8")


def data_of(page: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found)


def test_the_page_holds_the_answer(tmp_path):
    data = data_of(written(answer_of(n_classes=3, n_classes_interval=(2, 4), held_out_accuracy=0.925), tmp_path))
    assert (data["format"], data["run"], data["digest"], data["total"]) == ("taxon-clusters/1", "run1", "abc", 13)
    first = data["categories"][0]
    assert (first["name"], first["known"], first["size"], first["expected_purity"], first["nearest"]) == ("oak", True, 6, 0.9, 1)
    assert first["exemplars"] == ["heap/00000.jpg", "heap/00001.jpg", "heap/00002.jpg"]
    assert [data["images"]["id"][i] for i in first["borders"] + first["outliers"]] == ["heap/00003.jpg", "heap/00005.jpg"]
    assert data["images"]["cluster"] == [0] * 6 + [1] * 4 + [2] * 3
    halves = dict(zip(data["images"]["id"], data["images"]["half"], strict=True))
    assert [halves[one] for one in answer_of().ids] == answer_of().halves.tolist()


def head_of(folder: Path, **facts: Any) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Return what the head shows, what each of it means, and what is said beside it."""
    data = data_of(written(answer_of(**facts), folder))
    shown = {words: value for words, value, _ in data["facts"]}
    return shown, {words: meaning for words, _, meaning in data["facts"]}, dict(data["more"])


def test_the_head_says_what_is_known_without_truth(tmp_path):
    shown, meaning, more = head_of(tmp_path, estimated_classes=4, estimated_low=3, estimated_high=6, number_of_classes="asked for")
    assert shown["categories"] == "3" and meaning["categories"] == "K': 1 known, 2 novel; the number was asked for"
    assert shown["estimated categories"] == "4 (3 to 6)" and shown["core share"] == "100 %" and shown["confidence"] == "50 %"
    assert not any("accuracy" in words for words in (*shown, *meaning.values(), *more))
    shown, meaning, more = head_of(
        tmp_path, held_out_accuracy=0.925, silhouette=0.314159, calibration="not calibrated: too few", held_out=40
    )
    assert shown["held-out accuracy of known classes"] == "92 %" and shown["silhouette"] == "0.314"
    assert meaning["confidence"] == "not calibrated: too few" and more == {"held-out labelled images": "40"}


def test_the_head_says_what_nobody_can_say(tmp_path):
    shown, _, more = head_of(
        tmp_path, held_out_accuracy=None, silhouette=None, n_classes_interval=(2, 4), temperature=0.1, parts={"labelled": 2}
    )
    assert "accuracy" not in str(shown) + str(more) and more.keys() == {"known classes"} and "silhouette" not in shown
    assert shown["estimated categories"] == "2 to 4"
    assert head_of(tmp_path, estimated_classes=5, estimated_low=5, estimated_high=5)[0]["estimated categories"] == "5"


def test_the_head_takes_what_it_does_not_know_as_it_is(tmp_path):
    told = {"stability": float("nan"), "note": "one seed", "curve": [[2, 0.1], [3, 0.4], [4, None]]}
    shown, _, more = head_of(tmp_path, **told)
    assert shown["stability"] == "not known" and more == {"note": "one seed"}
    assert data_of(written(answer_of(**told), tmp_path))["curve"] == [[2.0, 0.1], [3.0, 0.4]]


def test_few_images_are_in_memory_at_a_time(tmp_path):
    asked = []
    written(answer_of((90, 50)), tmp_path, load=lambda rows: asked.append(len(rows)) or grey(rows))
    assert sum(asked) == 140 and max(asked) <= 10


def test_names_ids_labels_and_the_title_stay_text(tmp_path):
    answer = answer_of((3, 2), (NASTY, "novel 1"), ids=(NASTY, *(f"<img src=x onerror=alert({i})>\udcff" for i in range(4))))
    answer = dataclasses.replace(answer, labels=(NASTY,) * 5)
    page = written(answer, tmp_path, title=NASTY)
    assert page.count("<script") == 3 and page.count("</script>") == 3 and "<img" not in page and "<!--" not in page
    data = data_of(page)
    assert data["categories"][0]["name"] == NASTY and data["images"]["id"][0] == NASTY and data["images"]["label"][4] == NASTY
    assert data["images"]["id"][1] == "<img src=x onerror=alert(0)>\udcff"
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in page and "{{data}}" in page


def test_only_the_page_s_own_program_may_run(tmp_path):
    page = written(answer_of(), tmp_path)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    program = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[0]
    assert base64.b64encode(hashlib.sha256(program.encode()).digest()).decode() in policy and "default-src 'none'" in policy
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_each_image_has_the_tile_at_its_place(tmp_path):
    page = written(answer_of((90, 50)), tmp_path)
    sheets = re.findall(r'<script type="text/plain" id="sheet-\d+">(.*?)</script>', page)
    ids = data_of(page)["images"]["id"]
    assert len(sheets) == 2 and len(ids) == 140
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet))).convert("L")) for sheet in sheets]
    for i, name in enumerate(ids):
        sheet, at = divmod(i, 100)
        shade = pictures[sheet][at // 10 * 64 + 32, at % 10 * 64 + 32]
        assert abs(int(shade) - 10 * int(name[5:10]) % 256) <= 3, (i, name)


def test_a_large_heap_shows_a_sample_that_keeps_the_central_images(tmp_path):
    answer = answer_of((5000, 41, 3))
    rows = category_page.sample(answer, 60)
    assert len(rows) == 60 and len(set(rows.tolist())) == 60
    for category in answer.categories:
        assert {*category.exemplars, *category.borders, *category.outliers} <= set(rows.tolist())
    assert np.array_equal(rows, category_page.sample(answer, 60)) and not np.array_equal(rows, category_page.sample(answer, 60, seed=1))
    data = data_of(written(answer, tmp_path, limit=60))
    assert data["total"] == 5044 and len(data["images"]["id"]) == 60
    # Sizes are those of the heap, not of the sample.
    assert [(category["size"], category["halves"]) for category in data["categories"]] == [
        (5000, [2500, 2500]),
        (41, [21, 20]),
        (3, [1, 2]),
    ]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12).map(tuple), st.integers(1, 80))
def test_a_sample_keeps_its_limit_and_the_most_central_image_of_each_category(sizes, limit):
    answer = answer_of(sizes)
    rows = category_page.sample(answer, limit)
    assert len(rows) == min(len(answer), max(limit, len(sizes))) and len(set(rows.tolist())) == len(rows)
    assert {category.exemplars[0] for category in answer.categories} <= set(rows.tolist())
    assert np.all(np.diff(answer.clusters[rows]) >= 0)


@pytest.mark.parametrize("shape", [(8, 8), (64, 64), (100, 130), (300, 20), (1, 1), (1, 999)])
def test_tiles_have_one_size_whatever_the_image(shape):
    picture = category_page.tile(np.full((*shape, 3), 200, np.uint8))
    assert picture.size == (64, 64) and picture.mode == "RGB" and picture.getpixel((32, 32)) == (200, 200, 200)


def test_an_empty_answer_still_gives_a_page(tmp_path):
    none, zeros = np.zeros(0, np.int64), np.zeros(0)
    columns = dict.fromkeys(("clusters", "halves", "positions", "duplicates"), none) | dict.fromkeys(("confidences", "margins"), zeros)
    texts = dict.fromkeys(("ids", "paths", "contents", "labels", "parts", "categories"), ())
    nothing = dataclasses.replace(answer_of((1,)), **columns, **texts, places=np.zeros((0, 2), np.float32))
    data = data_of(written(nothing, tmp_path))
    assert data["total"] == 0 and data["images"]["id"] == []


@pytest.mark.slow
def test_five_thousand_images_of_the_worst_kind_stay_under_30_mb(tmp_path):
    rng = np.random.default_rng(0)
    answer = answer_of((1000,) * 5, ids=tuple(f"{'a-long-folder-name/' * 4}{i:05d}.jpg" for i in range(5000)))
    written(answer, tmp_path, load=lambda rows: rng.integers(0, 256, (len(rows), 64, 64, 3), np.uint8))
    assert 5e6 < (tmp_path / "answer" / "report.html").stat().st_size < 30e6
