"""What one GPU does: ResNet-50 at 224 px in bf16, the loss's share of a large step, the largest step.

    python benchmarks/gpu.py                         about four minutes on an H100
    python benchmarks/gpu.py --parts speed loss      some of it: speed, loss, largest

The encoder, optimizer, precision and memory layout are those of ``s2r2 train``; the views are one constant tensor, so
that nothing but the GPU is measured (benchmarks/training.py has the same with photos). V = 8.
"""

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from s2r2.encoder import create_encoder
from s2r2.losses import SmoothAPLoss, cached_backward
from s2r2.training.optimizer import build_optimizer

RESULTS = Path(__file__).parent / "results" / "gpu.json"
VIEWS, SLICE = 8, 256
AT_ONCE = (512, 768, 1024, 1280, 1536, 1664, 1792, 1920, 2048, 2560, 3072)
CACHED = (8_192, 32_768, 65_536, 98_304, 131_072, 196_608)
DEVICE = torch.device("cuda")


class Trainer:
    """An encoder that takes steps on a constant batch."""

    def __init__(self, backbone: str, image_size: int, compiled: bool = False) -> None:
        self.image_size = image_size
        fabric = Fabric(accelerator="cuda", devices=1, precision="bf16-mixed")
        encoder = create_encoder(backbone, image_size=image_size).to(DEVICE, memory_format=torch.channels_last)
        model: Any = torch.compile(encoder, dynamic=False) if compiled else encoder
        self.fabric, self.encoder = fabric, encoder
        self.model, self.optimizer = fabric.setup(model, build_optimizer(encoder, 1e-3, 0.01))
        self.model.train()
        self.loss = SmoothAPLoss(0.1, check_finite=False)
        self.loss_seconds: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def pixels(self, count: int) -> Tensor:
        shape = (count, 3, self.image_size, self.image_size)
        return torch.randn(shape, device=DEVICE).contiguous(memory_format=torch.channels_last)

    def step(self, pixels: Tensor, slices: int = 0) -> None:
        groups = torch.arange(len(pixels) // VIEWS).repeat_interleave(VIEWS)
        self.optimizer.zero_grad(set_to_none=True)
        if slices:
            loss = lambda z: self.loss(z, groups)  # noqa: E731
            cached_backward(self.model, pixels, loss, micro_batch=slices, backward=self.fabric.backward)
        else:
            self.fabric.backward(self.loss(self.model(pixels), groups))
        self.optimizer.step()


def seconds(action: Callable[[], None], repeats: int) -> float:
    """Median over some repeats, by the device's clock."""
    taken = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        action()
        end.record()
        torch.cuda.synchronize()
        taken.append(begin.elapsed_time(end) / 1000)
    return statistics.median(taken)


class Utilisation:
    """Samples the share of time in which the GPU had work, as nvidia-smi gives it."""

    def __enter__(self) -> "Utilisation":
        self.samples: list[int] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._end.wait(0.2):
            self.samples.append(torch.cuda.utilization())

    def __exit__(self, *details: object) -> None:
        self._end.set()
        self._thread.join()


def speed(console: Console) -> list[dict[str, Any]]:
    table = Table(title="Training steps, bf16, V = 8, constant views")
    for column in (
        "encoder",
        "views a step",
        "compiled",
        "views/s",
        "peak GiB",
        "utilisation",
        "TFLOP/s",
        "first step s",
    ):
        table.add_column(column, justify="right")
    rows = []
    for backbone, size, count in (("resnet50", 224, 512), ("resnet18", 96, 4096), ("vit_small_patch16_224", 224, 512)):
        for compiled in (False, True):
            torch.cuda.empty_cache()
            torch.compiler.reset()
            trainer = Trainer(backbone, size, compiled)
            pixels = trainer.pixels(count)
            began = time.perf_counter()
            trainer.step(pixels)
            torch.cuda.synchronize()
            first = time.perf_counter() - began
            for _ in range(5):
                trainer.step(pixels)
            torch.cuda.reset_peak_memory_stats()
            with Utilisation() as utilisation:
                step = seconds(lambda t=trainer, p=pixels: t.step(p), 15)
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                trainer.encoder(pixels[:8])
            work = 3 * counter.get_total_flops() * count / 8  # backward costs twice the forward pass
            row = {
                "encoder": f"{backbone}, {size} px", "views": count, "compiled": compiled,
                "views_per_second": count / step,
                "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
                "utilisation": statistics.mean(utilisation.samples or [0]), "first": first,
                "tflops": work / step / 1e12,
            }  # fmt: skip
            rows.append(row)
            table.add_row(
                row["encoder"], f"{count:,}", "yes" if compiled else "no", f"{row['views_per_second']:,.0f}",
                f"{row['peak_gib']:.1f}", f"{row['utilisation']:.0f} %", f"{row['tflops']:.0f}", f"{first:.1f}",
            )  # fmt: skip
            del trainer, pixels
    console.print(table)
    return rows


def loss_share(console: Console) -> list[dict[str, Any]]:
    table = Table(title="The ranking of 8,192 views in a step")
    for column in ("encoder", "slices of", "step ms", "loss ms", "share"):
        table.add_column(column, justify="right")
    z = torch.nn.functional.normalize(torch.randn(8192, 128, device=DEVICE), dim=1).requires_grad_()
    groups = torch.arange(1024).repeat_interleave(VIEWS)
    loss = SmoothAPLoss(0.1, check_finite=False)
    loss(z, groups).backward()
    loss_seconds = seconds(lambda: loss(z, groups).backward(), 10)
    rows = []
    for backbone, size, slices in (("resnet50", 224, SLICE), ("resnet18", 96, 0)):
        trainer = Trainer(backbone, size)
        pixels = trainer.pixels(8192)
        trainer.step(pixels, slices)
        step = seconds(lambda t=trainer, p=pixels, s=slices: t.step(p, s), 3)
        rows.append({"encoder": f"{backbone}, {size} px", "step": step, "loss": loss_seconds, "slices": slices})
        table.add_row(
            rows[-1]["encoder"], str(slices or "none"), f"{1000 * step:,.0f}", f"{1000 * loss_seconds:.1f}",
            f"{loss_seconds / step:.2%}",
        )  # fmt: skip
        del trainer, pixels
        torch.cuda.empty_cache()
    console.print(table)
    return rows


def largest(console: Console, most: int) -> dict[str, Any]:
    """Views of ResNet-50 at 224 px in one step, at once and through the gradient cache."""
    trainer = Trainer("resnet50", 224)
    at_once = 0
    for count in AT_ONCE:
        try:
            trainer.step(trainer.pixels(count))
            at_once = count
        except torch.OutOfMemoryError:
            break
    trainer.optimizer.zero_grad(set_to_none=True)
    cached: list[dict[str, float]] = []
    for count in (size for size in CACHED if size <= most):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            shape = (count, 3, 224, 224)
            pixels = torch.empty(shape, device=DEVICE, memory_format=torch.channels_last).normal_()
            taken = seconds(lambda p=pixels: trainer.step(p, SLICE), 1)
        except torch.OutOfMemoryError:
            break
        cached.append({"views": count, "seconds": taken, "gib": torch.cuda.max_memory_allocated() / 2**30})
        del pixels
    console.print(f"ResNet-50 at 224 px: largest step at once {at_once:,} views; in slices of {SLICE}:")
    for row in cached:
        console.print(f"  {row['views']:,.0f} views, {row['seconds']:.1f} s, peak {row['gib']:.1f} GiB")
    return {"at_once": at_once, "cached": cached}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", nargs="+", choices=("speed", "loss", "largest"), default=["speed", "loss", "largest"]
    )
    parser.add_argument("--most", type=int, default=CACHED[-1], help="largest step to try through the gradient cache")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("gpu: no CUDA device here")
    console = Console(width=140)
    console.print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    results: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    parts: dict[str, Callable[[], Any]] = {
        "speed": lambda: speed(console), "loss": lambda: loss_share(console),
        "largest": lambda: largest(console, arguments.most),
    }  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    for name in arguments.parts:
        results[name] = parts[name]()
        RESULTS.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
