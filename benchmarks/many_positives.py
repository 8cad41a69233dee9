"""The ranking loss where groups are large, as classes are: time on one thread, and the error against float64.

    python benchmarks/many_positives.py                            s2r2's backends, and PML's SmoothAPLoss where it fits
    python benchmarks/many_positives.py --beside OTHER/src         another checkout's loss beside it, in turns

V positives and the query itself in each group, D = 128, T = 0.05, float32, forward and backward: CPU seconds, least of
several repeats, each case in a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ranking_loss import TEMPERATURE, WIDTH, processor
from s2r2.losses import SmoothAPLoss

RESULTS = Path(__file__).parent / "results" / "many_positives.json"
CASES = [(512, 64), (4096, 8), (4096, 16), (4096, 32), (4096, 64), (4096, 128), (2048, 512)]
PML_MOST = 512
"""Views beyond which pytorch-metric-learning's loss needs tens of GiB."""
ROUNDS = 3


def make_batch(n: int, views: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    groups = torch.arange(n // views).repeat_interleave(views)
    centres = torch.randn(n // views, WIDTH, generator=generator)
    z = normalize(centres[groups] + torch.randn(n, WIDTH, generator=generator), dim=1)
    return z.requires_grad_(), groups


def seconds(method: str, n: int, views: int) -> float:
    """In a process of its own: CPU seconds of a forward and backward pass."""
    torch.set_num_threads(1)
    if method == "PML":
        from pytorch_metric_learning import losses

        loss = losses.SmoothAPLoss(TEMPERATURE)
    else:
        loss = SmoothAPLoss(TEMPERATURE, backend="torch" if method == "torch" else "auto", distributed=False)
    z, groups = make_batch(n, views)
    best = float("inf")
    for _ in range(2 if method in ("PML", "torch") else 4):
        z.grad = None
        began = time.process_time()
        loss(z, groups).backward()
        best = min(best, time.process_time() - began)
    return best


def error(n: int, views: int) -> tuple[float, float]:
    """Relative error of the loss and of its gradient against float64."""
    z, groups = make_batch(n, views)
    results = []
    for vectors, backend in ((z, "numba"), (z.double(), "torch")):
        leaf = vectors.detach().clone().requires_grad_()
        loss = SmoothAPLoss(TEMPERATURE, backend=backend, distributed=False)(leaf, groups)
        loss.backward()
        results.append((loss.item(), leaf.grad.double()))
    (value, gradient), (expected, slope) = results
    return abs(value / expected - 1), float((gradient - slope).norm() / slope.norm())


def case(method: str, n: int, views: int, source: str | None = None) -> float:
    """Seconds of one case, from another checkout if its ``src`` is given."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if source:
        environment["PYTHONPATH"] = source
    command = [sys.executable, __file__, "--case", method, str(n), str(views)]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", metavar="SRC")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.case:
        print(seconds(a.case[0], int(a.case[1]), int(a.case[2])))
        return
    rows = []
    other = "other" if a.beside else ""
    print(processor())
    print(f"{'N':>6s} {'V':>4s} {'s2r2':>8s} {other:>15s} {'torch':>15s} {'PML':>15s} {'errors':>18s}")
    for n, views in CASES:
        found: dict[str, list[float]] = {"s2r2": [], "other": [], "torch": [], "PML": []}
        for _ in range(ROUNDS):
            found["s2r2"].append(case("numba", n, views))
            if a.beside:
                found["other"].append(case("numba", n, views, a.beside))
        found["torch"].append(case("torch", n, views))
        if n <= PML_MOST:
            found["PML"].append(case("PML", n, views))
        least = {name: min(values) for name, values in found.items() if values}
        shown = [
            f"{least[m]:.4f} ({least[m] / least['s2r2']:.2f})" if m in least else "" for m in ("other", "torch", "PML")
        ]
        value, gradient = error(n, views)
        columns = [f"{least['s2r2']:8.4f}", *(f"{text:>15s}" for text in shown), f"{value:9.0e} {gradient:8.0e}"]
        print(f"{n:6,} {views:4}", *columns, flush=True)
        rows.append({"n": n, "views": views, "seconds": least, "loss_error": value, "gradient_error": gradient})
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"rows": rows, "processor": processor()}, indent=1))


if __name__ == "__main__":
    main()
