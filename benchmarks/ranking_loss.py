"""The ranking loss beside pytorch-metric-learning's losses: time, memory, and whether the value is right.

    python benchmarks/ranking_loss.py                  CPU seconds of one thread, forward and backward (5 minutes)
    python benchmarks/ranking_loss.py --parts views    only the table over V = 8 to 512 views in a group
    python benchmarks/ranking_loss.py --device cuda    GPU, up to N = 65,536

V = 8 views an image where nothing else is said, D = 128, T = 0.05, float32. On the CPU every row is a process of its
own: ``process_time``, least of several repeats, and resident memory above what the process held before the step.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import normalize

from s2r2.losses import SmoothAPLoss

VIEWS, WIDTH, TEMPERATURE = 8, 128, 0.05
RESULTS = Path(__file__).parent / "results" / "ranking_loss.json"
SIZES = {
    "s2r2": [256, 512, 1024, 2048, 4096, 8192, 16384],
    "s2r2 (torch)": [256, 512, 1024, 2048, 4096, 8192],
    "PML SmoothAPLoss": [256, 512],
    "PML SupConLoss": [256, 512, 1024, 2048, 4096],
}
GROUPS = [(512, 8), (512, 32), (512, 64), (512, 128), (4096, 8), (4096, 32), (4096, 64), (4096, 128), (4096, 512)]
"""N and V of the table over sizes of groups; PML's SmoothAPLoss does not fit into memory at 4,096."""


def make_batch(
    n: int, noise: float = 1.0, device: str = "cpu", views: int = VIEWS
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    groups = torch.arange(n // views).repeat_interleave(views)
    centres = torch.randn(n // views, WIDTH, generator=generator)
    z = centres[groups] + noise * torch.randn(n, WIDTH, generator=generator)
    return normalize(z, dim=1).to(device).requires_grad_(), groups


def make_loss(method: str):
    if method.startswith("PML"):
        from pytorch_metric_learning import losses

        return losses.SmoothAPLoss(TEMPERATURE) if "SmoothAP" in method else losses.SupConLoss(TEMPERATURE)
    return SmoothAPLoss(TEMPERATURE, backend="torch" if "torch" in method else "auto", distributed=False)


def resident(field: str) -> int:
    """Kilobytes: VmRSS now, VmHWM at most so far."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def run_case(method: str, n: int, views: int) -> dict[str, float]:
    """In a process of its own: CPU seconds and extra MiB of forward and backward."""
    torch.set_num_threads(1)
    loss = make_loss(method)

    def step(z: torch.Tensor, groups: torch.Tensor) -> float:
        z.grad = None
        start = time.process_time()
        loss(z, groups).backward()
        return time.process_time() - start

    step(*make_batch(2 * views, views=views))  # loads and compiles what is loaded and compiled once
    batch = make_batch(n, views=views)
    before = resident("VmRSS")
    first = step(*batch)
    extra = (resident("VmHWM") - before) / 1024
    repeats = max(2, min(20, int(6 / first)))
    return {"cpu_s": min([first] + [step(*batch) for _ in range(repeats)]), "extra_mib": extra}


def run_wall(n: int) -> float:
    """Seconds on the wall with all threads, in this process."""
    z, groups = make_batch(n)
    loss = make_loss("s2r2")
    times = []
    for _ in range(3):
        start = time.perf_counter()
        loss(z, groups).backward()
        times.append(time.perf_counter() - start)
    return min(times)


def separated_values() -> dict[str, float]:
    """Every loss on a perfectly separated batch of B = 32 images: 1 - AP is 0."""
    groups = torch.arange(32).repeat_interleave(VIEWS)
    z = torch.eye(32, WIDTH)[groups]
    return {m: make_loss(m)(z, groups).item() for m in ("s2r2", "PML SmoothAPLoss")}


def measured(console: Console, method: str, n: int, views: int = VIEWS) -> dict[str, float] | None:
    """A case in a process of its own; None, with its last words, if it fails."""
    command = [sys.executable, __file__, "--case", method, str(n), str(views)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        console.print(f"{method}, N = {n}, V = {views}: failed: {done.stderr.strip().splitlines()[-1:]}")
        return None
    return json.loads(done.stdout)


def over_views(console: Console) -> list[dict[str, float]]:
    """From augmented views to classes: what a group of V costs."""
    table = Table(title=f"Forward and backward by size of group: CPU seconds of one thread (extra MiB). {processor()}")
    for column in ("N", "V", "s2r2", "PML SmoothAPLoss", "ratio"):
        table.add_column(column, justify="right")
    rows = []
    for n, views in GROUPS:
        ours = measured(console, "s2r2", n, views)
        peer = measured(console, "PML SmoothAPLoss", n, views) if n in SIZES["PML SmoothAPLoss"] else None
        shown = [f"{case['cpu_s']:.4f} ({case['extra_mib']:.0f})" if case else "" for case in (ours, peer)]
        table.add_row(f"{n:,}", str(views), *shown, f"{peer['cpu_s'] / ours['cpu_s']:.0f}x" if ours and peer else "")
        rows.append({"n": n, "views": views, "s2r2": ours, "PML SmoothAPLoss": peer})
    console.print(table)
    return rows


def on_cpu(console: Console) -> dict:
    figures: dict[str, dict[int, dict[str, float]]] = {}
    for method, sizes in SIZES.items():
        for n in sizes:
            case = measured(console, method, n)
            if case:
                figures.setdefault(method, {})[n] = case
    table = Table(title=f"Forward and backward, V = 8, D = 128: CPU seconds of one thread (extra MiB). {processor()}")
    table.add_column("N", justify="right")
    for method in SIZES:
        table.add_column(method, justify="right")
    table.add_column("to SmoothAPLoss", justify="right")
    table.add_column("to SupConLoss", justify="right")
    for n in SIZES["s2r2"]:
        row = [f"{n:,}"]
        for method in SIZES:
            case = figures.get(method, {}).get(n)
            row.append(f"{case['cpu_s']:.4f} ({case['extra_mib']:.0f})" if case else "")
        for peer in ("PML SmoothAPLoss", "PML SupConLoss"):
            case = figures.get(peer, {}).get(n)
            row.append(f"{case['cpu_s'] / figures['s2r2'][n]['cpu_s']:.1f}x" if case else "")
        table.add_row(*row)
    console.print(table)
    wall = {n: run_wall(n) for n in (2048, 8192, 16384)}
    console.print(
        f"Wall seconds with {torch.get_num_threads()} threads: "
        + ", ".join(f"N = {n:,}: {t:.3f}" for n, t in wall.items())
    )
    values = separated_values()
    console.print(
        "Perfectly separated batch, B = 32, V = 8 (1 - AP is 0): "
        + ", ".join(f"{m}: {v:.4f}" for m, v in values.items())
    )
    targets = check_targets(figures)
    for text, reached in targets.items():
        console.print(f"{'reached' if reached else 'MISSED '}  {text}", style=None if reached else "bold red")
    return {"cpu": figures, "wall_s": wall, "separated": values, "targets": targets}


def check_targets(figures: dict[str, dict[int, dict[str, float]]]) -> dict[str, bool]:
    def ratio(peer: str, n: int) -> float:
        case = figures.get(peer, {}).get(n)
        return case["cpu_s"] / figures["s2r2"][n]["cpu_s"] if case else 0.0

    large = figures["s2r2"].get(8192, {"cpu_s": float("inf"), "extra_mib": float("inf")})
    return {
        "N = 256: at least 150x less CPU time than SmoothAPLoss": ratio("PML SmoothAPLoss", 256) >= 150,
        "N = 512: at least 300x less CPU time than SmoothAPLoss": ratio("PML SmoothAPLoss", 512) >= 300,
        "N = 2048: at least 2x less CPU time than SupConLoss": ratio("PML SupConLoss", 2048) >= 2,
        "N = 4096: at least 2x less CPU time than SupConLoss": ratio("PML SupConLoss", 4096) >= 2,
        "N = 8192: within 1.5 CPU seconds": large["cpu_s"] <= 1.5,
        "N = 8192: within 64 MiB of extra memory": large["extra_mib"] <= 64,
        "N = 16384: runs": 16384 in figures["s2r2"],
    }


def on_cuda(console: Console, precision: str) -> dict:
    from s2r2.losses.backends import triton_cuda

    triton_cuda.PRECISION = precision
    properties = torch.cuda.get_device_properties(0)
    clock = (
        float(
            subprocess.check_output(
                ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"], text=True
            ).split()[0]
        )
        * 1e6
    )
    # Per multiprocessor and cycle: 128 float32 multiply-adds, 16 special functions (exponential, reciprocal).
    matrix_limit, special_limit = (properties.multi_processor_count * per * clock for per in (2 * 128, 16))
    table = Table(title=f"{properties.name}, V = 8, D = 128, precision {precision}")
    for column in (
        "N",
        "ms",
        "extra MiB",
        "of float32 limit",
        "of special-function limit",
        "loss error",
        "gradient error",
    ):
        table.add_column(column, justify="right")
    rows = []
    for n in (2048, 4096, 8192, 16384, 32768, 65536):
        z, groups = make_batch(n, device="cuda")
        loss = SmoothAPLoss(TEMPERATURE, backend="triton", distributed=False)
        loss(z, groups).backward()
        torch.cuda.synchronize()
        z.grad = None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        times = []
        for _ in range(7):
            z.grad = None
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            loss(z, groups).backward()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        extra = (torch.cuda.max_memory_allocated() - before) / 2**20
        ms = statistics.median(times)
        # Five products (similarities thrice, two gradients); three sigmoids a triple, of two special functions at most.
        matrix = 5 * 2 * n**2 * WIDTH / matrix_limit / (ms / 1000)
        special = 3 * 2 * n**2 * (VIEWS - 1) / special_limit / (ms / 1000)
        value, gradient = sampled_error(z.detach(), groups)
        rows.append(
            {
                "n": n,
                "ms": ms,
                "extra_mib": extra,
                "of_matrix_limit": matrix,
                "of_special_limit": special,
                "loss_error": value,
                "gradient_error": gradient,
            }
        )
        table.add_row(
            f"{n:,}", f"{ms:.1f}", f"{extra:.0f}", f"{matrix:.0%}", f"{special:.0%}", f"{value:.1e}", f"{gradient:.1e}"
        )
    console.print(table)
    console.print("Targets: N = 65,536 within 1024 MiB, 150 ms on an H100, errors below 1e-5 and 1e-4.")
    return {"cuda": rows, "device": properties.name, "precision": precision}


def sampled_error(z: torch.Tensor, groups: torch.Tensor, kernels: str = "triton") -> tuple[float, float]:
    """Loss and gradient of 64 random queries against all candidates, float32 kernels against float64 torch."""
    mask = torch.zeros(len(z), dtype=torch.bool)
    mask[torch.randperm(len(z), generator=torch.Generator().manual_seed(0))[:64]] = True
    results = []
    for vectors, backend in ((z, kernels), (z.double(), "torch")):
        leaf = vectors.clone().requires_grad_()
        loss = SmoothAPLoss(TEMPERATURE, backend=backend, distributed=False)(leaf, groups, query_mask=mask)
        loss.backward()
        results.append((loss.item(), leaf.grad.double()))
    (value, gradient), (expected, expected_gradient) = results
    return abs(value - expected), ((gradient - expected_gradient).norm() / expected_gradient.norm()).item()


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--precision", choices=["ieee", "tf32x3"], default="tf32x3", help="products in the CUDA kernels"
    )
    parser.add_argument("--parts", nargs="+", choices=("sizes", "views"), default=["sizes", "views"], help="CPU tables")
    parser.add_argument("--case", nargs=3, metavar=("METHOD", "N", "V"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(run_case(arguments.case[0], int(arguments.case[1]), int(arguments.case[2]))))
        return
    console = Console(width=160)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("ranking_loss: no CUDA device here; run without --device cuda")
    results: dict = on_cuda(console, arguments.precision) if arguments.device == "cuda" else {}
    if arguments.device == "cpu" and "sizes" in arguments.parts:
        results |= on_cpu(console)
    if arguments.device == "cpu" and "views" in arguments.parts:
        results |= {"views": over_views(console)}
    RESULTS.parent.mkdir(exist_ok=True)
    path = RESULTS.with_stem(f"ranking_loss_{arguments.device}")
    path.write_text(json.dumps({"processor": processor(), **results}, indent=2))
    console.print(f"Written to {path}")


if __name__ == "__main__":
    main()
