"""Everything that waits for a GPU, in one command of less than ten minutes: is it right, how fast is it, what helps.

    python benchmarks/gpu_all.py                         on a GPU: tests, loss, feed
    python benchmarks/gpu_all.py --parts loss feed       some of it
    python benchmarks/gpu_all.py --dry                   all of it in small, on the CPU: does the script itself work?

* tests: the kernels against the definition (tests/losses/test_triton.py), compiled for this card.
* loss: the backends ``triton`` and ``triton-split`` beside each other, V = 8, D = 128, T = 0.05: median milliseconds of
  forward and backward, memory, and errors against float64 on 64 queries.
* feed: training steps on views from photos in memory. A constant tensor, which no feed can beat, comes first and last,
  so does the feed as it is, and between them one remedy at a time; then all of them. Traces of the first two are
  written for chrome://tracing, with the calls that took most of the host and of the card.

What has been measured is written after each part: gpu_all.json and gpu_all.md under --out. Past --minutes nothing new
is begun, and what is missing is named.
"""

import argparse
import contextlib
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import ranking_loss
from s2r2.encoder import create_encoder
from s2r2.losses import SmoothAPLoss, batch as assembling
from s2r2.training.optimizer import build_optimizer
from s2r2.views import ViewBatch, ViewLoader, get_recipe

HERE = Path(__file__).parent
VIEWS = 8
TESTS = "split_kernels_are_right or sizes1 or recall or gallery or options"


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    device: torch.device
    losses: tuple[int, ...]
    cases: tuple[tuple[str, int, int], ...]  # backbone, pixels, photos of a step
    photos: int
    warm: int
    steps: int
    precision: str
    tests: str


FULL = Size(
    torch.device("cuda"), (2048, 8192, 16384, 65536), (("resnet18", 96, 256), ("resnet18", 64, 128)),
    2048, 10, 40, "bf16-mixed", TESTS,
)  # fmt: skip
DRY = Size(torch.device("cpu"), (64,), (("test_resnet", 32, 4),), 16, 1, 2, "32-true", "recall and triton-split")


@dataclass
class Report:
    """What has been measured so far, on disk after every part."""

    out: Path
    deadline: float
    results: dict[str, Any] = field(default_factory=dict)

    def late(self, what: str) -> bool:
        """Whether there is no time to begin this; it is then named in the report."""
        if time.monotonic() < self.deadline:
            return False
        self.results.setdefault("left out", []).append(what)
        print(f"no time left for: {what}", flush=True)
        return True

    def write(self) -> None:
        """JSON, and the same as tables."""
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "gpu_all.json").write_text(json.dumps(self.results, indent=1))
        lines = [f"# {self.results['device']}, torch {self.results['torch']}", ""]
        for name, rows in self.results.items():
            if isinstance(rows, list) and rows and isinstance(rows[0], dict):
                columns = [key for key, value in rows[0].items() if not isinstance(value, list)]
                lines += [f"## {name}", "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
                lines += ["| " + " | ".join(_shown(row.get(key, "")) for key in columns) + " |" for row in rows]
                lines.append("")
        if "left out" in self.results:
            lines.append("Left out for want of time: " + ", ".join(self.results["left out"]))
        (self.out / "gpu_all.md").write_text("\n".join(lines))


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 0.01 else f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def run_tests(size: Size, report: Report) -> None:
    """The kernels' own tests, in a process of their own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"]
    command += [str(HERE.parent / "tests" / "losses" / "test_triton.py"), "-k", size.tests]
    left = max(30.0, min(240.0, report.deadline - time.monotonic()))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=left)
        said, passed = done.stdout.strip().splitlines()[-1:], done.returncode == 0
        said += [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    except subprocess.TimeoutExpired:
        said, passed = [f"not finished within {left:.0f} s"], False
    print(f"kernel tests: {'passed' if passed else 'NOT PASSED'}: {'; '.join(said)}", flush=True)
    report.results["tests"] = [{"tests": size.tests, "passed": str(passed), "said": "; ".join(said)}]


def loss_table(size: Size, report: Report) -> None:
    """Old and new kernels beside each other, in turns at each N."""
    rows = report.results["loss"] = []
    for n, backend in itertools.product(size.losses, ("triton", "triton-split")):
        if report.late(f"loss, {backend}, N = {n}"):
            continue
        z, groups = ranking_loss.make_batch(n, device=size.device.type)
        loss = SmoothAPLoss(ranking_loss.TEMPERATURE, backend=backend, distributed=False)

        def step(z: Tensor = z, groups: Tensor = groups, loss: SmoothAPLoss = loss) -> None:
            z.grad = None
            loss(z, groups).backward()

        step()  # compiles
        milliseconds, extra = _timed(step, size.device)
        value, gradient = ranking_loss.sampled_error(z.detach(), groups, backend)
        row = {"N": n, "backend": backend, "ms": milliseconds, "extra MiB": extra}
        rows.append(row | {"loss error": value, "gradient error": gradient})
        print(f"N {n:6,} {backend:12s} {milliseconds:8.1f} ms, errors {value:.1e} {gradient:.1e}", flush=True)


def _timed(step: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Median milliseconds of seven steps, and MiB that they needed; on a CPU of one step."""
    if device.type != "cuda":
        began = time.perf_counter()
        step()
        return 1000 * (time.perf_counter() - began), 0.0
    torch.cuda.reset_peak_memory_stats()
    before, taken = torch.cuda.memory_allocated(), []
    for _ in range(7):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        torch.cuda.synchronize()
        taken.append(begin.elapsed_time(end))
    return statistics.median(taken), (torch.cuda.max_memory_allocated() - before) / 2**20


class Photos:
    """Noise in memory: neither disk nor decoder is measured."""

    def __init__(self, count: int, height: int, width: int) -> None:
        shape = (min(count, 256), height, width, 3)
        self._pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        self.image_ids = np.arange(count, dtype=np.uint64)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._pixels[index % len(self._pixels)]


@dataclass(frozen=True)
class Way:
    """How a step is fed and taken; the defaults are those of ``s2r2 train``."""

    name: str
    constant: bool = False
    loader_threads: int | None = None
    torch_threads: int | None = None
    keep_relevance: bool = False
    own_stream: bool = False
    cudnn_benchmark: bool = False
    compiled: bool = False
    backend: str = "auto"
    traced: bool = False


def ways(dry: bool) -> list[Way]:
    """Baselines first and last, one remedy at a time between them, then all."""
    threads = max(1, (os.cpu_count() or 1) - 2)
    each: dict[str, dict[str, Any]] = {
        f"{threads} loader threads": {"loader_threads": threads},
        "one torch thread": {"torch_threads": 1},
        "positives kept on the device": {"keep_relevance": True},
        "copies on a stream of their own": {"own_stream": True},
        "cudnn.benchmark": {"cudnn_benchmark": True},
        "compile": {"compiled": True},
        "triton-split": {"backend": "triton-split"},
    }
    if dry:  # neither is there on a CPU
        del each["copies on a stream of their own"], each["triton-split"]
    together = {key: value for remedy in each.values() for key, value in remedy.items()}
    ends = [Way("constant tensor", constant=True), Way("views, as it is")]
    return [
        *(Way(way.name, way.constant, traced=True) for way in ends),
        *(Way(f"views, {name}", **remedy) for name, remedy in each.items()),
        Way("views, all of these", **together),
        Way("constant tensor, all of these", constant=True, **together),
        *(Way(f"{way.name}, again", way.constant) for way in ends),
    ]


def feed(way: Way, case: tuple[str, int, int], size: Size) -> Iterator[Tensor]:
    """Pixels of one step after the other."""
    _, side, images = case
    if way.constant:
        pixels = torch.randn(images * VIEWS, 3, side, side, device=size.device)
        yield from itertools.repeat(pixels.contiguous(memory_format=torch.channels_last))
    loader = ViewLoader(
        Photos(size.photos, side * 3 // 2, side * 2), get_recipe("photos"), view_size=side, views=VIEWS,
        batch_size=images, seed=0, device=size.device, threads=way.loader_threads,
    )  # fmt: skip
    with loader:
        batches = (batch for epoch in itertools.count() for batch in loader.epoch(epoch))
        if way.own_stream:
            yield from _on_own_stream(loader, batches)
        for batch in batches:
            yield batch.pixels[0]


def _on_own_stream(loader: ViewLoader, batches: Iterator[ViewBatch]) -> Iterator[Tensor]:
    """Copy and normalize a step's views while the step before computes."""
    stream, finish = torch.cuda.Stream(), loader._finish

    def finish_there(*step: Any) -> ViewBatch:
        with torch.cuda.stream(stream):
            return finish(*step)

    loader._finish = finish_there  # type: ignore[method-assign]
    ahead: tuple[Tensor, torch.cuda.Event] | None = None
    for batch in batches:
        event = torch.cuda.Event()
        event.record(stream)
        now, ahead = ahead, (batch.pixels[0], event)
        if now is not None:
            torch.cuda.current_stream().wait_event(now[1])
            now[0].record_stream(torch.cuda.current_stream())
            yield now[0]


@contextlib.contextmanager
def applied(way: Way, device: torch.device) -> Iterator[None]:
    """The remedies that are settings of the process."""
    find, threads, kept = assembling.find_relevant, torch.get_num_threads(), {}

    def find_once(wanted: Tensor, *arguments: Any, **options: Any) -> Any:
        if len(wanted) not in kept:  # no photo is missing here: groups are the same in every step
            kept[len(wanted)] = find(wanted, *arguments, **options).to(device)
        return kept[len(wanted)]

    if way.torch_threads:
        torch.set_num_threads(way.torch_threads)
    if way.keep_relevance:
        assembling.find_relevant = find_once
    torch.backends.cudnn.benchmark = way.cudnn_benchmark
    try:
        yield
    finally:
        assembling.find_relevant = find
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = False


def train(way: Way, case: tuple[str, int, int], size: Size, out: Path) -> dict[str, Any]:
    """Views a second of real training steps, and where the host spent them."""
    backbone, side, images = case
    torch.compiler.reset()
    fabric = Fabric(accelerator=size.device.type, devices=1, precision=size.precision)
    encoder = create_encoder(backbone, image_size=side).to(size.device, memory_format=torch.channels_last)
    model: Any = encoder
    if way.compiled:
        model = torch.compile(encoder, dynamic=False, backend="inductor" if size is FULL else "eager")
    model, optimizer = fabric.setup(model, build_optimizer(encoder, 1e-3, 0.01))
    model.train()
    loss = SmoothAPLoss(0.05, backend=way.backend, check_finite=False, distributed=False)
    groups, pixels = torch.arange(images).repeat_interleave(VIEWS), feed(way, case, size)
    waiting, launching = [], []

    def step() -> None:
        began = time.perf_counter()
        views = next(pixels)
        there = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss(model(views), groups))
        optimizer.step()
        waiting.append(there - began)
        launching.append(time.perf_counter() - there)

    for _ in range(size.warm):
        step()
    _wait(size.device)
    del waiting[:], launching[:]
    began = time.perf_counter()
    for _ in range(size.steps):
        step()
    _wait(size.device)
    rate = size.steps * len(groups) / (time.perf_counter() - began)
    found = {"case": f"{backbone} at {side} px, {images} photos", "way": way.name, "views/s": rate}
    found |= {"ms for views": 1000 * statistics.median(waiting), "ms to launch": 1000 * statistics.median(launching)}
    if way.traced:
        found["calls"] = _trace(
            step, size.device, out / f"trace_{side}px_{'constant' if way.constant else 'views'}.json"
        )
    pixels.close()  # type: ignore[attr-defined]
    return found


def _trace(step: Callable[[], None], device: torch.device, path: Path) -> list[dict[str, Any]]:
    """Five steps for chrome://tracing; the calls that took most of the host's and of the device's time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as trace:
        for _ in range(5):
            step()
        _wait(device)
    trace.export_chrome_trace(str(path))
    averages = trace.key_averages()
    calls = []
    for kind in ("self_cpu_time_total", "self_device_time_total"):
        for entry in sorted(averages, key=lambda e, kind=kind: -getattr(e, kind))[:12]:
            milliseconds = getattr(entry, kind) / 5000
            calls.append({"time": kind, "call": entry.key, "ms a step": milliseconds, "count": entry.count / 5})
    return calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def feed_table(size: Size, report: Report) -> None:
    """Every case in every way."""
    rows = report.results["feed"] = []
    for case, way in itertools.product(size.cases, ways(size is DRY)):
        name = f"{case[0]} at {case[1]} px, {way.name}"
        if report.late(name):
            continue
        with applied(way, size.device):
            rows.append(train(way, case, size, report.out))
        found = rows[-1]
        waited = f"{found['ms for views']:.1f} ms for views, {found['ms to launch']:.1f} to launch"
        print(f"{name:60s} {found['views/s']:9,.0f} views/s; {waited}", flush=True)


PARTS: dict[str, Callable[[Size, Report], None]] = {"tests": run_tests, "loss": loss_table, "feed": feed_table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=9, help="begin nothing new after these")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu_all")
    parser.add_argument("--dry", action="store_true", help="small, on the CPU, kernels by triton's interpreter")
    arguments = parser.parse_args()
    size = DRY if arguments.dry else FULL
    if arguments.dry and os.environ.get("TRITON_INTERPRET") != "1":  # read when torch imports triton: begin again
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"TRITON_INTERPRET": "1"})
    if not arguments.dry and not torch.cuda.is_available():
        raise SystemExit("gpu_all: no CUDA device here; --dry runs it in small on the CPU")
    report = Report(arguments.out, time.monotonic() + 60 * arguments.minutes)
    name = "CPU, a dry run: its times say nothing" if arguments.dry else torch.cuda.get_device_name()
    report.results |= {"device": name, "torch": re.sub(r"\+.*", "", torch.__version__)}
    for part in arguments.parts:
        PARTS[part](size, report)
        report.write()
    print(f"Written to {arguments.out / 'gpu_all.md'}")


if __name__ == "__main__":
    main()
