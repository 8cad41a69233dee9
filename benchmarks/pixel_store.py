"""The pixel store: building it beside decoding alone, opening it again, and what ten new photos cost.

    python benchmarks/pixel_store.py                     10,000 JPEGs made from scikit-learn's sample photos (2 minutes)
    python benchmarks/pixel_store.py --data PHOTOS       any photos

"Decoding alone" is a pool of as many processes that reads, decodes and reduces the same files and drops the pixels.
Rounds are interleaved, wall time on all cores; the ratio is the median of the rounds'.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from s2r2.images import PixelStore, decode, open_source
from s2r2.images.sources.source import ImageSource

RESULTS = Path(__file__).parent / "results" / "pixel_store.json"
SHORT_SIDE = 144


def make_photos(folder: Path, count: int) -> None:
    from sklearn.datasets import load_sample_images

    pictures = [Image.fromarray(image) for image in load_sample_images().images]
    rng = np.random.default_rng(0)
    for number in range(count):
        left, top = rng.integers(0, 320), rng.integers(0, 200)
        picture = pictures[number % 2].crop((left, top, left + 320, top + 220))
        picture.save(folder / f"{number:05d}.jpg", quality=88)


def decode_part(places: list[tuple[str, int, int]]) -> int:
    from s2r2.images.decoding.decoder import UnreadableImage
    from s2r2.images.places import FilePlace

    done = 0
    for place in places:
        try:
            decode(FilePlace(*place).read(), short_side=SHORT_SIDE)
            done += 1
        except UnreadableImage:
            continue
    return done


def alone(source: ImageSource, pool: Any) -> float:
    places = [source.place(index) for index in range(len(source))]
    parts = [places[i : i + 32] for i in range(0, len(places), 32)]
    start = time.perf_counter()
    sum(pool.imap_unordered(decode_part, parts))
    return time.perf_counter() - start


def build(source: ImageSource, place: Path) -> tuple[float, PixelStore]:
    start = time.perf_counter()
    store = PixelStore.build(source, SHORT_SIDE, place, progress=False)
    return time.perf_counter() - start, store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="photos: folder, tar, manifest; by default 10,000 made ones")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    workers = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as scratch:
        data = arguments.data
        if data is None:
            data = Path(scratch) / "photos"
            data.mkdir()
            make_photos(data, 10_000)
        took: dict[str, list[float]] = {"alone": [], "build": []}
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            alone(open_source(data), pool)  # the first round fills the system's cache of files
            for number in range(arguments.rounds):
                took["alone"].append(alone(open_source(data), pool))
                seconds, store = build(open_source(data), Path(scratch) / f"stores-{number}")
                took["build"].append(seconds)
        start = time.perf_counter()
        again = PixelStore.build(open_source(data), SHORT_SIDE, Path(scratch) / "stores-0", progress=False)
        reopened = time.perf_counter() - start
        result = {
            "images": len(store),
            "workers": workers,
            "alone_s": took["alone"],
            "build_s": took["build"],
            "speed_ratio": statistics.median(a / b for a, b in zip(took["alone"], took["build"], strict=True)),
            "reopen_s": reopened,
            "reopen_decoded": again.decoded,
        }
        if arguments.data is None:
            for number in range(10):
                Image.new("RGB", (320, 220), (number, 0, 0)).save(data / f"new-{number}.jpg")
            result["ten_new_s"], grown = build(open_source(data), Path(scratch) / "stores-0")
            result["ten_new_decoded"] = grown.decoded
    print(f"{result['images']:,} images, {workers} processes")
    print(f"build against decoding alone   {result['speed_ratio']:.2f} of its speed "
          f"({statistics.median(took['build']):.1f} s, {statistics.median(took['alone']):.1f} s)")  # fmt: skip
    print(f"second start                   {reopened:.2f} s, {again.decoded} decoded")
    if "ten_new_s" in result:
        print(f"ten new photos                 {result['ten_new_s']:.2f} s, {result['ten_new_decoded']} decoded")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
