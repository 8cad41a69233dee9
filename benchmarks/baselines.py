"""Are our baselines weak? SimCLR and SwAV beside lightly's own losses and transforms: same encoder, pixels, optimizer.

    python benchmarks/baselines.py --data DATA --views 30000 --seeds 3

DATA holds cifar10_test.tar. Judged by kNN on half of the images. About a quarter of an hour on one core.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightly.loss import NTXentLoss, SwaVLoss
from lightly.models.modules import SwaVPrototypes
from lightly.transforms import SimCLRTransform, SwaVTransform
from PIL import Image
from torch import Tensor, nn

from s2r2.encoder import Encoder, create_encoder
from s2r2.images import open_source
from s2r2.study import TaskSpec, difference, figure
from s2r2.study.tasks import evaluate_task
from s2r2.training import TrainConfig, train
from s2r2.training.methods import resolve
from s2r2.training.optimizer import build_optimizer, learning_rate_at, set_learning_rate

SIZE = 32
SHARED: dict[str, Any] = {
    "backbone": "test_resnet", "image_size": SIZE, "head_hidden": 512, "threads": 1, "check_every": 1000
}  # fmt: skip
METHODS: dict[str, tuple[TrainConfig, float]] = {  # settings, views of full size an image costs
    "SimCLR": (TrainConfig(method="simclr", batch_size=256, **SHARED), 2.0),
    "SwAV": (TrainConfig(method="swav", batch_size=64, options={"freeze_epochs": 0}, **SHARED), 2 + 6 * (14 / 32) ** 2),
}


class Views(torch.utils.data.Dataset[Any]):
    """Images through a transform of lightly's."""

    def __init__(self, images: list[Image.Image], transform: Callable[[Image.Image], list[Tensor]]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.transform(self.images[index])


def batches(images: list[Image.Image], transform: Any, config: TrainConfig, steps: int) -> Iterator[list[Tensor]]:
    loader = torch.utils.data.DataLoader(Views(images, transform), config.batch_size, shuffle=True, drop_last=True)
    done = 0
    while done < steps:
        for batch in loader:
            if done == steps:
                return
            done += 1
            yield batch


def train_lightly(name: str, config: TrainConfig, images: list[Image.Image], steps: int) -> Encoder:
    """Their loss and transform, our encoder, optimizer and schedule."""
    torch.manual_seed(config.seed)
    encoder = create_encoder(config.backbone, image_size=SIZE, head_hidden=config.head_hidden)
    trained = nn.ModuleDict({"encoder": encoder})
    if name == "SimCLR":
        transform: Any = SimCLRTransform(input_size=SIZE)
        contrast = NTXentLoss(temperature=config.temperature)

        def loss_of(views: list[Tensor]) -> Tensor:
            first, second = encoder(torch.cat(views)).chunk(2)
            loss: Tensor = contrast(first, second)
            return loss
    else:
        transform = SwaVTransform(crop_sizes=(SIZE, 14))
        prototypes = trained["prototypes"] = SwaVPrototypes(128, config.batch_size)
        swapped = SwaVLoss(temperature=config.temperature, sinkhorn_epsilon=0.01)

        def loss_of(views: list[Tensor]) -> Tensor:
            prototypes.normalize()
            large = prototypes(encoder(torch.cat(views[:2]))).chunk(2)
            small = prototypes(encoder(torch.cat(views[2:]))).chunk(len(views) - 2)
            loss: Tensor = swapped(list(large), list(small))
            return loss

    optimizer = build_optimizer(trained, config.lr, config.weight_decay or 0.0)
    trained.train()
    for step, views in enumerate(batches(images, transform, config, steps)):
        set_learning_rate(optimizer, learning_rate_at(step, peak=config.lr, steps=steps, warmup=max(1, steps // 10)))
        optimizer.zero_grad()
        loss_of(views).backward()
        optimizer.step()
    return encoder.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--views", type=int, default=30_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/baselines.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = str(arguments.data / "cifar10_test.tar")
    source, task = open_source(path), TaskSpec(path, path)
    images = [Image.fromarray(source.read(i)) for i in range(len(source))]
    results = {}
    print(f"{arguments.views:,} encoded views, {arguments.seeds} seeds, kNN accuracy in per cent")
    print("| method | ours | lightly's | ours less lightly's |\n|---|---|---|---|")
    for name, (settings, cost) in METHODS.items():
        ours, theirs = [], []
        for seed in range(arguments.seeds):
            config = resolve(TrainConfig.from_dict({**settings.to_dict(), "seed": seed}))
            steps = round(arguments.views / (config.batch_size * cost))
            config = TrainConfig.from_dict({**config.to_dict(), "steps": steps})
            with tempfile.TemporaryDirectory() as folder:
                encoder = train(path, config, out=Path(folder) / "run", quiet=True).encoder
            ours.append(evaluate_task(encoder, task, held_out=0.5).scores["knn"])
            theirs.append(evaluate_task(train_lightly(name, config, images, steps), task, held_out=0.5).scores["knn"])
        targets = np.zeros(len(ours[0]), np.int64)
        gap, rows = difference(ours, theirs, targets), (figure(ours, targets), figure(theirs, targets))
        cells = [f"{100 * e.value:.1f} ±{100 * e.half_width:.1f}" for e in (*rows, gap)]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
        results[name] = {"ours": vars(rows[0]), "lightly": vars(rows[1]), "difference": vars(gap)}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
