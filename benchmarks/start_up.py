"""How long short commands take, beside the imports that they do without or cannot do without.

    python benchmarks/start_up.py [--photos 2000] [--runs 5]

Each figure is the median of several runs in turn, of the whole process, from the shell and back. "import torch" is what
any program that embeds pays first, and the ratio is to it. timm brings torch's compiler, ``torch._dynamo``: torchvision
asks for it (``ops/roi_align.py``), and so does one of timm's models as it is defined (``naflexvit``).
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

ENCODER = "untrained:test_resnet"
CHANGED = 10


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=2000, help="photos in the index")
    parser.add_argument("--runs", type=int, default=5, help="runs of each command")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(Path(folder), options.photos, options.runs)
    torch_seconds = figures["import torch"]["seconds"]
    print(f"{os.cpu_count()} cores, {options.photos:,} photos, median of {options.runs} runs\n")
    print("| | seconds | CPU seconds | to import torch |\n|---|---|---|---|")
    for name, figure in figures.items():
        print(
            f"| {name} | {figure['seconds']:.2f} | {figure['cpu_seconds']:.2f} "
            f"| {figure['seconds'] / torch_seconds:.2f} |"
        )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def measured(folder: Path, photos: int, runs: int) -> dict[str, dict[str, float]]:
    """Median seconds of each command; all of them once, then all once more, and so on."""
    data, index = folder / "photos", folder / "index"
    data.mkdir()
    for number in range(photos):
        write_photo(data / f"{number}.jpg", number)
    python, s2r2 = [sys.executable, "-c"], [sys.executable, "-m", "s2r2"]
    update = [*s2r2, "index", ENCODER, str(data), "--index", str(index)]
    subprocess.run(update, check=True, stdout=subprocess.DEVNULL)

    def change(run: int) -> None:
        for number in range(CHANGED):
            write_photo(data / f"{number}.jpg", photos + run * CHANGED + number)

    commands: dict[str, tuple[list[str], Callable[[int], None]]] = {
        "import numpy": ([*python, "import numpy"], lambda run: None),
        "import torch": ([*python, "import torch"], lambda run: None),
        "import torch, torch._dynamo": ([*python, "import torch, torch._dynamo"], lambda run: None),
        "import torch, s2r2.losses": ([*python, "import torch, s2r2.losses"], lambda run: None),
        "import torch, timm": ([*python, "import torch, timm"], lambda run: None),
        "import torch, timm, lancedb": ([*python, "import torch, timm, lancedb"], lambda run: None),
        "s2r2 --help": ([*s2r2, "--help"], lambda run: None),
        "s2r2 index, nothing new": (update, lambda run: None),
        f"s2r2 index, {CHANGED} photos changed": (update, change),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for run in range(runs):
        for name, (command, before) in commands.items():
            before(run)
            found[name].append(timed(command))
    shutil.rmtree(index)
    return {
        name: dict(zip(("seconds", "cpu_seconds"), map(statistics.median, zip(*times, strict=True)), strict=True))
        for name, times in found.items()
    }


def write_photo(path: Path, seed: int) -> None:
    """A photo of soft noise, 160 by 120 pixels."""
    noise = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC).save(path, quality=90)


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds from the shell and back, and CPU seconds of the process and its children."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
