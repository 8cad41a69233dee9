"""How good is an encoder after so many minutes of training from nothing? It is what ``--minutes`` chooses by.

    python benchmarks/quality_per_minute.py --data FOLDER                     all cells, 3, 10 and 30 minutes each
    python benchmarks/quality_per_minute.py --data FOLDER --minutes 3 --cells minutes "test_resnet*" raw_pixels

FOLDER holds intel_scenes_train_a.tar and intel_scenes_test.tar. Each cell is trained in a process of its own on the
training photos, without labels, for the same time; then kNN (20 neighbors, cosine) and a linear probe learn from the
training labels and are judged on the test photos, and mAP ranks the test photos among themselves. Rows are added to the
JSON file as they come; an interrupted run continues with those that are missing.

Where other programs use the machine, ``--cpu-time`` counts the process's CPU seconds instead of the clock's, over
``--threads``, and torch computes with one thread: what a quiet machine with as many cores gives at best.

``--lightly-train PYTHON`` adds lightly-train's SimCLR, in an environment of its own with lightly-train and timm, and
cells named lightly the loss and transforms of lightly, on the same encoder and for the same time. Views per second are
counted over that time.
"""

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

import s2r2
from s2r2.encoder import create_encoder, store_side
from s2r2.evaluation import fit_linear_probe, knn_accuracy, retrieval_metrics
from s2r2.evaluation.protocols.raw_pixels import raw_pixel_features
from s2r2.images import PixelStore, open_source
from s2r2.training.config import read_config
from s2r2.training.methods import resolve
from s2r2.training.optimizer import build_optimizer, learning_rate_at, set_learning_rate

RESULTS = Path(__file__).parent / "results" / "quality_per_minute.json"
TRAIN, TEST = "intel_scenes_train_a.tar", "intel_scenes_test.tar"
SEED = 0
PEERS_BATCH, LIGHTLY_TRIAL = 256, 0.5  # minutes
SMALL = {"backbone": "test_resnet"}
CELLS: dict[str, dict[str, Any]] = {
    "raw_pixels": {},
    "untrained": {**SMALL, "image_size": 32},
    "minutes": {},
    "test_resnet 32": {**SMALL, "image_size": 32},
    "test_resnet 40": {**SMALL, "image_size": 40},
    "test_resnet 48": {**SMALL, "image_size": 48},
    "test_resnet 64": {**SMALL, "image_size": 64},
    "test_resnet 32 lr .006": {**SMALL, "image_size": 32, "lr": 0.006},
    "test_resnet 32 spread": {**SMALL, "image_size": 32, "options": {"spread": 1.0}},
    "test_resnet 32 spread lr .006": {**SMALL, "image_size": 32, "options": {"spread": 1.0}, "lr": 0.006},
    "resnet10t 32 spread lr .006": {"backbone": "resnet10t", "image_size": 32, "options": {"spread": 1.0}, "lr": 0.006},
    "test_resnet 64 spread lr .006": {**SMALL, "image_size": 64, "options": {"spread": 1.0}, "lr": 0.006},
    "test_resnet 48 spread lr .006": {**SMALL, "image_size": 48, "options": {"spread": 1.0}, "lr": 0.006},
    "test_resnet 32 photos": {**SMALL, "image_size": 32, "recipe": "photos"},
    "test_resnet 32 mild": {**SMALL, "image_size": 32, "recipe": "mild"},
    "test_resnet 32 photos 4 views": {**SMALL, "image_size": 32, "recipe": "photos", "views": 4, "batch_size": 128},
    "test_resnet 32 photos spread lr .006": {
        **SMALL, "image_size": 32, "recipe": "photos", "options": {"spread": 1.0}, "lr": 0.006,
    },
    "test_resnet 32 batch 32": {**SMALL, "image_size": 32, "batch_size": 32},
    "test_resnet 32 batch 128": {**SMALL, "image_size": 32, "batch_size": 128},
    "resnet10t 32": {"backbone": "resnet10t", "image_size": 32},
    "resnet18 32": {"backbone": "resnet18", "image_size": 32},
    "resnet18 64": {"backbone": "resnet18", "image_size": 64},
    "lcnet_050 64": {"backbone": "lcnet_050", "image_size": 64},
    "lcnet_050 96": {"backbone": "lcnet_050", "image_size": 96},
    "mobilenetv3_small_050 64": {"backbone": "mobilenetv3_small_050", "image_size": 64},
    "convnext_atto 64": {"backbone": "convnext_atto", "image_size": 64},
    "test_resnet 32 simclr": {**SMALL, "image_size": 32, "method": "simclr"},
    "lightly": {**SMALL, "image_size": 32},
    "lightly-train": {**SMALL, "image_size": 32},
    "lightly resnet18 64": {"backbone": "resnet18", "image_size": 64},
    "lightly-train resnet18 64": {"backbone": "resnet18", "image_size": 64},
}  # fmt: skip
LEFT_TO_MINUTES = ("minutes", "resnet18 64")
"""Cells in which ``--minutes`` chooses what is not given; the others are as s2r2 trains without it."""


def clock_of(arguments: argparse.Namespace) -> Callable[[], float]:
    """Seconds: the clock's, or the processor's as if it were shared by so many threads."""
    if arguments.cpu_time:
        return lambda: time.process_time() / arguments.threads
    return time.monotonic


def judge(train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> dict[str, float]:
    """The three figures in percent, of features with rows of length 1."""
    probe = fit_linear_probe(train, train_labels)
    return {
        "knn": 100 * knn_accuracy(train, train_labels, test, test_labels),
        "linear": 100 * float((probe.predict(test) == test_labels).mean()),
        "map": 100 * retrieval_metrics(test, test_labels).mean_average_precision,
    }


def stores(data: Path, side: int, scratch: Path) -> tuple[PixelStore, PixelStore, np.ndarray, np.ndarray]:
    """Training and test photos of about so many pixels, and the names of their classes."""
    train, test = (PixelStore.build(open_source(data / tar), side, scratch, progress=False) for tar in (TRAIN, TEST))
    return train, test, *(np.array(store.labels.names)[store.labels.single] for store in (train, test))  # type: ignore


def run_cell(name: str, minutes: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and judge one cell, in this process."""
    torch.set_num_threads(1 if arguments.cpu_time else arguments.threads)
    settings = dict(CELLS[name])
    row: dict[str, Any] = {}
    clock, began = clock_of(arguments), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if name == "raw_pixels":
            train, test, *labels = stores(arguments.data, 32, arguments.store)
            rows = raw_pixel_features(train, test, 32)
        else:
            if name == "untrained":
                encoder = create_encoder(**settings)
            elif name.startswith("lightly-train"):
                encoder, report = with_lightly_train(settings, minutes, folder, arguments)
                row |= {**report, "views_in_step": 2 * PEERS_BATCH}
            elif name.startswith("lightly"):
                encoder, row["steps"] = with_lightly(settings, 60 * minutes, clock, arguments)
                row["views_in_step"] = 2 * PEERS_BATCH
            else:
                given = settings if name in LEFT_TO_MINUTES else {"lr": 0.0, "options": {}, **settings}
                config = s2r2.TrainConfig(
                    **given, minutes=minutes, store=arguments.store, threads=arguments.threads, seed=SEED
                )
                result = s2r2.train(arguments.data / TRAIN, config, out=folder / "run", clock=clock)
                encoder, row["steps"] = result.encoder, result.steps
                chosen = resolve(read_config(result.folder)[0])
                row["views_in_step"] = chosen.batch_size * chosen.views
            encoder.eval()
            train, test, *labels = stores(arguments.data, store_side(encoder.image_size), arguments.store)
            rows = [encoder.embed(store) for store in (train, test)]
    row["seconds"] = time.monotonic() - began
    return {**row, **judge(rows[0], labels[0], rows[1], labels[1])}


def with_lightly(
    settings: dict[str, Any], seconds: float, clock: Callable[[], float], arguments: argparse.Namespace
) -> tuple[s2r2.Encoder, int]:
    """SimCLR as lightly's users have it: its transform in a DataLoader and its loss, on photos decoded before."""
    from lightly.loss import NTXentLoss
    from lightly.transforms import SimCLRTransform

    size, batch = settings["image_size"], PEERS_BATCH
    photos = stores(arguments.data, store_side(size), arguments.store)[0]
    transform = SimCLRTransform(input_size=size)

    class Photos(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(photos)

        def __getitem__(self, index: int) -> Any:
            return torch.stack(transform(Image.fromarray(np.asarray(photos[index]))))

    loader = torch.utils.data.DataLoader(
        Photos(), batch_size=batch, shuffle=True, drop_last=True,
        num_workers=0 if arguments.cpu_time else arguments.threads, persistent_workers=not arguments.cpu_time,
    )  # fmt: skip
    torch.manual_seed(SEED)
    encoder, loss_function = create_encoder(**settings), NTXentLoss(0.2)
    optimizer, began, step = build_optimizer(encoder, 2e-3, 0.01), clock(), 0
    encoder.train()
    while (progress := (clock() - began) / seconds) < 1:
        for views in loader:
            progress = (clock() - began) / seconds
            if progress >= 1:
                break
            rate = learning_rate_at(round(1000 * progress), peak=2e-3, steps=1000, warmup=100)
            set_learning_rate(optimizer, rate)
            optimizer.zero_grad(set_to_none=True)
            first, second = encoder(views.transpose(0, 1).flatten(0, 1)).chunk(2)
            loss_function(first, second).backward()
            optimizer.step()
            step += 1
    return encoder, step


_LIGHTLY_TRAIN = """
import json, sys, time, lightly_train, torch
data, out, backbone, size, threads, batch, epochs, minutes = sys.argv[1:]
began = time.monotonic()
lightly_train.pretrain(
    out=out, data=data, model="timm/" + backbone, method="simclr", epochs=int(epochs), batch_size=int(batch),
    accelerator="cpu", devices=1, num_workers=int(threads), transform_args={"image_size": (int(size), int(size))},
    trainer_args={"max_time": {"minutes": float(minutes)}},
)
seconds = time.monotonic() - began
checkpoint = out + "/checkpoints/last.ckpt"
lightly_train.export(out=out + "/weights.pt", checkpoint=checkpoint, part="model", format="torch_state_dict")
steps = torch.load(checkpoint, weights_only=False)["global_step"]
open(out + "/report.json", "w").write(json.dumps({"steps": steps, "trained_seconds": seconds}))
"""


def with_lightly_train(
    settings: dict[str, Any], minutes: float, folder: Path, arguments: argparse.Namespace
) -> tuple[s2r2.Encoder, dict[str, Any]]:
    """lightly-train's SimCLR in its own environment; its backbone's weights, in our encoder; steps and seconds.

    Its learning rate falls over a number of epochs: as many as the time allows, by a trial of half a minute.
    """
    with tarfile.open(arguments.data / TRAIN) as tar:
        tar.extractall(folder / "photos", filter="data")
        photos = sum(member.isfile() for member in tar.getmembers())

    def pretrain(name: str, epochs: int, limit: float) -> dict[str, Any]:
        words = [folder / "photos", folder / name, settings["backbone"], settings["image_size"], arguments.threads]
        script = [arguments.lightly_train, "-c", _LIGHTLY_TRAIN, *map(str, [*words, PEERS_BATCH, epochs, limit])]
        subprocess.run(script, check=True, stdout=sys.stderr)
        return json.loads((folder / name / "report.json").read_text(encoding="utf-8"))

    trial = pretrain("trial", 1000, LIGHTLY_TRIAL)
    epochs = max(1, round(trial["steps"] / LIGHTLY_TRIAL * minutes / (photos // PEERS_BATCH)))
    report = pretrain("out", epochs, 1.2 * minutes)
    encoder = create_encoder(**settings)
    state = torch.load(folder / "out" / "weights.pt", weights_only=True)
    found = encoder.backbone.load_state_dict(state, strict=False)
    assert not found.missing_keys, found.missing_keys
    return encoder, {**report, "epochs": epochs}


def missing(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    """Cells that have no row yet."""
    there = {(row["cell"], row["minutes"], row["cpu_time"]) for row in rows}
    for minutes in arguments.minutes:
        for name in CELLS:
            wanted = any(fnmatch.fnmatch(name, pattern) for pattern in arguments.cells)
            untimed = name in ("raw_pixels", "untrained") and minutes != arguments.minutes[0]
            foreign = name.startswith("lightly-train") and (arguments.lightly_train is None or arguments.cpu_time)
            if wanted and not untimed and not foreign and (name, minutes, arguments.cpu_time) not in there:
                yield name, minutes


def views_per_second(row: dict[str, Any]) -> str:
    """Of all sizes, over the time of training."""
    return f"{row['steps'] * row['views_in_step'] / row.get('trained_seconds', 60 * row['minutes']):.0f}"


def show(rows: list[dict[str, Any]]) -> None:
    """The table."""
    table = Table("cell", "minutes", "steps", "views/s", "kNN", "linear", "mAP", "load")
    for row in sorted(rows, key=lambda row: (row["minutes"], -row["knn"])):
        figures = [f"{row[name]:.1f}" for name in ("knn", "linear", "map")]
        minutes = f"{row['minutes']:g}" + (" of CPU" if row["cpu_time"] else "")
        views = views_per_second(row) if "views_in_step" in row else ""
        table.add_row(row["cell"], minutes, str(row.get("steps", "")), views, *figures, f"{row['load']:.1f}")
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("S2R2_DATA"), help="by default $S2R2_DATA")
    parser.add_argument("--minutes", type=float, nargs="+", default=[3, 10, 30])
    parser.add_argument("--cells", nargs="+", default=["*"], help="names or patterns")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="cores to use")
    parser.add_argument("--cpu-time", action="store_true", help="count CPU seconds")
    parser.add_argument("--lightly-train", metavar="PYTHON", help="of an environment with lightly-train")
    parser.add_argument("--store", type=Path, default=Path(tempfile.gettempdir()) / "quality_per_minute")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=2, metavar=("CELL", "MINUTES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("--data FOLDER is missing")
    arguments.data = Path(arguments.data)
    if arguments.one:
        print(json.dumps(run_cell(arguments.one[0], float(arguments.one[1]), arguments)))
        return
    os.environ.update(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="1000")  # for the processes of cells, as s2r2's are
    rows = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else []
    for name, minutes in missing(arguments, rows):
        load = os.getloadavg()[0]
        ended = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--one", name, str(minutes)], stdout=subprocess.PIPE, text=True
        )
        if ended.returncode:
            print(f"{name}: failed")
            continue
        row = {"cell": name, "minutes": minutes, "cpu_time": arguments.cpu_time, "load": load, "settings": CELLS[name]}
        rows.append({**row, **json.loads(ended.stdout.splitlines()[-1])})
        arguments.out.parent.mkdir(exist_ok=True)
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        print({key: value for key, value in rows[-1].items() if key != "settings"}, flush=True)
    show(rows)


if __name__ == "__main__":
    main()
