"""Does the encoder wait for views? Training from photos, from one constant tensor, and with lightly's transforms.

    python benchmarks/training.py --data tiny_imagenet_100_train.tar   ResNet-18 at 96 px, lcnet_050 at 64 px (5 min)
    python benchmarks/training.py --data PHOTOS --device cuda          ResNet-18 at 96 px, ResNet-50 at 224 px, bf16

The same encoder, loss (SmoothAPLoss over all views) and optimizer are fed in three ways: with a constant tensor (the
most that any loader could give), with s2r2's pixel store and ViewLoader, and with lightly's SimCLRTransform in a torch
DataLoader with as many workers as there are cores, which decodes each photo once a step and makes its V = 8 views.
Views a second after some steps to fill the queues; rounds interleaved, the ratio is the median of the rounds'.
"""

import argparse
import io
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from s2r2.encoder import create_encoder, store_side
from s2r2.images import PixelStore, open_source
from s2r2.images.places import FilePlace
from s2r2.losses import SmoothAPLoss
from s2r2.training.optimizer import build_optimizer
from s2r2.views import ViewLoader, get_recipe

RESULTS = Path(__file__).parent / "results" / "training.json"
VIEWS = 8


@dataclass(frozen=True)
class Case:
    backbone: str
    image_size: int
    batch_size: int  # images


CPU_CASES = [Case("resnet18", 96, 16), Case("lcnet_050", 64, 64)]
CUDA_CASES = [Case("resnet18", 96, 256), Case("resnet50", 224, 32)]


class LightlyPhotos(torch.utils.data.Dataset):
    """Photos decoded when asked for, and V views of each, as lightly's users have it."""

    def __init__(self, places: list[FilePlace], image_size: int) -> None:
        from lightly.transforms import SimCLRTransform

        self.places = places
        self.transform = SimCLRTransform(input_size=image_size)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Tensor:
        photo = Image.open(io.BytesIO(self.places[index].read())).convert("RGB")
        return torch.stack([view for _ in range(VIEWS // 2) for view in self.transform(photo)])


def constant(case: Case, device: torch.device) -> Iterator[Tensor]:
    pixels = torch.randn(case.batch_size * VIEWS, 3, case.image_size, case.image_size, device=device)
    return itertools.repeat(pixels)


def ours(case: Case, store: PixelStore, device: torch.device) -> Iterator[Tensor]:
    loader = ViewLoader(
        store, get_recipe("photos"), view_size=case.image_size, views=VIEWS, batch_size=case.batch_size, seed=0,
        device=device,
    )  # fmt: skip
    with loader:
        for epoch in itertools.count():
            for batch in loader.epoch(epoch):
                yield batch.pixels[0]


def with_lightly(case: Case, data: str, device: torch.device) -> Iterator[Tensor]:
    source = open_source(data)
    places = [place for i in range(len(source)) if isinstance(place := source.place(i), FilePlace)]
    loader = torch.utils.data.DataLoader(
        LightlyPhotos(places, case.image_size), batch_size=case.batch_size, shuffle=True, drop_last=True,
        num_workers=os.cpu_count() or 1, pin_memory=device.type == "cuda", persistent_workers=True,
    )  # fmt: skip
    while True:
        for views in loader:
            yield views.flatten(0, 1).to(device, non_blocking=True)


def speed(case: Case, feed: Iterator[Tensor], device: torch.device, warm: int, steps: int) -> float:
    """Views a second of real training steps."""
    precision = "bf16-mixed" if device.type == "cuda" else "32-true"
    fabric = Fabric(accelerator=device.type, devices=1, precision=precision)
    encoder = create_encoder(case.backbone, image_size=case.image_size)
    order = torch.channels_last if device.type == "cuda" else torch.contiguous_format  # as in s2r2 train
    encoder.to(device, memory_format=order)
    model, optimizer = fabric.setup(encoder, build_optimizer(encoder, 1e-3, 0.01))
    model.train()
    loss_function = SmoothAPLoss(0.05, check_finite=False)
    groups = torch.arange(case.batch_size).repeat_interleave(VIEWS)
    start = 0.0
    for step in range(warm + steps):
        if step == warm:
            _wait(device)
            start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss_function(model(next(feed).contiguous(memory_format=order)), groups))
        optimizer.step()
    _wait(device)
    taken = time.perf_counter() - start
    if hasattr(feed, "close"):
        feed.close()
    return steps * len(groups) / taken


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(case: Case, data: str, device: torch.device, rounds: int, scratch: Path) -> dict[str, object]:
    store = PixelStore.build(open_source(data), store_side(case.image_size), scratch, progress=False)
    feeds: dict[str, Callable[[], Iterator[Tensor]]] = {
        "constant": lambda: constant(case, device),
        "s2r2": lambda: ours(case, store, device),
        "lightly": lambda: with_lightly(case, data, device),
    }
    warm, steps = (8, 24) if device.type == "cuda" else (4, 12)
    speeds: dict[str, list[float]] = {name: [] for name in feeds}
    for _ in range(rounds):
        for name, feed in feeds.items():
            speeds[name].append(speed(case, feed(), device, warm, steps))
    ratios = {
        name: statistics.median(own / other for own, other in zip(speeds["s2r2"], speeds[name], strict=True))
        for name in ("constant", "lightly")
    }
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    return {"case": f"{case.backbone} at {case.image_size} px", "views_per_second": medians, "ratio": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="photos: folder, tar or manifest")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    cases = CUDA_CASES if device.type == "cuda" else CPU_CASES
    table = Table(title=f"Training, views a second, V = {VIEWS}, {os.cpu_count()} cores")
    for column in ("encoder", "constant tensor", "s2r2", "lightly", "s2r2 / constant", "s2r2 / lightly"):
        table.add_column(column, justify="right")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for case in cases:
            row = measure(case, arguments.data, device, arguments.rounds, Path(scratch))
            rows.append(row)
            speeds, ratio = row["views_per_second"], row["ratio"]
            cells = [f"{speeds[name]:.0f}" for name in ("constant", "s2r2", "lightly")]  # type: ignore[index]
            table.add_row(str(row["case"]), *cells, f"{ratio['constant']:.2f}", f"{ratio['lightly']:.2f}")  # type: ignore[index]
    Console(width=120).print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
