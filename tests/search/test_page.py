"""The page in a real browser: searching, boxes, trail, filters, keyboard, narrow and dark, nothing from outside."""

import asyncio
import contextlib
import io
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from browser import until, watched_page


@pytest.fixture
def page(browser: Any, served: tuple[str, Path]) -> Iterator[Any]:
    """The page, opened; fails afterwards if it complained or asked for anything elsewhere."""
    with watched_page(browser, served[0], refused=(422, 429)) as opened:  # what is no photo, and one too many marks
        opened.goto(served[0])
        opened.wait_for_selector(".photo")
        yield opened


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


@pytest.mark.slow
def test_more_like_these_and_less_like_those(page: Any, served: tuple[str, Path]) -> None:
    """Photos are added from results, by keys and as files; all of them are in the tray and the address."""
    page.locator(".photo button.open").nth(20).click()
    page.wait_for_selector(".ranking .score")
    liked = page.locator(".ranking").first.locator("button.open").nth(2).get_attribute("title")
    page.locator(".ranking").first.locator(".photo").nth(2).hover()
    page.locator(".ranking").first.locator(".seed.plus").nth(2).click()
    until(page, "document.querySelectorAll('#tray .more li').length == 2")
    until(page, "document.activeElement === document.querySelector('#results button.open')")
    page.keyboard.press("-")
    until(page, "document.querySelectorAll('#tray .less li').length == 1")
    page.set_input_files("#file", [])
    with page.expect_file_chooser() as chooser:
        page.locator("#add-more").click()
    chooser.value.set_files([str(served[1] / "photos" / "green" / f"{number}.jpg") for number in (5, 6)])
    until(page, "document.querySelectorAll('#tray .more li').length == 4")
    until(page, "!document.getElementById('results').inert")
    assert liked not in page.locator(".ranking button.open").evaluate_all("all => all.map(b => b.title)")
    page.locator(".mark.yes").first.click()
    assert "not kept: the query has several photos" in page.locator(".ranking h2").first.inner_text()
    for left in (3, 2):
        page.locator("#tray .more li button").first.click()  # also the first photo: the next takes its place
        until(page, f"document.querySelectorAll('#tray .more li').length == {left}")
    page.go_back()
    until(page, "document.querySelectorAll('#tray .more li').length == 3")
    page.reload()  # uploads are gone; the photo of the index is the query now
    page.wait_for_selector(".ranking .score")
    assert [page.locator(f"#tray .{kind} li").count() for kind in ("more", "less")] == [1, 1]
    one = page.evaluate("/photo=([0-9a-f]+)/.exec(location.hash)?.[1] || /more=([0-9a-f]+)/.exec(location.hash)[1]")
    page.evaluate(f"location.hash = 'photo={one}&more={','.join([one] * 31)}'")
    until(page, "document.querySelectorAll('#tray .more li').length == 32 && !document.getElementById('results').inert")
    page.locator(".ranking button.open").first.focus()
    page.keyboard.press("-")
    page.wait_for_selector("#problem:not([hidden])")
    assert "at most 32 photos: remove one first" in page.locator("#problem").inner_text()
    page.locator("#tray .more li button").nth(5).click()
    until(page, "document.querySelectorAll('#tray .more li').length == 31 && !document.getElementById('results').inert")
    page.locator(".ranking button.open").first.focus()
    page.keyboard.press("-")
    until(page, "document.querySelectorAll('#tray .less li').length == 1")


def test_photos_are_selected_and_taken_away(page: Any, served: tuple[str, Path]) -> None:
    """By Ctrl and Shift, by keys and all; as paths, as CSV, as a zip, and as the next query."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    cards, bar = page.locator("#results .photo"), page.locator("#selection")
    cards.nth(3).locator("button.open").click(modifiers=["Control"])
    cards.nth(6).locator("button.open").click(modifiers=["Shift"])
    assert (bar.locator(".count").inner_text(), page.locator(".photo.selected").count()) == ("4 selected", 4)
    page.locator("button.open").nth(4).focus()
    page.keyboard.press("x")
    page.keyboard.press("ArrowRight")
    assert bar.locator(".count").inner_text() == "3 selected"
    bar.get_by_role("button", name="Copy paths").click()
    until(page, "document.getElementById('status').textContent == 'Copied 3 paths.'")
    chosen = [cards.nth(number).locator("button.open").get_attribute("title") for number in (3, 5, 6)]
    paths = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert paths == [str(served[1] / "photos" / key) for key in chosen]
    page.evaluate("document.execCommand = () => false")
    page.evaluate("Object.defineProperty(window, 'isSecureContext', {value: false})")  # as with HTTP from elsewhere
    bar.get_by_role("button", name="Copy paths").click()
    page.wait_for_selector("#problem:not([hidden])")
    assert "does not let this page copy: use CSV" in page.locator("#problem").inner_text()
    for name, start in (("CSV", b"label,key,id,path,taken,"), ("Zip of the files", b"PK")):
        with page.expect_download() as download:
            bar.get_by_role("button", name=name).click()
        assert Path(download.value.path()).read_bytes().startswith(start)
    page.locator("button.open").nth(4).focus()
    page.keyboard.press("Control+a")
    assert bar.locator(".count").inner_text() == "25 selected"
    page.keyboard.press("Escape")
    assert not bar.is_visible()
    cards.nth(0).hover()
    cards.nth(0).locator(".select").click()
    cards.nth(1).locator("button.open").click(modifiers=["Control"])
    page.route("**/api/selections", lambda route: route.fulfill(status=422, json={"error": "photos: too many"}))
    bar.get_by_role("button", name="CSV").click()
    page.wait_for_selector("#problem:not([hidden])")
    page.unroute("**/api/selections")
    bar.get_by_role("button", name="More like these").click()
    until(page, "document.querySelectorAll('#tray .more li').length == 2")
    assert not bar.is_visible()


def test_marks_survive_a_reload_and_compare_the_rankings(page: Any) -> None:
    """A mark holds for the query in both rankings, is there again after a reload, and can be taken back for good."""
    page.locator(".photo button.open").nth(20).click()
    page.wait_for_selector(".ranking .score")
    own, other = page.locator(".ranking").first, page.locator(".ranking").nth(1)
    own.locator(".mark.yes").nth(0).click()
    own.locator(".mark.yes").nth(1).click()
    with page.expect_response(lambda answer: "/api/marks/" in answer.url and answer.request.method == "POST"):
        own.locator(".mark.no").nth(2).click()
    said = "2 of 3 marked are right: precision 67 %, average precision 1.00"
    assert said in own.locator("h2").inner_text()
    assert "2 of 3 marked are right" in other.locator("h2").inner_text()
    assert other.locator(".photo.right").count() == 2
    page.wait_for_timeout(300)
    page.reload()
    page.wait_for_selector(".photo.right")
    assert said in own.locator("h2").inner_text()
    assert [page.locator(f".photo.{mark}").count() for mark in ("right", "wrong")] == [4, 2]
    with page.expect_response(lambda answer: "/api/marks/" in answer.url and answer.request.method == "POST"):
        own.locator(".photo.wrong .mark.no").click()
    assert "2 of 2" in own.locator("h2").inner_text()
    page.reload()
    page.wait_for_selector(".photo.right")
    assert page.locator(".photo.wrong").count() == 0


def test_a_mark_that_is_not_kept_is_said_and_taken_back(page: Any) -> None:
    page.locator(".photo button.open").nth(5).click()
    page.wait_for_selector(".ranking .score")
    answer = {"status": 429, "json": {"error": "marks come faster than they are kept: wait a second"}}
    page.route("**/api/marks/**", lambda route: route.fulfill(**answer))
    page.locator(".ranking").first.locator(".mark.yes").first.click()
    page.wait_for_selector("#problem:not([hidden])")
    assert "wait a second" in page.locator("#problem").inner_text()
    until(page, "document.querySelectorAll('.photo.right').length == 0")


def test_marks_of_an_uploaded_photo_last_as_long_as_the_page(page: Any, served: tuple[str, Path]) -> None:
    page.locator("#file").set_input_files(str(served[1] / "photos" / "green" / "5.jpg"))
    page.wait_for_selector(".ranking .score")
    page.locator(".mark.yes").first.click()
    assert "not kept: the query is not in the index" in page.locator(".ranking h2").first.inner_text()


def test_a_photo_of_ones_own_and_a_box_on_it(page: Any, served: tuple[str, Path]) -> None:
    page.locator("#file").set_input_files(str(served[1] / "photos" / "green" / "5.jpg"))
    page.wait_for_selector(".ranking .score")
    assert "green" in page.locator(".ranking .label").first.inner_text()
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
    assert "blue" in page.locator(".ranking .label").first.inner_text()


def test_filters(page: Any) -> None:
    page.select_option("#filters [name=label]", "red")
    until(page, "document.querySelectorAll('.photo').length == 9")
    search_first(page)
    names = "[...document.querySelectorAll('.ranking:first-child .label')]"
    page.select_option("#filters [name=label]", "green")
    until(page, f"{names}.every(name => name.textContent == 'green')")
    page.select_option("#filters [name=label]", "")
    page.select_option("#filters [name=folder]", "blue")
    until(page, f"{names}.every(name => name.textContent == 'blue')")


@pytest.mark.slow
def test_near_duplicates(page: Any) -> None:
    page.get_by_role("button", name="Near duplicates").click()
    page.wait_for_selector(".group", timeout=150_000)
    titles = page.locator(".group").first.locator("button.open").evaluate_all("all => all.map(b => b.title)")
    assert titles == ["red/0.jpg", "red/again.jpg"]
    assert page.locator(".group").first.locator(".soft").all_inner_texts() == ["original", "same file"]
    with page.expect_download() as download:
        page.get_by_role("button", name="Download a script").click()
    assert "remove " in Path(download.value.path()).read_text()
    assert not page.locator("#unfiltered").is_visible()
    asked: list[str] = []

    def of_two(route: Any) -> None:
        asked.append(route.request.url)
        answer = route.fetch(url=route.request.url.split("?")[0])
        route.fulfill(response=answer, json=answer.json() | {"total": 2} if answer.status == 200 else answer.json())

    page.route("**/api/duplicates?*", of_two)
    page.evaluate("location.hash = 'view=duplicates&label=green'")
    until(page, "document.querySelector('#view-duplicates > .more')?.textContent.includes('(1 of 2 groups are not')")
    assert "do not hold here" in page.locator("#unfiltered").inner_text()
    page.locator("#view-duplicates > .more").click()
    until(page, "document.querySelectorAll('.group').length == 2")
    assert "offset=1" in asked[-1]
    assert not page.locator("#view-duplicates > .more").is_visible()


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


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark")])  # all else: test_page_for_everybody
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


def test_a_refused_upload_leaves_no_ranking_of_another_query(page: Any, served: tuple[str, Path]) -> None:
    search_first(page)
    page.locator("#file").set_input_files({"name": "no.jpg", "mimeType": "image/jpeg", "buffer": b"no picture" * 10})
    page.wait_for_selector("#problem:not([hidden])")
    assert page.locator(".photo").count() == 0
    assert page.locator(".ranking h2").inner_text() == "No ranking for no.jpg"
    assert page.locator("#trail li").count() < 2  # it is no step to come back to
    for name in ("stage", "add-more", "add-less", "hint"):
        page.locator(f"#{name}").wait_for(state="hidden")
    assert page.locator("#invitation").is_visible()
    page.screenshot(path=str(served[1] / "refused.png"))
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector("#problem:not([hidden])")
    page.go_back()  # the ranking before it
    page.wait_for_selector(".ranking .score")
    assert not page.locator("#problem").is_visible()
    assert page.locator("#stage").is_visible()
    assert page.locator("#add-more").is_visible()
    assert not page.evaluate("document.getElementById('results').inert")


@pytest.mark.slow
def test_a_photo_that_is_too_large_is_refused_by_the_page(page: Any) -> None:
    """Before it is sent; a smaller one, as the page says, is taken."""

    def with_limit(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "upload_bytes": 1 << 20})

    page.route("**/api/about", with_limit)
    page.reload()
    page.wait_for_selector(".photo")
    photo = {"name": "large.bmp", "mimeType": "image/bmp", "buffer": bytes((1 << 20) + 1)}
    page.locator("#file").set_input_files(photo)
    page.wait_for_selector("#problem:not([hidden])")
    assert page.locator("#problem").inner_text() == "large.bmp is larger than 1 MB: choose a smaller one."
    content = io.BytesIO()
    Image.new("RGB", (40, 30), "green").save(content, "PNG")
    page.locator("#file").set_input_files({"name": "small.png", "mimeType": "image/png", "buffer": content.getvalue()})
    page.wait_for_selector(".ranking .score")
    assert not page.locator("#problem").is_visible()


def test_a_server_that_comes_back_answers_again(page: Any) -> None:
    """The page says that nothing answers; once it does again, the same button leads to a ranking."""
    page.route("**/api/similar/*", lambda route: route.fulfill(status=200, content_type="text/html", body="a proxy"))
    page.locator(".photo button.open").first.click()
    page.wait_for_selector("#problem:not([hidden])")
    assert "s2r2 serve" in page.locator("#problem").inner_text()
    page.unroute("**/api/similar/*")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".ranking .score")
    assert "cannot be read now" not in page.locator("#facts").inner_text()

    gone = {"content-type": "image/jpeg", "s2r2-picture": "thumbnail"}
    page.route("**/photo/*", lambda route: route.fulfill(body=route.fetch().body(), headers=gone))
    page.locator(".ranking button.open").first.click()
    page.wait_for_selector("#facts dd:has-text('cannot be read now, or has changed: this is the thumbnail')")


def test_while_an_answer_is_on_its_way_the_old_ranking_cannot_be_marked(page: Any, served: tuple[str, Path]) -> None:
    search_first(page)
    page.route("**/api/similar?*", lambda route: None)  # no answer comes
    page.locator("#file").set_input_files(str(served[1] / "photos" / "green" / "5.jpg"))
    until(page, "document.getElementById('results').inert")
    page.get_by_role("button", name="All photos").click()
    until(page, "document.querySelectorAll('.photo').length == 25")
    assert not page.evaluate("document.getElementById('results').inert")


def test_names_are_text_and_show_what_is_hidden_in_them(page: Any) -> None:
    name = "<img src=x onerror=alert(1)>\u202egpj.\u0007 \ud800 \u0645\u200c\u0646"
    shown = page.evaluate(
        """async name => {
            const { card } = await import('./page/photo.js');
            const made = card({id: '0'.repeat(16), key: name, labels: [], rank: 1, score: 0.5}, {mark: () => null});
            return [made.querySelector('.name').textContent, made.querySelectorAll('.name img').length];
        }""",
        name,
    )
    assert shown == ["<img src=x onerror=alert(1)>\\u202egpj.\\u0007 \\ud800 \u0645\u200c\u0646", 0]


def test_a_search_that_waits_for_the_encoder_says_so(page: Any, served: tuple[str, Path]) -> None:
    held: list[Any] = []

    def loading(route: Any) -> None:
        answer = route.fetch()
        content = answer.json()
        content["indexes"][0]["ready"] = False
        route.fulfill(response=answer, json=content)

    page.route("**/api/about", loading)
    page.route("**/api/similar?*", lambda route: held.append(route))
    page.locator("#file").set_input_files(str(served[1] / "photos" / "green" / "5.jpg"))
    until(page, "document.getElementById('status').textContent.startsWith('The encoder is still loading')")
    for route in held:
        route.continue_()
    page.wait_for_selector(".ranking .score")
    assert "ranked in" in page.locator("#status").inner_text()


def test_the_skip_link_keeps_what_was_asked_for(page: Any) -> None:
    search_first(page)
    asked = page.evaluate("location.hash")
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "results"
    assert page.evaluate("location.hash") == asked


@contextlib.contextmanager
def proxy(upstream: int, *, strip: bool, keep_host: bool, certificate: tuple[Path, Path] | None) -> Iterator[int]:
    """A reverse proxy that shows a server under ``/photos``: to the browser TLS, if there is a certificate."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(1 << 16):
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            method, path, version = first.split(b" ")
            if path != b"/photos" and not path.startswith(b"/photos/"):
                writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                writer.close()
                return
            lines = [line for line in lines if not line.lower().startswith(b"connection:")]
            if not keep_host:
                lines = [b"host: 127.0.0.1:%d" % upstream if line.lower()[:5] == b"host:" else line for line in lines]
            path = (path[len(b"/photos") :] or b"/") if strip else path
            server = await asyncio.open_connection("127.0.0.1", upstream)
            server[1].write(b"\r\n".join([b" ".join((method, path, version)), b"connection: close", *lines]))
            await asyncio.gather(pipe(reader, server[1]), pipe(server[0], writer))

    loop = asyncio.new_event_loop()
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    starting = asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    listening = asyncio.run_coroutine_threadsafe(starting, loop).result()
    yield listening.sockets[0].getsockname()[1]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.mark.parametrize(
    ("secure", "strip", "keep_host", "slash"),
    [(True, True, True, True), (True, False, False, False), (False, True, True, False), (False, False, True, True)],
)
@pytest.mark.slow
def test_behind_a_proxy(
    browser: Any, behind: str, served: tuple[str, Path], secure: bool, strip: bool, keep_host: bool, slash: bool,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """Under a path, which the proxy leaves on the requests or not; with and without TLS; the Host kept or not."""
    certificate = request.getfixturevalue("certificate") if secure else None
    port = int(behind.rsplit(":", 1)[1])
    with proxy(port, strip=strip, keep_host=keep_host, certificate=certificate) as shown:
        page = browser.new_page(ignore_https_errors=True)
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto(f"http{'s' * secure}://photos.localhost:{shown}/photos{'/' * slash}")
        page.wait_for_selector(".photo")
        page.locator("#file").set_input_files(str(served[1] / "photos" / "green" / "5.jpg"))
        page.wait_for_selector(".ranking .score")
        assert "green" in page.locator(".ranking .label").first.inner_text()
        until(page, "[...document.querySelectorAll('.photo img')].slice(0, 5).every(i => i.complete && i.naturalWidth)")
        page.get_by_role("button", name="Map", exact=True).click()
        until(page, "Number(document.getElementById('map').dataset.shown) > 0")
        page.screenshot(path=str(served[1] / f"proxy-{secure}-{strip}.png"))
        page.close()
        assert problems == []


def test_a_path_without_a_slash_is_said(browser: Any, served: tuple[str, Path]) -> None:
    """Where the server does not know of the proxy's path, the page cannot find its parts, and says so."""
    with proxy(int(served[0].rsplit(":", 1)[1]), strip=True, keep_host=False, certificate=None) as shown:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{shown}/photos")
        assert "add a slash to the end of the address" in page.locator("#unstyled").inner_text()
        assert page.locator("#unstyled").is_visible()
        page.goto(f"http://127.0.0.1:{shown}/photos/")
        page.wait_for_selector(".photo")
        assert not page.locator("#unstyled").is_visible()
        page.close()


def test_the_keyboard_goes_on_in_the_new_ranking_and_a_filter_is_no_step(page: Any) -> None:
    page.locator(".photo button.open").nth(20).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".ranking .score")
    until(page, "document.activeElement === document.querySelector('#results button.open')")
    assert page.evaluate("window.scrollY") == 0
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('#trail li').length == 2")
    page.select_option("#filters [name=label]", "green")
    until(
        page, "[...document.querySelectorAll('.ranking:first-child .label')].every(name => name.textContent == 'green')"
    )
    assert page.locator("#trail li").count() == 2
