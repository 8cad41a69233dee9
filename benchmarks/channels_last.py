"""Does a backbone gain from the layout ``channels_last`` on a CPU?

The same encoder, once as torch makes it and once in ``channels_last``, takes the same pixels: forward and backward as
in training, and forward as in embedding. Both layouts take turns in one process; the ratio of each pair counts, in CPU
time of one thread, so that other programs on the machine matter little. Features must be equal to rounding.

    python benchmarks/channels_last.py [BACKBONE@SIZE ...]
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from s2r2.encoder import Encoder, create_encoder
from s2r2.encoder.backbones import gains_from_channels_last

RESULTS = Path(__file__).parent / "results" / "channels_last.json"
BACKBONES = (
    "resnet18@96", "resnet18@32", "resnet50@96", "lcnet_050@64", "mobilenetv3_small_100@96", "efficientnet_b0@96",
    "regnety_002@96", "convnext_atto@96",
)  # fmt: skip


def seconds(action: Callable[[Encoder, Tensor], Any], encoder: Encoder, pixels: Tensor, layout: Any) -> float:
    """CPU time of one thread."""
    began = time.process_time()
    action(encoder, pixels.contiguous(memory_format=layout))
    return time.process_time() - began


def step(encoder: Encoder, pixels: Tensor) -> None:
    """Forward and backward."""
    encoder.zero_grad(set_to_none=True)
    (encoder(pixels) * torch.arange(1.0, 1 + encoder.dimensions("embedding"))).sum().backward()


@torch.inference_mode()
def embed(encoder: Encoder, pixels: Tensor) -> Tensor:
    """Features, as in embedding."""
    return torch.nn.functional.normalize(encoder.features(pixels), dim=1)


def measure(name: str, images: int, pairs: int) -> dict[str, Any]:
    """Ratios of one backbone: above 1 where channels_last is faster."""
    backbone, _, size = name.partition("@")
    torch.manual_seed(0)
    plain = create_encoder(backbone, image_size=int(size)).to(memory_format=torch.contiguous_format)
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    pixels = torch.randn(images, 3, int(size), int(size))
    rows: dict[str, Any] = {"backbone": name, "rule": gains_from_channels_last(plain.backbone)}
    for what, action in (("training", step), ("embedding", embed)):
        for encoder in (plain, last):
            encoder.train(what == "training")
        ratios = []
        for pair in range(pairs + 1):
            before = seconds(action, plain, pixels, torch.contiguous_format)
            after = seconds(action, last, pixels, torch.channels_last)
            ratios += [before / after] if pair else []  # the first pair chooses kernels
        rows[what] = statistics.median(ratios)
        rows[f"{what}_range"] = [min(ratios), max(ratios)]
    for encoder in (plain, last):
        encoder.load_state_dict(plain.state_dict())
        encoder.eval()
    rows["difference"] = float((embed(plain, pixels) - embed(last, pixels)).abs().max())
    return rows


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="*", default=BACKBONES)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("backbone", "rule", "training", "embedding", "largest difference")
    results = []
    for name in arguments.backbones:
        row = measure(name, arguments.images, arguments.pairs)
        results.append(row)
        cells = [
            f"{row[w]:.2f} [{row[w + '_range'][0]:.2f}, {row[w + '_range'][1]:.2f}]" for w in ("training", "embedding")
        ]
        print(name, row["rule"], *cells, f"{row['difference']:.1g}", flush=True)
        table.add_row(name, "channels_last" if row["rule"] else "as it is", *cells, f"{row['difference']:.1g}")
    Console().print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"torch": torch.__version__, "rows": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
