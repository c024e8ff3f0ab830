"""The pages of `mlflow ui` as a person opens them, in a headless Chromium: experiment, run, heat map, comparison, champion.

TAXON_SCREENSHOTS=docs python -m pytest tests/entrypoints/test_ui.py      # also writes the README's pictures
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from core.tracking.experiment import UI_LAYOUT
from tests import chromium
from tests.entrypoints.place import GUARD, TINY, Place, kill_group

pytestmark = pytest.mark.slow

NAME = "taxon-discovery-digits"
QUICK = TINY | {"stage1_epochs": "1", "update_interval": "1", "total_epochs": "2"}
LRS = ("0.001", "0.003")
# MLflow's assistant would take a third of every page.
QUIET = {"mlflow.assistant.panelOpen_v1": "false", "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true"}


@dataclass
class Pages:
    """A browser on one MLflow server, and the store behind it."""

    driver: Any
    address: str
    place: Place
    shots: Path

    def open(self, path: str, *texts: str, picture: str) -> str:
        """Open a page, wait until it shows all texts, take a screenshot; return the page's text."""
        chromium.visit(self.driver, f"{self.address}/#{path}", GUARD / 3)
        shown = self.wait(lambda page: all(text in page for text in texts), texts)
        time.sleep(1)
        self.driver.save_screenshot(str(self.shots / f"{picture}.png"))
        return shown

    def wait(self, holds: Callable[[str], bool], wanted: Any) -> str:
        """Wait until what the page shows is as wanted; return it."""
        end = time.monotonic() + GUARD / 3
        while True:
            page = self.driver.execute_script("return document.body.innerText").replace("\xa0", " ")
            if holds(page):
                return page
            assert time.monotonic() < end, f"{self.driver.current_url} does not show {wanted}:\n{page}"
            time.sleep(0.5)

    @property
    def experiment(self) -> str:
        return self.place.client.get_experiment_by_name("taxon").experiment_id

    def parent(self, lr: str) -> Any:
        """Return the pipeline run with this learning rate."""
        runs = [run for run in self.place.parents() if run.data.params.get("lr") == lr]
        return runs[0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a headless Chromium."""
    running = chromium.started()
    yield running
    running.quit()


@pytest.fixture(scope="module")
def filled(browser, make_place) -> Place:
    """Return a place where two short pipelines ran and one of their models was promoted."""
    place = make_place("ui")
    experiment = place.client.get_experiment_by_name("taxon").experiment_id
    for key, value in UI_LAYOUT.items():
        place.client.set_experiment_tag(experiment, key, value)
    commands = [place.command("pseudo_pipeline", **QUICK, lr=lr) for lr in LRS] + [place.command("promote", name=NAME, candidate="1")]
    for command in commands:
        done = place.run(command)
        assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def pages(browser, filled, tmp_path_factory) -> Iterator[Pages]:
    """Return the pages of `mlflow ui` on that place."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = ["ui", "--backend-store-uri", filled.env["MLFLOW_TRACKING_URI"], "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    server = filled.start([sys.executable, "-m", "mlflow", *words], "ui_log")
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + GUARD
        while not answers(address):
            assert server.poll() is None and time.monotonic() < end, (filled.folder / "ui_log").read_text()
            time.sleep(0.5)
        shots = Path(os.environ.get("TAXON_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
        chromium.visit(browser, address, GUARD / 3)
        for key, value in QUIET.items():
            browser.execute_script("localStorage.setItem(arguments[0], arguments[1])", key, value)
        yield Pages(browser, address, filled, shots)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            kill_group(server)


def answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(f"{address}/health", timeout=5).status == 200
    except OSError:
        return False


def test_the_experiment_lists_runs_whose_names_differ(pages):
    names = [pages.parent(lr).info.run_name for lr in LRS]
    assert len(set(names)) == 2 and all(name.startswith("digits ") and len(name) <= 40 for name in names)
    shown = pages.open(f"/experiments/{pages.experiment}/runs", "Run Name", *names, picture="ui_experiment")
    assert "promote" in shown


def test_the_parent_run_says_what_was_run_how_it_went_and_what_was_registered(pages):
    run = pages.parent(LRS[0])
    texts = (run.info.run_name, "selected model", "train 0-1", "cluster 1", "train 1-2", NAME, "Pictures:", "Repeat:")
    shown = pages.open(f"/experiments/{pages.experiment}/runs/{run.info.run_id}", *texts, picture="ui_run")
    figures = run.data.metrics
    assert f"{figures['best/unlabelled/v2_all']:.3f}/" in shown


def test_a_training_stage_has_a_note_and_its_parameters(pages):
    run = pages.place.children(pages.parent(LRS[1]).info.run_id)["train 1-2"]
    assert run.data.params["lr"] == LRS[1]
    path = f"/experiments/{pages.experiment}/runs/{run.info.run_id}"
    shown = pages.open(path, "train 1-2", "best epoch (2)", "plots/curves.png", picture="ui_stage")
    assert f"{run.data.metrics['unlabelled/v2_all']:.3f} / " in shown


def test_the_heat_map_is_visible_among_the_artifacts(pages):
    run_id = pages.parent(LRS[0]).info.run_id
    path = f"/experiments/{pages.experiment}/runs/{run_id}/artifacts/heatmaps/epoch_0001/all.png"
    pages.open(path, "heatmaps", "all.png", "plots", picture="ui_heatmap")
    widths = "return [...document.images].filter(i => i.offsetWidth > 200 && i.naturalWidth > 300).length"
    pages.wait(lambda _page: pages.driver.execute_script(widths) >= 1, "the heat map")
    pages.driver.save_screenshot(str(pages.shots / "ui_heatmap.png"))


def test_comparing_two_runs_shows_the_parameter_that_differs_and_the_metrics(pages):
    runs = [pages.parent(lr) for lr in LRS]
    ids, experiments = (quote(json.dumps(values)) for values in ([run.info.run_id for run in runs], [pages.experiment]))
    texts = ("Comparing 2 Runs", "lr", "best/epoch", "best/test/v2_all", runs[0].info.run_name, runs[1].info.run_name)
    pages.open(f"/compare-runs?runs={ids}&experiments={experiments}", *texts, picture="ui_compare")
    (row,) = [line for line in pages.wait(lambda page: "lr\t" in page, "a row of lr").splitlines() if line.startswith("lr\t")]
    assert sorted(row.split("\t")[1:]) == sorted(LRS)
    plots = "return document.querySelectorAll('.js-plotly-plot .main-svg').length"
    pages.wait(lambda _page: pages.driver.execute_script(plots), "a plot")
    pages.driver.save_screenshot(str(pages.shots / "ui_compare.png"))
    # The plot takes the parameters that differ by itself: only lr does.
    assert "lr" in pages.driver.execute_script("return document.body.innerText").split("Run details")[0]


def test_the_registered_model_shows_its_champion_and_why(pages):
    shown = pages.open(f"/models/{NAME}", "Version 1", "Version 2", "@ champion", "@ challenger", picture="ui_model")
    assert "held-out accuracy" in shown
    shown = pages.open(f"/models/{NAME}/versions/1", "@ champion", "taxon.promotion", picture="ui_version")
    assert "mlflow models serve -m" in shown and "selected by last" in shown


def test_every_page_left_a_picture(pages):
    from PIL import Image

    for name in ("experiment", "run", "stage", "heatmap", "compare", "model", "version"):
        with Image.open(pages.shots / f"ui_{name}.png") as picture:
            assert picture.width >= 1000 and len(set(picture.convert("L").resize((64, 64)).tobytes())) > 5
