"""A Chromium that is already on the machine, driven by Playwright, cut off from the network."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
ELSEWHERE = re.compile(r"^https?://(?!127\.0\.0\.1[:/])")
# No sandbox, because tests in containers run as root; no services that call home.
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-sync", "--disable-background-networking", "--disable-component-update"),
)


def executable() -> str | None:
    """SOS_CHROMIUM, or the first Chromium or Chrome found; None where there is none."""
    places = (os.environ.get("SOS_CHROMIUM"), *map(shutil.which, NAMES), str(MAC))
    return next((place for place in places if place and Path(place).exists()), None)


@contextmanager
def launched() -> Iterator:
    """A running browser; Playwright allows one at a time in a thread."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=list(FLAGS))
        yield browser
        browser.close()


@contextmanager
def page(browser, width: int = 1280, height: int = 1000, touch: bool = False) -> Iterator:
    """A page whose requests to other machines are refused and listed in `page.refused`.

    Errors that scripts on it raise are listed in `page.errors`.
    """
    shown = browser.new_page(viewport={"width": width, "height": height}, has_touch=touch)
    shown.refused, shown.errors = [], []

    def refuse(route):
        shown.refused.append(route.request.url)
        route.abort()

    shown.route(ELSEWHERE, refuse)
    shown.on("pageerror", lambda error: shown.errors.append(str(error)))
    yield shown
    shown.close()
