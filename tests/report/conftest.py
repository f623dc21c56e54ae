"""A browser, and the page of a run in it; what needs them is skipped where there is none."""

import shutil
import time
from contextlib import contextmanager, suppress

import pytest

from symrun.report import html_page

CHROMIUM = shutil.which("chromium")


def _wait(page, expression):
    """Wait until it is true in the page, whose policy forbids Playwright's own way of waiting."""
    from playwright.sync_api import Error

    end, held = time.monotonic() + 30, False
    while not held:
        assert time.monotonic() < end, expression
        time.sleep(0.05)
        with suppress(Error):  # the page is loading itself anew
            held = page.evaluate(expression)


@pytest.fixture
def without_pictures(monkeypatch):
    """They take most of the time that a page takes."""
    monkeypatch.setattr(html_page, "draw", lambda *_: [])


@pytest.fixture
def wait():
    return _wait


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on the path: the extra `browser` is of no use without one")
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def opened(browser):
    """A function that opens an address, and at its end requires that the console stayed silent."""

    @contextmanager
    def open_page(address, width=1280, **settings):
        context = browser.new_context(viewport={"width": width, "height": 850}, **settings)
        page, said = context.new_page(), []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.goto(address)
        try:
            yield page
        finally:
            context.close()
        assert said == []

    return open_page
