"""A headless Chromium for tests that open pages as a person does; they are skipped, and say so, where there is none."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars", "--window-size=1500,1100")

LOST = 15.0  # seconds after which a navigation that shows nothing is looked at


def started(downloads: Path | None = None) -> Any:
    """Return a headless Chromium, to be ended by `quit()`; pages are opened by `visit`.

    Args:
        downloads: the folder where what a page saves goes, without asking.
    """
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no Chromium here: install the Debian packages chromium and chromium-driver to run this test")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if downloads is not None:
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads), "download.prompt_for_download": False})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_page_load_timeout(LOST)
    return browser


def visit(browser: Any, address: str, patience: float) -> None:
    """Open a page from an empty one, as a new tab does.

    On a busy machine Chromium 150 loses one navigation in fifteen, with every page load strategy: it stays on the page it shows, ready,
    and asks for nothing. Such a navigation is asked for again; a page that was reached and does not become ready is an error.

    Args:
        browser: what `started` returned.
        address: of the page; not of the empty one.
        patience: seconds until the page must be ready.
    """
    timeout = pytest.importorskip("selenium.common.exceptions").TimeoutException
    end = time.monotonic() + patience
    for place in ("about:blank", address):
        while not _reached(browser, place, timeout):
            assert time.monotonic() < end, f"{place} does not open"
    while browser.execute_script("return document.readyState") != "complete":
        assert time.monotonic() < end, f"{address} does not become ready"
        time.sleep(0.1)


def _reached(browser: Any, address: str, timeout: type[Exception]) -> bool:
    """Return whether a navigation began; a page that is not ready in `LOST` seconds may still become so."""
    try:
        browser.get(address)
        return True
    except timeout:
        return (browser.current_url == "about:blank") == (address == "about:blank")
