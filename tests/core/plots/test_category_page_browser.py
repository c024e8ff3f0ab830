"""The page of an answer in a headless Chromium: opened from the disk, and in MLflow's artifact viewer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.plots import category_page
from tests import chromium
from tests.core.plots.test_category_page import answer_of, grey

pytestmark = pytest.mark.slow

PATIENCE = 120.0  # seconds after which something hangs; no measure of speed
HEAP = (8, 6, 5, 4, 3)
NAMES = ("oak", '<img src=x onerror="window.ran=1">&\'$1', "novel 2", "novel 3", "</script><script>window.ran=1</script>")


@pytest.fixture(scope="module")
def downloads(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads) -> Iterator[Any]:
    """Return a headless Chromium that saves into `downloads`."""
    running = chromium.started(downloads)
    yield running
    running.quit()


class Page:
    """What a person does on the page."""

    def __init__(self, browser: Any):
        self.browser = browser

    def find(self, selector: str) -> Any:
        (found,) = self.browser.find_elements("css selector", selector)
        return found

    def card(self, cluster: int) -> Any:
        return self.find(f"#category-{cluster}")

    def press(self, cluster: int, words: str) -> None:
        """Press the shown button of a category."""
        (button,) = [b for b in self.card(cluster).find_elements("css selector", "button") if b.is_displayed() and b.text == words]
        button.click()

    def type(self, cluster: int, name: str, field: int = 0) -> None:
        """Type into a shown field of a category."""
        shown = [f for f in self.card(cluster).find_elements("css selector", "input[type=text]") if f.is_displayed()]
        shown[field].clear()
        shown[field].send_keys(name)

    def choose(self, *clusters: int) -> None:
        for cluster in clusters:
            self.card(cluster).find_element("css selector", "input[type=checkbox]").click()

    @property
    def said(self) -> str:
        return self.find("#said").text


def wait(what: Callable[[], Any], wanted: str) -> Any:
    """Return what `what` gives as soon as that is something."""
    end = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < end, f"no {wanted}"
        time.sleep(0.1)
    return found


def file_of(folder: Path) -> Path:
    path = folder / "report.html"
    answer = answer_of(HEAP, NAMES, n_classes=5, n_classes_curve={3: 0.1, 5: 0.4, 6: 0.2})
    category_page.write(path, answer, grey, "run1", "Leaves")
    return path


@pytest.fixture
def page(browser, downloads, tmp_path) -> Iterator[Page]:
    for old in downloads.iterdir():
        old.unlink()
    place = file_of(tmp_path).as_uri()
    chromium.visit(browser, place, PATIENCE)
    browser.execute_script("localStorage.clear()")
    browser.get_log("browser")
    chromium.visit(browser, place, PATIENCE)
    wait(lambda: browser.execute_script("return document.querySelectorAll('.tile').length"), "category in sight")  # filled when seen
    yield Page(browser)
    leave(browser)


def leave(browser: Any) -> None:
    """Let the page be left as by a person who says that what is unsaved may go."""
    browser.execute_script("window.addEventListener('beforeunload', (event) => event.stopImmediatePropagation(), true)")


def saved(page: Page, downloads: Path) -> dict[str, Any]:
    """Press save; return the content of the file that was downloaded."""
    page.find("#save").click()
    path = wait(lambda: next(downloads.glob("clusters*.json"), None), "saved clusters.json")
    text = path.read_text()
    assert page.find("#json").get_attribute("value") == text
    page.find("#close").click()
    return json.loads(text)


def test_what_a_person_says_is_what_is_saved(page, downloads):
    assert [card.get_attribute("id") for card in page.browser.find_elements("css selector", ".card")] == [
        f"category-{cluster}" for cluster in (1, 2, 3, 4, 0)
    ]
    page.type(1, "birch <b>")
    page.choose(0, 2)
    page.find("#merge").click()
    page.press(3, "Split")
    page.type(3, "elm")
    page.type(3, "ash", 1)
    page.press(4, "Drop")
    found = saved(page, downloads)
    assert (found["format"], found["run"], found["digest"]) == ("taxon-clusters/1", "run1", "abc")
    said = {entry["cluster"]: entry for entry in found["clusters"]}
    assert list(said) == [0, 1, 2, 3, 4]
    assert [said[c]["merge"] for c in range(5)] == [None, None, 0, None, None]
    assert [said[c]["split"] for c in range(5)] == [False, False, False, True, False]
    assert [said[c]["drop"] for c in range(5)] == [False, False, False, False, True]
    assert said[0]["name"] == "oak" and said[1]["name"] == "birch <b>" and said[3]["names"] == ["elm", "ash"]
    plain = {"known": True, "size": 8, "cohesion": 0.8, "separation": 0.3, "nearest": 1, "expected_purity": 0.9, "confidence": 0.75}
    assert plain.items() <= said[0].items() and said[0]["exemplars"] == ["heap/00000.jpg", "heap/00001.jpg", "heap/00002.jpg"]


def test_nothing_said_is_saved_as_it_was_found(page, downloads):
    found = saved(page, downloads)
    assert [entry["name"] for entry in found["clusters"]] == list(NAMES)
    assert all((entry["merge"], entry["split"], entry["drop"]) == (None, False, False) for entry in found["clusters"])


def test_names_run_nothing_and_the_page_asks_nobody(page):
    for cluster, name in enumerate(NAMES[1:], 1):
        assert page.card(cluster).find_element("css selector", "input[type=text]").get_attribute("placeholder").startswith(name)
    page.type(1, NAMES[4])
    page.choose(1, 3)
    page.find("#merge").click()
    assert (
        NAMES[4] in page.browser.execute_script("return document.body.innerText")
        or page.card(1).find_element("css selector", "input[type=text]").get_attribute("value") == NAMES[4]
    )
    assert page.browser.execute_script("return window.ran") is None
    asked = page.browser.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert [one for one in asked if not one.startswith("data:")] == []
    assert page.browser.get_log("browser") == []


def test_a_name_used_twice_is_said_at_once_and_not_saved(page, downloads):
    page.type(1, "oak")
    assert "“oak” is used twice" in page.said
    assert page.card(1).find_element("css selector", "input[type=text]").get_attribute("aria-invalid") == "true"
    page.find("#save").click()
    assert not page.find("#saved").is_displayed() and not list(downloads.iterdir())
    page.press(1, "Merge these")
    assert not page.said
    assert [entry["merge"] for entry in saved(page, downloads)["clusters"]] == [None, 0, None, None, None]


def test_a_name_that_means_no_value_is_said_at_once_and_not_saved(page, downloads):
    page.type(1, "NA")
    assert "no value" in page.said and not page.card(1).find_element("css selector", ".wrong").find_elements("css selector", "button")
    page.find("#save").click()
    assert not page.find("#saved").is_displayed() and not list(downloads.iterdir())
    page.type(1, "NA-1")
    assert not page.said and saved(page, downloads)["clusters"][1]["name"] == "NA-1"


def test_each_step_can_be_taken_back(page, downloads):
    page.type(2, "elm")
    page.press(3, "Drop")
    page.choose(1, 4)
    page.find("#merge").click()
    assert [entry["merge"] for entry in saved(page, downloads)["clusters"]] == [None, None, None, None, 1]
    for _ in range(3):
        page.find("#undo").click()
    assert not page.find("#undo").is_enabled()
    next(downloads.iterdir()).unlink()
    found = saved(page, downloads)["clusters"]
    assert [entry["name"] for entry in found] == list(NAMES)
    assert all((entry["merge"], entry["split"], entry["drop"]) == (None, False, False) for entry in found)


def test_what_was_said_is_there_again_when_the_page_is_opened_again(page, downloads):
    page.type(2, "elm")
    place = page.browser.current_url
    leave(page.browser)
    chromium.visit(page.browser, place, PATIENCE)
    assert "last time is back" in page.said
    assert [entry["name"] for entry in saved(page, downloads)["clusters"]] == [*NAMES[:2], "elm", *NAMES[3:]]
    page.find("#undo").click()
    assert page.card(2).find_element("css selector", "input[type=text]").get_attribute("value") == ""


def test_merging_with_what_is_merged_gives_one_category(page, downloads):
    page.choose(3, 4)
    page.find("#merge").click()
    page.choose(3, 1)
    page.find("#merge").click()
    assert [entry["merge"] for entry in saved(page, downloads)["clusters"]] == [None, None, None, 1, 1]
    page.press(4, "Take out")
    next(downloads.iterdir()).unlink()
    assert [entry["merge"] for entry in saved(page, downloads)["clusters"]] == [None, None, None, 1, None]


def test_a_saved_file_can_be_gone_on_with(page, downloads, tmp_path):
    page.type(2, "elm")
    page.press(3, "Split")
    page.type(3, "ash")
    first = saved(page, downloads)
    for _ in range(3):
        page.find("#undo").click()
    page.find("#load").send_keys(str(next(downloads.iterdir())))
    wait(lambda: page.find("#undo").is_enabled(), "taken file")
    (tmp_path / "other.json").write_text(json.dumps({**first, "digest": "another"}))
    page.find("#load").send_keys(str(tmp_path / "other.json"))
    wait(lambda: "belongs to another run" in page.said, "refusal of another run's file")
    for old in downloads.iterdir():
        old.unlink()
    assert saved(page, downloads) == first


def test_of_a_file_that_merges_in_chains_the_end_is_taken_and_a_ring_merges_nothing(page, downloads, tmp_path):
    first = saved(page, downloads)
    for entry, into in zip(first["clusters"], (None, 2, 1, 4, 0), strict=True):
        entry["merge"] = into
    (tmp_path / "chained.json").write_text(json.dumps(first))
    page.find("#load").send_keys(str(tmp_path / "chained.json"))
    wait(lambda: page.find("#undo").is_enabled(), "taken file")
    next(downloads.iterdir()).unlink()
    assert [entry["merge"] for entry in saved(page, downloads)["clusters"]] == [None, None, None, 0, 0]


def test_a_split_shows_both_halves_and_a_merge_what_joined(page):
    page.press(1, "Split")
    labels = [label.text.strip() for label in page.card(1).find_elements("css selector", ".half label")]
    assert labels == ["Half 1, 3 images", "Half 2, 3 images"]
    rows = page.card(1).find_elements("css selector", ".rows ul")
    shown = [[one.get_attribute("aria-label")[-6:-4] for one in row.find_elements("css selector", ".tile")] for row in rows]
    assert shown == [["08", "10", "12"], ["09", "11", "13"]]
    page.choose(2, 3)
    page.find("#merge").click()
    joined = page.card(2).find_element("css selector", ".merged")
    assert "together 9 images" in joined.text and "novel 3" in joined.text and len(joined.find_elements("css selector", ".tile")) == 3


def test_names_of_folders_stay_as_they_are_until_somebody_types(browser, downloads, tmp_path):
    names = ("two  blanks", "two blanks", "e\u0301", " novel")
    category_page.write(tmp_path / "report.html", answer_of((3, 3, 3, 3), names), grey, "run1", "Blanks")
    chromium.visit(browser, (tmp_path / "report.html").as_uri(), PATIENCE)
    page = Page(browser)
    for old in downloads.iterdir():
        old.unlink()
    assert not page.said and [entry["name"] for entry in saved(page, downloads)["clusters"]] == list(names)
    page.type(3, "\u00e9")  # the same letter, written in one character
    assert "is used twice" in page.said
    leave(browser)


def test_arrow_keys_go_through_a_row_of_thumbnails(page):
    keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
    stops = "return [...document.querySelectorAll('#category-1 ul')].map((row) => row.querySelectorAll('[tabindex=\"0\"]').length)"
    assert set(page.browser.execute_script(stops)) == {1}
    page.card(1).find_element("css selector", ".tile").send_keys(keys.ARROW_RIGHT)
    assert page.browser.execute_script("return document.activeElement.ariaLabel") == "heap/00009.jpg"
    assert "heap/00009.jpg" in page.find("#one").text and set(page.browser.execute_script(stops)) == {1}


def test_pointing_at_the_map_and_its_keys_show_the_image(page):
    browser = page.browser
    point = "const c = document.getElementById('map'), r = c.getBoundingClientRect();"
    browser.execute_script(
        point + "c.dispatchEvent(new PointerEvent('pointermove', {clientX: r.left + 15, clientY: r.bottom - 15, bubbles: true}))"
    )
    assert "heap/00000.jpg" in wait(lambda: "confidence" in page.find("#one").text and page.find("#one").text, "image pointed at")
    keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
    page.find("#map").send_keys(keys.ARROW_RIGHT)
    assert "heap/00001.jpg" in page.find("#one").text
    page.find("#map").send_keys(keys.ENTER)
    assert browser.execute_script("return document.activeElement.id") == "name-0"


def test_every_control_has_a_name_and_a_key_reaches_it(page):
    unnamed = page.browser.execute_script(
        "return [...document.querySelectorAll('button, input:not([hidden]), select, canvas, [role=img]')].filter((one) => "
        "!(one.ariaLabel || one.textContent.trim() || one.labels?.length)).map((one) => one.outerHTML.slice(0, 200))"
    )
    assert unnamed == []
    fenced = "return [...document.querySelectorAll('button, input, select, a')].filter((one) => one.tabIndex < 0).length"
    assert page.browser.execute_script(fenced) == 0


def test_of_five_thousand_images_those_in_sight_are_drawn(browser, tmp_path):
    """What makes a large page open at once (0.3 s on two cores)."""
    rng = np.random.default_rng(0)
    answer = answer_of((50,) * 100)
    path = tmp_path / "report.html"
    category_page.write(path, answer, lambda rows: rng.integers(0, 256, (len(rows), 64, 64, 3), np.uint8), "run1", "Many")
    chromium.visit(browser, path.as_uri(), PATIENCE)
    drawn = "return [...document.querySelectorAll('.card')].map((one) => one.querySelectorAll('.tile').length)"
    first = wait(lambda: any(browser.execute_script(drawn)) and browser.execute_script(drawn), "category in sight")
    assert len(first) == 100 and first[0] > 0 and first[50:] == [0] * 50, first
    browser.execute_script("document.querySelectorAll('.card')[99].scrollIntoView()")
    wait(lambda: browser.execute_script(drawn)[99] == first[0], "last category")


@pytest.fixture(scope="module")
def viewer(tmp_path_factory, store_template) -> Iterator[tuple[str, str]]:
    """Return (address of a run's artifacts in `mlflow ui`, address of the server); the run holds answer/report.html."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("viewer")
    shutil.copy(store_template, folder / "mlflow.db")
    store = f"sqlite:///{folder}/mlflow.db"
    client = MlflowClient(store)
    experiment = client.create_experiment("taxon", artifact_location=(folder / "artifacts").as_uri())
    run = client.create_run(experiment).info.run_id
    client.log_artifact(run, str(file_of(folder)), "answer")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = ["ui", "--backend-store-uri", store, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait(lambda: server.poll() is not None or answers(address), "answer of mlflow ui")
        assert server.poll() is None, (folder / "log").read_text()
        yield f"{address}/#/experiments/{experiment}/runs/{run}/artifacts/answer/report.html", address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(f"{address}/health", timeout=5).status == 200
    except OSError:
        return False


def test_mlflow_s_artifact_viewer_shows_the_page_and_gives_the_file_s_text(browser, downloads, viewer):
    for old in downloads.iterdir():
        old.unlink()
    artifacts, address = viewer
    chromium.visit(browser, address, PATIENCE)
    quiet = {"mlflow.assistant.panelOpen_v1": "false", "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true"}
    for key, value in quiet.items():
        browser.execute_script("localStorage.setItem(arguments[0], arguments[1])", key, value)
    chromium.visit(browser, artifacts, PATIENCE)
    (frame,) = wait(lambda: browser.find_elements("css selector", "iframe.mlflow-html-iframe, iframe#html"), "frame of the page")
    assert frame.get_attribute("sandbox") == "allow-scripts"
    if shots := os.environ.get("TAXON_SCREENSHOTS"):
        time.sleep(2)
        browser.save_screenshot(str(Path(shots) / "ui_report.png"))
    browser.switch_to.frame(frame)
    page = Page(browser)
    try:
        wait(lambda: len(browser.find_elements("css selector", ".card")) == 5, "categories")
        browser.execute_script("arguments[0].scrollIntoView()", page.card(2))
        wait(lambda: page.card(2).find_elements("css selector", ".tile"), "thumbnails")
        page.type(2, "elm")
        page.find("#save").click()
        found = json.loads(page.find("#json").get_attribute("value"))
        assert [entry["name"] for entry in found["clusters"]] == [*NAMES[:2], "elm", *NAMES[3:]]
        assert "copy the text" in page.find("#saved-how").text
        page.find("#copy").click()
        assert page.find("#copied").text == "Copied."
        assert not list(downloads.iterdir())
    finally:
        browser.switch_to.default_content()
