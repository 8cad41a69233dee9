"""Training on a manifest of millions of rows: how soon the first step is taken, and what memory each process takes.

    python benchmarks/manifest.py                                  a million rows over 48 generated photos
    python benchmarks/manifest.py --data DATA                      over the first 300 photos of some data
    python benchmarks/manifest.py --rows 20000000 --processes 2    how many rows, and how many processes share the steps
    python benchmarks/manifest.py --parquet                        the manifest as Parquet
    python benchmarks/manifest.py --rows 20000000 --processes 2 --open    without encoder: open, views of a first step
    python benchmarks/manifest.py --encoder resnet18 --image-size 96

Every row has a name of its own, through folders that are links to the folder itself (`photos/12/34/56/78/0001.jpg`),
but the photos behind the names are few: reading and decoding is all there, the disk's seeks are not. The command is
`s2r2 train` with `--store none`. Memory is what the system counts (torch's libraries included): *resident*, *share*
(PSS: what several processes have in common is divided among them) and *own* (USS: what would be free without this one).
The first row is the same command on the photos alone, as a folder: what is not in the difference is Python, torch and
the encoder. Then the manifest as it is opened first, and again.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from s2r2.images import open_source
from s2r2.images.places import FilePlace

RESULTS = Path(__file__).parent / "results" / "manifest.json"
WATCHED = (50, 200)
KINDS = ("resident", "share", "own")
OPENING = """
import sys, time
from s2r2.images import DirectImages, open_source
from s2r2.views import Recipe, ViewLoader
began, cpu = time.perf_counter(), time.process_time()
images = DirectImages(open_source(sys.argv[1]), 64)
images.fingerprint
print(time.perf_counter() - began, time.process_time() - cpu, flush=True)
began, cpu = time.perf_counter(), time.process_time()
loader = ViewLoader(images, Recipe(), view_size=32, views=2, batch_size=32, seed=0, threads=1)
steps = loader.epoch(0)
next(steps)
print(time.perf_counter() - began, time.process_time() - cpu, flush=True)
sys.stdin.read()
"""


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
    """A row has a name of its own, for a random photo, and one of a hundred labels."""
    generator = random.Random(0)
    for number in range(100):
        (path.parent / "photos" / f"{number:02}").symlink_to(".")
    table = path.with_suffix(".csv")
    with table.open("w") as file:
        file.write("path,label\n")
        for row in range(rows):
            digits = f"{row:08}"
            folders = f"{digits[:2]}/{digits[2:4]}/{digits[4:6]}/{digits[6:]}"
            file.write(f"photos/{folders}/{generator.choice(names)},class{row % 100}\n")
    if path.suffix == ".parquet":
        from pyarrow import csv, parquet

        with csv.open_csv(table) as blocks, parquet.ParquetWriter(path, blocks.schema) as writer:
            for block in blocks:
                writer.write_batch(block)
        table.unlink()


def memory(process: int) -> dict[str, float]:
    """Resident memory of a process, its share of it and what is its own, in MiB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    own = kib["Private_Clean"] + kib["Private_Dirty"]
    return {"resident": kib["Rss"] / 1024, "share": kib["Pss"] / 1024, "own": own / 1024}


def trainers(launcher: int, processes: int) -> list[int]:
    """The processes that train."""
    if processes == 1:
        return [launcher]
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher and "LOCAL_RANK=" in (entry / "environ").read_text():
                found.append(int(entry.name))
    return sorted(found)


def steps_written(metrics: Path) -> int:
    """The last step in ``metrics.jsonl``, which is written every ten steps."""
    found = re.findall(r'"step": (\d+), "epoch": \d+, "loss"', metrics.read_text()) if metrics.exists() else []
    return int(found[-1]) if found else 0


def watch(data: str, run: Path, encoder: str, size: int, steps: int, processes: int) -> dict[str, Any]:
    """Train, and note when the first step was taken and each process's memory at some steps, and the most of all."""
    command = [
        sys.executable, "-m", "s2r2", "train", data, "--store", "none", "--backbone", encoder, "--image-size",
        str(size), "--views", "2", "--batch-size", "32", "--steps", str(steps), "--out", str(run),
        "--devices", str(processes), "--device", "cpu",
    ]  # fmt: skip
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = {"peak_mib": 0.0}

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if "step 1/" in line:
                found["first_step_s"] = time.perf_counter() - began

    reader = threading.Thread(target=read)
    reader.start()
    while process.poll() is None:
        try:
            now = [memory(pid) for pid in trainers(process.pid, processes)]
        except (OSError, KeyError):  # one has just ended
            continue
        found["peak_mib"] = max([found["peak_mib"], *(one["resident"] for one in now)])
        done = steps_written(run / "metrics.jsonl")
        for step in WATCHED:
            if done >= step and len(now) == processes:
                found.setdefault(f"at_{step}", now)
        time.sleep(0.1)
    reader.join()
    if process.wait() != 0:
        raise SystemExit(f"s2r2 train ended with {process.returncode}")
    found["seconds"] = time.perf_counter() - began
    return found


def opening(data: str, processes: int) -> list[dict[str, float]]:
    """Open the manifest and make the views of a first step in so many processes, without an encoder."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", OPENING, data], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(processes)
    ]
    found = []
    for process in started:
        assert process.stdout is not None
        opened, views = (list(map(float, process.stdout.readline().split())) for _ in range(2))
        found.append({"open_s": opened[0], "open_cpu_s": opened[1], "views_s": views[0], "views_cpu_s": views[1]})
    for process, row in zip(started, found, strict=True):
        peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
        row |= memory(process.pid) | {"peak": int(peak[1]) / 1024 if peak else 0.0}
    for process in started:
        process.communicate()
    return found


def show_opening(data: str, what: str, processes: int) -> list[dict[str, float]]:
    """Print what :func:`opening` found, a line for each process."""
    found = opening(data, processes)
    for row in found:
        print(
            f"| {what} | {row['open_s']:.1f} s ({row['open_cpu_s']:.1f}) | {row['views_s']:.1f} s "
            f"({row['views_cpu_s']:.1f}) | {row['resident']:,.0f} | {row['share']:,.0f} | {row['own']:,.0f} | "
            f"{row['peak']:,.0f} |",
            flush=True,
        )
    return found


def show(row: dict[str, Any]) -> None:
    """Print what was measured of one command."""
    cells = [f"{row['images']:,} ({row['what']})", f"{row['first_step_s']:.1f} s"]
    for step in WATCHED:
        every = row.get(f"at_{step}", [])
        cells += [", ".join(f"{one[kind]:,.0f}" for one in every) for kind in KINDS]
    print("| " + " | ".join([*cells, f"{row['peak_mib']:,.0f}"]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="photos: folder, tar, manifest; by default generated ones")
    parser.add_argument("--photos", type=int, default=300, help="how many of them")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--open", action="store_true")
    parser.add_argument("--parquet", action="store_true")
    parser.add_argument("--steps", type=int, default=220)
    parser.add_argument("--encoder", default="test_resnet")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    titles = [f"{kind} at {step}" for step in WATCHED for kind in KINDS]
    if arguments.open:
        print("memory of each process in MiB; processor time in brackets")
        titles = ["open", "views of the first step", *KINDS]
    else:
        size = arguments.image_size
        print(f"{arguments.encoder} at {size} px, 32 images x 2 views; memory of each process in MiB")
        titles = ["first step", *titles]
    print("| images | " + " | ".join([*titles, "peak"]) + " |\n" + "|---" * (len(titles) + 2) + "|", flush=True)
    table: list[dict[str, Any]] = []
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["S2R2_CACHE"] = str(folder / "cache")
        names = make_photos(folder / "photos", arguments.data, arguments.photos)
        shutil.copytree(folder / "photos", folder / "few")
        manifest = folder / f"rows.{'parquet' if arguments.parquet else 'csv'}"
        write_manifest(manifest, names, arguments.rows)
        for number, what in enumerate(("folder", "first", "again")):
            data, count = (folder / "few", len(names)) if what == "folder" else (manifest, arguments.rows)
            name = f"{count:,} ({what})"
            if arguments.open:
                table.append({"images": count, "processes": show_opening(str(data), name, arguments.processes)})
                continue
            run = folder / f"run-{number}"
            found = watch(str(data), run, arguments.encoder, arguments.image_size, arguments.steps, arguments.processes)
            table.append({"images": count, "what": what, **found})
            show(table[-1])
    arguments.results.parent.mkdir(exist_ok=True)
    arguments.results.write_text(json.dumps({"load": load, "rows": table}, indent=1))


if __name__ == "__main__":
    main()
