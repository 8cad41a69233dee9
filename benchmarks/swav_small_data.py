"""Does SwAV leave ln K on small data? Loss curves with our defaults for small data and with the authors' epsilon.

    python benchmarks/swav_small_data.py --data DATA --picture swav.png

DATA holds coco_small_s160.tar and stl10_train_2of10classes.tar. About ten minutes on one core.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s2r2.runs import RunFolder
from s2r2.training import TrainConfig, train

SETS = {"COCO photos": "coco_small_s160.tar", "STL-10, two classes": "stl10_train_2of10classes.tar"}
SETTINGS: dict[str, dict[str, Any]] = {"defaults (epsilon 0.01)": {}, "epsilon 0.05": {"epsilon": 0.05}}
BATCH = 64


def run(data: Path, options: dict[str, Any], epochs: int) -> dict[str, Any]:
    """Train and return the loss of each step beside ln K."""
    config = TrainConfig(
        method="swav", options=options, backbone="test_resnet", image_size=32, batch_size=BATCH, epochs=epochs,
        head_hidden=512, threads=1, check_every=epochs,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        train(str(data), config, out=Path(folder) / "run", quiet=True)
        lines = [line for line in RunFolder(Path(folder) / "run").read_metrics() if "loss" in line]
    return {
        "log_prototypes": lines[0]["log_prototypes"],
        "loss": [line["loss"] for line in lines],
        "prototypes_used": lines[-1]["prototypes_used"],
        "positive_cosine": lines[-1]["positive_cosine"],
    }


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(10, 3.4), sharey=True)
    for axis, (name, runs) in zip(axes, results.items(), strict=True):
        for (setting, found), colour in zip(runs.items(), ("#1f5fbf", "#c2571a"), strict=True):
            axis.plot(np.array(found["loss"]), color=colour, linewidth=1.4, label=setting)
        axis.axhline(found["log_prototypes"], color="#888", linestyle="--", linewidth=1, label="ln K")
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("step")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("SwAV's loss")
    axes[0].legend(frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=130, facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/swav_small_data.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, dict[str, Any]] = {}
    print(
        f"batch {BATCH}, {arguments.epochs} epochs\n| data | epsilon | ln K | loss, last 20 steps | prototypes used |"
    )
    print("|---|---|---|---|---|")
    for name, file in SETS.items():
        for setting, options in SETTINGS.items():
            found = run(arguments.data / file, options, arguments.epochs)
            results.setdefault(name, {})[setting] = found
            loss, used = np.mean(found["loss"][-20:]), found["prototypes_used"]
            print(f"| {name} | {setting} | {found['log_prototypes']:.3f} | {loss:.3f} | {used:.1f} |", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results))
    if arguments.picture:
        draw(results, arguments.picture)


if __name__ == "__main__":
    main()
