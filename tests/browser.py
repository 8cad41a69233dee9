"""A real browser for tests: Debian's Chromium, driven by Playwright, and what a page in it may not do."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def watch(page: Any, address: str, refused: tuple[int, ...] = ()) -> list[str]:
    """Have all of a page's complaints collected, and what it asks of other servers than the one at an address.

    Args:
        page: A page that is not opened yet.
        address: What the addresses of its own server begin with.
        refused: Answers with these statuses are no complaints.
    """
    problems: list[str] = []
    expected = tuple(f"Failed to load resource: the server responded with a status of {status}" for status in refused)
    own = (address, "blob:", "data:")

    def note(message: Any) -> None:
        if message.type == "error" and not message.text.startswith(expected):
            problems.append(message.text)

    def asked(request: Any) -> None:
        if not request.url.startswith(own):
            problems.append(f"asked for {request.url}")

    page.on("console", note)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", asked)
    return problems


@contextlib.contextmanager
def watched_page(browser: Any, address: str, *, height: int = 900, refused: tuple[int, ...] = ()) -> Iterator[Any]:
    """A new page that, when it is closed, must have complained of nothing and asked no other server (:func:`watch`)."""
    page = browser.new_page(viewport={"width": 1280, "height": height})
    problems = watch(page, address, refused)
    yield page
    page.close()
    assert problems == []


def until(page: Any, condition: str) -> None:
    """Wait until a condition holds (Playwright's own way evaluates strings in the page, which its policy forbids)."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    pytest.fail(f"never true: {condition}")


def barriers(page: Any) -> list[str]:
    """What axe-core finds that keeps people out: each broken rule, how grave it is, where, and how to mend it."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{rule['id']} ({rule['impact']}): {place['target']} {place['failureSummary']}"
        for rule in found
        for place in rule["nodes"]
    ]
