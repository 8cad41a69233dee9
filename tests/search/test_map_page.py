"""The map in a real browser: points, thumbnails, colors, the lasso, and a browser without WebGL."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browser import until, watched_page

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from map_page import drag, zoom


@pytest.fixture
def page(browser: Any, served: tuple[str, Path]) -> Iterator[Any]:
    """A page that has complained of nothing, nor asked for anything elsewhere."""
    with watched_page(browser, served[0], height=1000) as opened:
        yield opened


def drawn(page: Any) -> tuple[float, float]:
    """Wait for the map; its middle on the screen."""
    until(page, "document.getElementById('map').dataset.shown !== undefined")
    area = page.locator("#map").bounding_box()
    return area["x"] + area["width"] / 2, area["y"] + area["height"] / 2


def around(page: Any, x: float, y: float, reach: float) -> None:
    """Draw with the lasso around a place."""
    page.get_by_role("button", name="Lasso").click()
    page.mouse.move(x - reach, y - reach)
    page.mouse.down()
    for corner in ((reach, -reach), (reach, reach), (-reach, reach)):
        page.mouse.move(x + corner[0], y + corner[1], steps=4)
    page.mouse.up()


@pytest.mark.slow
def test_the_map_shows_colors_selects_and_searches(page: Any, served: tuple[str, Path]) -> None:
    page.goto(f"{served[0]}/#view=map")
    x, y = drawn(page)
    until(page, "Number(document.getElementById('map').dataset.shown) > 2")
    legend = page.locator(".legend")
    assert [legend.locator("li").nth(n).inner_text().split(" ")[0] for n in range(3)] == ["red", "blue", "green"]
    around(page, x, y, 370)
    until(page, "document.querySelector('#selection .count').textContent.startsWith('2')")
    assert "added to the selection" in page.locator("#status").inner_text()
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name="Select all in view").click()
    until(page, "document.querySelector('#selection .count').textContent === '25 selected'")
    page.locator(".map-tools select").select_option("date")
    until(page, "document.querySelectorAll('.legend li').length === 5")
    page.locator("#map").focus()
    for key in ("+", "ArrowLeft", "ArrowRight", "-"):
        page.keyboard.press(key)
    page.wait_for_timeout(300)
    place = page.locator(".pictures img").first.bounding_box()
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    until(page, "document.querySelector('.tip').textContent.includes('.jpg')")
    page.mouse.click(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    page.wait_for_selector(".ranking .score")


@pytest.mark.slow
def test_without_webgl_the_map_is_a_still_picture(page: Any, served: tuple[str, Path]) -> None:
    page.add_init_script(
        """const context = HTMLCanvasElement.prototype.getContext;
        HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
            return kind === "2d" ? context.call(this, kind, ...rest) : null;
        };"""
    )
    page.goto(f"{served[0]}/#view=map")
    until(page, "document.getElementById('status').textContent.includes('no WebGL')")
    painted = """() => {
        const map = document.getElementById("map");
        const pixels = map.getContext("2d").getImageData(0, 0, map.width, map.height).data;
        return pixels.some((value) => value > 0);
    }"""
    for _ in range(50):
        if page.evaluate(painted):
            break
        page.wait_for_timeout(100)
    assert page.evaluate(painted)
    assert not page.get_by_role("button", name="Lasso").is_visible()


@pytest.mark.slow
def test_a_hundred_thousand_photos_move_without_a_graphics_card(page: Any, served: tuple[str, Path]) -> None:
    """The server's own records, 4,000 times, scattered. WebGL in software takes seconds for each move of so many."""
    from s2r2.search.server.mapping import RECORD

    def many(route: Any) -> None:
        answer = route.fetch()
        records = np.tile(np.frombuffer(answer.body(), RECORD), 4000 if answer.status == 200 else 1)
        records["place"] = np.random.default_rng(0).uniform(0, 1, (len(records), 2))
        route.fulfill(response=answer, body=records.tobytes())

    page.route("**/api/map", many)
    page.goto(f"{served[0]}/#view=map")
    drawn(page)
    assert page.locator("#status").inner_text() == "100,000 photos on the map."
    picture = "document.querySelector('.painted').toDataURL()"
    until(page, f"{picture}.length > 50000")
    before = page.evaluate(picture)
    moved = drag(page, 20)
    assert page.evaluate(picture) != before
    assert moved["slowest"] < 5000, moved
    assert zoom(page, 5)["slowest"] < 5000
    around(page, *drawn(page), 100)
    until(page, "document.querySelector('#selection .count')?.textContent.endsWith('selected')")
