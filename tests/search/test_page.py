"""The page in a real browser: searching, boxes, trail, filters, keyboard, narrow and dark, nothing from outside."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: install Debian's chromium to run the browser tests")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, served: tuple[str, Path]) -> Iterator[Any]:
    """The page, opened; fails afterwards if it complained or asked for anything elsewhere."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    problems: list[str] = []
    refused = "Failed to load resource: the server responded with a status of 422"  # a test sends what is no photo

    def note(message: Any) -> None:
        if message.type == "error" and not message.text.startswith(refused):
            problems.append(message.text)

    opened.on("console", note)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((served[0], "blob:", "data:"))
            else problems.append(f"asked for {request.url}")
        ),
    )
    opened.goto(served[0])
    opened.wait_for_selector(".photo")
    yield opened
    opened.close()
    assert problems == []


def until(page: Any, condition: str) -> None:
    """Wait until a condition holds (Playwright's own way evaluates strings in the page, which its policy forbids)."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    pytest.fail(f"never true: {condition}")


def search_first(page: Any) -> None:
    page.locator(".photo button.open").first.click()
    page.wait_for_selector(".ranking .score")
    until(page, "document.getElementById('query').naturalWidth > 0")


def test_more_like_this_and_the_way_back(page: Any) -> None:
    assert page.locator(".photo").count() == 25
    search_first(page)
    assert page.locator(".ranking").count() == 2  # two encoders side by side
    ranks = page.locator(".ranking").first.locator(".under b").all_inner_texts()
    assert ranks == [str(n) for n in range(1, 25)]
    before = page.locator("#facts dd").first.inner_text()
    page.locator(".ranking").first.locator("button.open").nth(2).click()
    until(page, "document.querySelectorAll('#trail li').length == 2")
    assert page.locator("#facts dd").first.inner_text() != before
    page.locator("#trail button").first.click()
    until(page, f"document.querySelector('#facts dd').textContent == {before!r}")
    page.go_back()
    until(page, f"document.querySelector('#facts dd').textContent != {before!r}")


def test_marking_right_and_wrong_gives_the_precision(page: Any) -> None:
    search_first(page)
    own = page.locator(".ranking").first
    own.locator(".mark.yes").nth(0).click()
    own.locator(".mark.yes").nth(1).click()
    own.locator(".mark.no").nth(2).click()
    assert "2 of 3 marked are right: precision 67 %" in own.locator("h2").inner_text()
    assert page.locator(".ranking").nth(1).locator("h2 span").inner_text() == ""
    own.locator(".mark.no").nth(2).click()
    assert "2 of 2" in own.locator("h2").inner_text()


def test_a_photo_of_ones_own_and_a_box_on_it(page: Any, served: tuple[str, Path]) -> None:
    page.locator("#file").set_input_files(str(served[1] / "photos" / "green" / "5.jpg"))
    page.wait_for_selector(".ranking .score")
    assert "green" in page.locator(".ranking .name").first.inner_text()
    until(page, "document.getElementById('query').naturalWidth > 0")
    area = page.locator("#stage").bounding_box()
    page.mouse.move(area["x"] + 5, area["y"] + 5)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2, steps=4)
    page.mouse.up()
    until(page, "location.hash.includes('box=')")
    assert page.locator("#box").is_visible()
    page.get_by_role("button", name="Whole photo").click()
    until(page, "!location.hash.includes('box=')")
    assert not page.locator("#box").is_visible()


def test_dropping_a_photo(page: Any, served: tuple[str, Path]) -> None:
    import base64

    content = base64.b64encode((served[1] / "photos" / "blue" / "1.jpg").read_bytes()).decode()
    page.evaluate(
        """content => {
            const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], 'mine.jpg', {type: 'image/jpeg'}));
            window.dispatchEvent(new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true}));
        }""",
        content,
    )
    page.wait_for_selector(".ranking .score")
    assert "blue" in page.locator(".ranking .name").first.inner_text()


def test_filters(page: Any) -> None:
    page.select_option("#label", "red")
    until(page, "document.querySelectorAll('.photo').length == 9")
    search_first(page)
    names = "[...document.querySelectorAll('.ranking:first-child .name')]"
    page.select_option("#label", "green")
    until(page, f"{names}.every(name => name.textContent == 'green')")
    page.select_option("#label", "")
    page.select_option("#folder", "blue")
    until(page, f"{names}.every(name => name.textContent == 'blue')")


def test_near_duplicates(page: Any) -> None:
    page.get_by_role("button", name="Near duplicates").click()
    page.wait_for_selector(".group", timeout=60_000)
    titles = page.locator(".group").first.locator("button.open").evaluate_all("all => all.map(b => b.title)")
    assert titles == ["red/0.jpg", "red/again.jpg"]
    page.locator("#threshold").fill("0.5")
    page.get_by_role("button", name="Look again").click()
    until(page, "document.getElementById('duplicates-summary').textContent.includes('groups with')")


def test_the_map(page: Any) -> None:
    page.get_by_role("button", name="Map", exact=True).click()
    until(page, "Number(document.getElementById('map').dataset.shown) > 0")
    canvas = page.locator("#map")
    canvas.focus()
    for key in ("+", "ArrowLeft", "ArrowUp", "-"):
        page.keyboard.press(key)
    area = canvas.bounding_box()
    for x in range(10, int(area["width"]), 25):
        for y in range(10, int(area["height"]), 60):
            page.mouse.click(area["x"] + x, area["y"] + y)
            if "photo=" in page.url:
                page.wait_for_selector(".ranking .score")
                return
    pytest.fail("no photo on the map could be clicked")


def test_the_keyboard_is_enough(page: Any) -> None:
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "choose"
    page.locator(".photo button.open").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.className") == "open"
    page.keyboard.press("Enter")
    page.wait_for_selector(".ranking .score")
    page.locator(".ranking button.open").first.focus()
    page.keyboard.press("y")
    assert "1 of 1" in page.locator(".ranking h2").first.inner_text()
    page.locator("#stage").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    until(page, "location.hash.includes('box=')")
    page.keyboard.press("Escape")
    until(page, "!location.hash.includes('box=')")


def test_everything_has_a_name_for_screen_readers(page: Any) -> None:
    search_first(page)
    unnamed = page.evaluate(
        """[...document.querySelectorAll('button, select, input:not([hidden]), nav, canvas')]
            .filter(e => !(e.getAttribute('aria-label') || e.innerText?.trim() || e.labels?.length))
            .map(e => e.outerHTML)"""
    )
    assert unnamed == []
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator("[role=status]").inner_text() != ""


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (390, "light"), (1280, "dark")])
def test_narrow_and_dark(browser: Any, served: tuple[str, Path], width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.goto(served[0])
    page.wait_for_selector(".photo")
    search_first(page)
    for name in ("Search", "Near duplicates", "Map"):
        page.get_by_role("button", name=name, exact=True).click()
        page.wait_for_timeout(200)
        assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) == (scheme == "dark")
    page.close()


def test_what_the_server_refuses_is_said(page: Any) -> None:
    page.locator("#file").set_input_files({"name": "no.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"})
    page.wait_for_selector("#problem:not([hidden])")
    assert "cannot be read as an image" in page.locator("#problem").inner_text()


def test_the_keyboard_goes_on_in_the_new_ranking_and_a_filter_is_no_step(page: Any) -> None:
    page.locator(".photo button.open").nth(20).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".ranking .score")
    until(page, "document.activeElement === document.querySelector('#results button.open')")
    assert page.evaluate("window.scrollY") == 0
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('#trail li').length == 2")
    page.select_option("#label", "green")
    until(
        page, "[...document.querySelectorAll('.ranking:first-child .name')].every(name => name.textContent == 'green')"
    )
    assert page.locator("#trail li").count() == 2
