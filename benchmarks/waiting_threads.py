"""What does it cost that torch's threads wait for each other, where the cores have other work too?

    python benchmarks/waiting_threads.py [--backbone test_resnet --image-size 32]

Forward and backward passes of 64 photos, in views of one size (8 large ones) and in multi-crop (2 large, 6 small), with
two threads: as OpenMP waits by default, as ``s2r2`` has it wait, and with one thread. Each in a process of its own, in
turns; medians of the rounds. Other programs decide the outcome: the load is printed.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict

from rich.console import Console
from rich.table import Table

WAYS: dict[str, tuple[int, dict[str, str]]] = {
    "default": (2, {}),
    "as s2r2": (2, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}),
    "one thread": (1, {}),
}
PHOTOS = 64


def measure(backbone: str, size: int, threads: int, seconds: float) -> None:
    """Print views per second of wall time and of CPU time, of views of one size and of multi-crop."""
    import torch

    from s2r2.encoder import create_encoder
    from s2r2.views import get_recipe, view_sizes

    torch.set_num_threads(threads)
    encoder = create_encoder(backbone, image_size=size).train()
    figures = []
    for recipe in ("photos", "swav-multicrop"):
        sizes = view_sizes(get_recipe(recipe), size, 8)
        parts = [torch.randn(PHOTOS * sizes.count(side), 3, side, side) for side in dict.fromkeys(sizes)]
        passes, wall, processor = -1, 0.0, 0.0
        while passes < 1 or time.perf_counter() - wall < seconds:
            if passes < 0:
                wall, processor = time.perf_counter(), time.process_time()
            encoder.zero_grad(set_to_none=True)
            torch.cat([encoder(part) for part in parts]).sum().backward()
            passes += 1
            if passes == 0:  # the first pass chose kernels
                wall, processor = time.perf_counter(), time.process_time()
        views = passes * PHOTOS * 8
        figures += [views / (time.perf_counter() - wall), views / (time.process_time() - processor)]
    print(*figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="test_resnet")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2, help="for each measurement")
    parser.add_argument("--one", type=int, metavar="THREADS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        measure(arguments.backbone, arguments.image_size, arguments.one, arguments.seconds)
        return
    clean = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    found = defaultdict(list)
    for _ in range(arguments.rounds):
        for way, (threads, variables) in WAYS.items():
            words = [sys.executable, __file__, *sys.argv[1:], "--one", str(threads)]
            said = subprocess.run(words, env={**clean, **variables}, check=True, stdout=subprocess.PIPE, text=True)
            found[way].append([float(word) for word in said.stdout.split()])
    table = Table(
        "waiting", "8 large, wall", "of CPU", "multi-crop, wall", "of CPU", "multi-crop / large, wall", "of CPU"
    )
    for way, rounds in found.items():
        figures = [statistics.median(column) for column in zip(*rounds, strict=True)]
        ratios = [statistics.median(row[i + 2] / row[i] for row in rounds) for i in (0, 1)]
        table.add_row(way, *(f"{figure:,.0f}" for figure in figures), *(f"{ratio:.2f}" for ratio in ratios))
    Console(width=120).print(f"views per second; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
