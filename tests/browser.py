"""A real browser for the tests: Chromium or Chrome as installed, driven by playwright. Without one, a test skips."""

import os
import shutil
from contextlib import contextmanager

import pytest

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"]

# Nothing that asks, updates itself or reaches for the network; without a sandbox it starts in a container too.
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium():
    """A browser (playwright's `Browser`, headless) that closes at the end; skips the test where there is none.

    The browser is $COURSE_BROWSER, a path or a name, or else the first of `NAMES` on PATH.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("needs playwright: pip install playwright (no browser of its own is needed)")
    wanted = [os.environ["COURSE_BROWSER"]] if os.environ.get("COURSE_BROWSER") else NAMES
    path = next(filter(None, map(shutil.which, wanted)), None)
    if path is None:
        pytest.skip(f"needs a browser, found none of {', '.join(wanted)}: install chromium or set COURSE_BROWSER")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        try:
            yield browser
        finally:
            browser.close()
