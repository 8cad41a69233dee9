"""Training on a manifest of a million rows: how soon the first step is taken, and what memory it takes.

    python benchmarks/manifest.py                               rows over 48 generated photos
    python benchmarks/manifest.py --data DATA                   over the first 300 photos of a folder, manifest or tar
    python benchmarks/manifest.py --data DATA --rows 1000000    how many rows
    python benchmarks/manifest.py --encoder resnet18 --image-size 96

The rows name the same few photos again and again: reading and decoding is all there, the disk's seeks are not. The
command is `s2r2 train` with `--store none`, in a process of its own, its memory as the system counts it (resident,
torch's libraries included). The first row is the same command on the photos alone, as a folder: what is not in the
difference of the two is Python, torch and the encoder.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from s2r2.images import open_source
from s2r2.images.places import FilePlace

RESULTS = Path(__file__).parent / "results" / "manifest.json"
WATCHED = (1, 50, 200)
OPENING = "import sys, time; from s2r2.images import open_source; t = time.perf_counter(); open_source(sys.argv[1]); " \
          "print(time.perf_counter() - t)"  # fmt: skip


def make_photos(folder: Path, data: str | None, count: int) -> list[str]:
    """Photos as files: the first ones of some data, or generated."""
    folder.mkdir()
    if data is None:
        generator = np.random.default_rng(0)
        for number in range(48):
            coarse = Image.fromarray(generator.integers(0, 255, (9, 12, 3), dtype=np.uint8))
            coarse.resize((240, 180), Image.Resampling.BICUBIC).save(folder / f"{number:04d}.jpg", quality=88)
    else:
        source = open_source(data)
        for number in range(min(count, len(source))):
            place = source.place(number)
            if isinstance(place, FilePlace):
                suffix = Path(source.keys[number]).suffix
                (folder / f"{number:04d}{suffix}").write_bytes(place.read())
    return sorted(path.name for path in folder.iterdir())


def write_manifest(path: Path, names: list[str], rows: int) -> None:
    """A row names a random photo and one of a hundred labels."""
    generator = random.Random(0)
    with path.open("w") as file:
        file.write("path,label\n")
        file.writelines(f"photos/{generator.choice(names)},class{row % 100}\n" for row in range(rows))


def resident(process: int) -> float:
    """Memory of a process in MiB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def steps_written(metrics: Path) -> int:
    """The last step in ``metrics.jsonl``, which is written every ten steps."""
    found = re.findall(r'"step": (\d+), "epoch": \d+, "loss"', metrics.read_text()) if metrics.exists() else []
    return int(found[-1]) if found else 0


def watch(data: str, run: Path, encoder: str, size: int, steps: int) -> dict[str, float]:
    """Train, and note when the first step was taken and how much memory there was at some steps, and at most."""
    command = [
        sys.executable, "-m", "s2r2", "train", data, "--store", "none", "--backbone", encoder, "--image-size",
        str(size), "--views", "2", "--batch-size", "32", "--steps", str(steps), "--out", str(run),
    ]  # fmt: skip
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = {"peak_mib": 0.0}

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if "step 1/" in line:
                found["first_step_s"] = time.perf_counter() - began
                found["rss_1_mib"] = resident(process.pid)

    reader = threading.Thread(target=read)
    reader.start()
    while process.poll() is None:
        try:
            now = resident(process.pid)
        except (OSError, IndexError):  # it has just ended
            break
        found["peak_mib"] = max(found["peak_mib"], now)
        done = steps_written(run / "metrics.jsonl")
        for step in WATCHED[1:]:
            if done >= step:
                found.setdefault(f"rss_{step}_mib", now)
        time.sleep(0.1)
    reader.join()
    if process.wait() != 0:
        raise SystemExit(f"s2r2 train ended with {process.returncode}")
    found["seconds"] = time.perf_counter() - began
    return found


def opening(data: str) -> float:
    done = subprocess.run([sys.executable, "-c", OPENING, data], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="photos: folder, tar, manifest; by default generated ones")
    parser.add_argument("--photos", type=int, default=300, help="how many of them")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=220)
    parser.add_argument("--encoder", default="test_resnet")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    table = []
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        names = make_photos(folder / "photos", arguments.data, arguments.photos)
        write_manifest(folder / "rows.csv", names, arguments.rows)
        for data, count in ((folder / "photos", len(names)), (folder / "rows.csv", arguments.rows)):
            seconds = opening(str(data))
            found = watch(str(data), folder / f"run-{count}", arguments.encoder, arguments.image_size, arguments.steps)
            table.append({"images": count, "opening_s": seconds, **found})
    print(f"{arguments.encoder} at {arguments.image_size} px, 32 images x 2 views, load {load:.1f} at the beginning")
    print(f"{'images':>10} {'opening':>9} {'first step':>11} {'RSS at 1':>10} {'at 50':>8} {'at 200':>8} {'peak':>8}")
    for row in table:
        memory = [row.get(f"rss_{step}_mib", float("nan")) for step in WATCHED]
        print(
            f"{row['images']:>10,} {row['opening_s']:>7.2f} s {row['first_step_s']:>9.1f} s "
            f"{memory[0]:>6.0f} MiB {memory[1]:>8.0f} {memory[2]:>8.0f} {row['peak_mib']:>8.0f}"
        )
    arguments.results.parent.mkdir(exist_ok=True)
    arguments.results.write_text(json.dumps({"load": load, "rows": table}, indent=1))


if __name__ == "__main__":
    main()
