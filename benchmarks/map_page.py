"""The map of 100,000 photos in a browser: seconds until it is drawn, and the time of a frame while it moves.

    python benchmarks/map_page.py [--photos 100000] [--gpu]

Builds an index of synthetic vectors as ``s2r2 index`` does, serves it, opens the map in Debian's Chromium at 1280 x 900
and drags it. Without ``--gpu`` WebGL is drawn by the processor (SwiftShader), as on a machine without a graphics card.
A frame's time is what passes between two of the browser's animation frames; the page's own part is the time of its main
thread ("page"), which is what remains where a graphics card draws. Exits with 1 if the page complains.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from serving import server

PATIENCE = 300.0
SIZE = {"width": 1280, "height": 900}
_FRAMES = """() => {
    window.frames_seen = [];
    const next = (now) => { window.frames_seen.push(now); window.frames_timer = requestAnimationFrame(next); };
    window.frames_timer = requestAnimationFrame(next);
}"""


def make(store: Path, photos: int) -> None:
    """An index of synthetic vectors with thumbnails and a map."""
    from synthetic_index import make_index, thumbnails, write_vectors

    write_vectors(store.parent / "vectors.npy", photos, 0)
    vectors = np.load(store.parent / "vectors.npy", mmap_mode="r")
    make_index(store, vectors, approximate_from=1 << 40, pictures=thumbnails())


def open_map(page: Any, address: str) -> float:
    """Open the map; the seconds until it is drawn."""
    began = time.perf_counter()
    page.goto(f"{address}/#view=map")
    while not page.evaluate("document.getElementById('map').dataset.shown !== undefined"):
        if time.perf_counter() - began > PATIENCE:
            raise TimeoutError(
                f"no map: {page.locator('#status').inner_text()} {page.locator('#problem').inner_text()}"
            )
        page.wait_for_timeout(20)
    return time.perf_counter() - began


def drag(page: Any, moves: int = 60) -> dict[str, float]:
    """Drag the map to and fro; milliseconds of its frames."""
    area = page.locator("#map").bounding_box()
    x, y = area["x"] + area["width"] / 2, area["y"] + area["height"] / 2

    def gesture() -> None:
        page.mouse.move(x, y)
        page.mouse.down()
        for number in range(moves):
            turn = 2 * np.pi * number / 30
            page.mouse.move(x + 200 * np.sin(turn), y + 120 * (1 - np.cos(turn)))
        page.mouse.up()

    return _during(page, gesture)


def zoom(page: Any, turns: int = 20) -> dict[str, float]:
    """Zoom into the middle and out again with the wheel; milliseconds of its frames."""
    area = page.locator("#map").bounding_box()
    page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)

    def gesture() -> None:
        for number in range(2 * turns):
            page.mouse.wheel(0, -120 if number < turns else 120)

    return _during(page, gesture)


def _during(page: Any, gesture: Any) -> dict[str, float]:
    client = page.context.new_cdp_session(page)
    client.send("Performance.enable")

    def main_thread() -> float:
        metrics = client.send("Performance.getMetrics")["metrics"]
        return 1e3 * next(one["value"] for one in metrics if one["name"] == "TaskDuration")

    page.evaluate(_FRAMES)
    before = main_thread()
    gesture()
    spent = main_thread() - before
    times = page.evaluate("(cancelAnimationFrame(frames_timer), frames_seen)")
    client.detach()
    between = np.diff(times)
    return {
        "frames": len(between), "median": float(np.median(between)), "p95": float(np.percentile(between, 95)),
        "slowest": float(between.max()), "page": spent / max(1, len(between)),
    }  # fmt: skip


def measure(address: str, gpu: bool) -> list[str]:
    """Print the times; what the page complained of."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", *([] if gpu else ["--enable-unsafe-swiftshader"])]
    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        print(f"drawn after {open_map(page, address):.1f} s")
        drag(page, 10)  # warm: shaders compiled
        for name, gesture in (("dragged", drag), ("zoomed", zoom), ("dragged, closer", drag)):
            if name.endswith("closer"):
                for _ in range(4):
                    page.get_by_role("button", name="Zoom in").click()
                page.wait_for_timeout(1000)
            found = gesture(page)
            times = "   ".join(f"{part} {found[part]:6.1f} ms" for part in ("median", "p95", "slowest", "page"))
            print(f"{name:16s} {found['frames']:4.0f} frames   {times}")
        browser.close()
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--gpu", action="store_true", help="draw with the graphics card")
    parser.add_argument("--index", type=Path, help="made before, to measure again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        store = arguments.index or Path(scratch) / "index"
        if not store.exists():
            make(store, arguments.photos)
        with server(store) as (port, _):
            problems = measure(f"http://127.0.0.1:{port}", arguments.gpu)
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    for problem in problems:
        print("the page complains:", problem)
    sys.exit(int(bool(problems)))


if __name__ == "__main__":
    main()
