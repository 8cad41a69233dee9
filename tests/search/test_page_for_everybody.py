"""The page for those who use no mouse, a screen reader, a phone or dark colors, in every state that it can be in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import barriers, until, watch, watched_page


@pytest.fixture
def page(browser: Any, served: tuple[str, Path]) -> Iterator[Any]:
    """The page, opened; fails afterwards if it complained or asked for anything elsewhere."""
    with watched_page(browser, served[0]) as opened:
        opened.goto(served[0])
        opened.wait_for_selector(".photo")
        yield opened


def focused(page: Any) -> str:
    return str(page.evaluate("document.activeElement.id || document.activeElement.className"))


def settle(page: Any) -> None:
    """Wait until the ranking of the query is there."""
    page.wait_for_selector(".ranking .score")
    until(page, "!document.getElementById('results').inert && document.getElementById('query').naturalWidth > 0")


def states(page: Any) -> Iterator[str]:
    """Bring the page into each of its states, and name them."""
    yield "all photos"
    page.locator("#results button.open").nth(20).focus()
    for key in ("x", "ArrowLeft", "x"):
        page.keyboard.press(key)
    yield "a selection"
    page.keyboard.press("Enter")
    settle(page)
    yield "two rankings"
    if not page.locator(".photo.right").count():  # they are kept for who comes next
        for key in ("y", "ArrowRight", "n"):
            page.keyboard.press(key)
    until(page, "document.querySelectorAll('.photo.right, .photo.wrong').length == 4")
    yield "marks"
    page.locator("#stage").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    until(page, "location.hash.includes('box=')")
    settle(page)
    yield "a part of a photo"
    page.keyboard.press("Escape")
    until(page, "!location.hash.includes('box=')")
    settle(page)
    for key in ("+", "-"):
        page.locator(".ranking button.open").nth(3).focus()
        page.keyboard.press(key)
        until(
            page, f"document.querySelectorAll('#tray .{'more' if key == '+' else 'less'} li').length > {key == '+':d}"
        )
        settle(page)
    yield "several photos"
    page.select_option("#filters [name=folder]", "green")
    page.select_option("#filters [name=label]", "red")
    until(page, "document.getElementById('results').textContent.includes('No other photos match')")
    yield "nothing found"
    page.get_by_role("button", name="Near duplicates").click()
    page.wait_for_selector(".group", timeout=150_000)
    yield "duplicates"
    page.get_by_role("button", name="Map", exact=True).click()
    until(page, "document.getElementById('status').textContent.includes('on the map')")
    yield "the map"
    page.get_by_role("button", name="Search", exact=True).click()
    page.locator("#file").set_input_files({"name": "no.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"})
    page.wait_for_selector("#problem:not([hidden])")
    yield "a failed upload"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_no_state_keeps_people_out_or_is_wider_than_the_screen(
    browser: Any, served: tuple[str, Path], width: int, scheme: str
) -> None:
    """By axe-core's rules, of whatever gravity."""
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    problems = watch(page, served[0], refused=(422,))
    page.goto(served[0])
    page.wait_for_selector(".photo")
    for number, state in enumerate(states(page)):
        page.screenshot(path=str(served[1] / f"{width}-{number}.png"))
        assert barriers(page) == [], state
        assert not page.evaluate("document.documentElement.scrollWidth > innerWidth"), state
    page.close()
    assert problems == []


def test_a_grid_is_one_stop_of_the_tab_key(page: Any) -> None:
    """From the photo at which one is to its own buttons, and out of the grid; not through those of all others."""
    page.locator("#results button.open").nth(7).focus()
    assert page.locator("#results .grid button:not([tabindex='-1'])").count() == 2
    page.keyboard.press("Tab")
    assert focused(page) == "select"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#selection') !== null")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement === document.querySelectorAll('#results button.open')[7]")


def test_the_focus_is_seen_and_never_lost(page: Any) -> None:
    """It has an outline that no bar covers; and where what had it goes away, it goes on in the results."""
    page.locator("#results button.open").first.focus()
    for _ in range(4):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("x")
    page.keyboard.press("Enter")
    settle(page)
    until(page, "document.activeElement.className === 'open'")
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    place = "document.activeElement.parentElement.getBoundingClientRect()"
    assert page.evaluate(f"{place}.bottom <= document.getElementById('selection').getBoundingClientRect().top")
    assert page.evaluate("getComputedStyle(document.activeElement.parentElement).outlineWidth") == "3px"
    assert "x: select" in page.locator("#keys").inner_text()
    page.get_by_role("button", name="Clear").focus()
    page.keyboard.press("Enter")
    assert focused(page) == "open"
    page.locator("#again").focus()
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.ranking h2').textContent === 'All photos'")
    until(page, "document.activeElement.className === 'open'")
