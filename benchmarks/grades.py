"""Does knowing which photos are of one sequence help? S2R2 with grades, contrast with the same positives, and neither.

Photos of packages in shops, numbered (the Grocery Store dataset): each run of five numbers of a package stands for a
sequence. Every second one is trained on, with its sequences and no labels. Among the others, each photo ranks the rest:
those of its sequence should come before those of its package, and these before all others. The sequences are made from
the packages' folders, so they are cleaner than bursts are in life, and neighbors in number need not be in time.

    python benchmarks/grades.py GROCERY_FOLDER [--epochs 10] [--seeds 3]
"""

import argparse
import csv
import re
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from s2r2.images import decode
from s2r2.losses import GradedRankingLoss
from s2r2.training import TrainConfig, train

LENGTH = 5
ROWS = {
    "S2R2": {"method": "s2r2"},
    "S2R2, sequences as grades": {"method": "s2r2", "grades": "sequence"},
    "SimCLR": {"method": "simclr"},
    "SimCLR, sequences as positives": {"method": "simclr", "grades": "sequence"},
}


def main() -> None:
    """Print a table of mean figures over seeds, and the differences to S2R2 with grades."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="one folder per package, photos NAME_NUMBER.jpg")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    photos = sequences(asked.folder)
    found: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as place:
        manifest = Path(place) / "train.csv"
        with manifest.open("w", newline="") as file:
            rows = [(path, f"{package} {run}") for path, package, run in photos if run % 2 == 0]
            csv.writer(file).writerows([("path", "sequence"), *rows])
        test = [photo for photo in photos if photo[2] % 2]
        print(f"{len(rows)} photos to train on, {len(test)} to rank", flush=True)
        for seed in range(asked.seeds):
            for name, settings in ROWS.items():
                config = TrainConfig(
                    **settings, backbone="test_resnet", image_size=32, batch_size=64, views=4, recipe="photos",
                    epochs=asked.epochs, lr=0.004, seed=seed, check_every=asked.epochs,
                )  # fmt: skip
                result = train(manifest, config, out=Path(place) / f"{seed}-{len(found)}-{name}", quiet=True)
                found[name].append(figures(result.encoder, test))
                print(f"seed {seed}  {name:32}", *(f"{figure:7.3f}" for figure in found[name][-1]), flush=True)
    print(f"\n{'mean over seeds':40} {'nDCG':>7} {'mAP seq':>7} {'mAP pkg':>7}   less S2R2 with grades, by seed: nDCG")
    mine = found["S2R2, sequences as grades"]
    for name, values in found.items():
        means = [statistics.mean(column) for column in zip(*values, strict=True)]
        less = " ".join(f"{a[0] - b[0]:+.3f}" for a, b in zip(values, mine, strict=True))
        print(f"{name:40}", *(f"{mean:7.3f}" for mean in means), f"  {less}")


def sequences(folder: Path) -> list[tuple[Path, str, int]]:
    """Path, package and number of the sequence of each photo."""
    found = []
    for path in sorted(folder.resolve().rglob("*.jpg")):
        number = re.search(r"(\d+)\.jpg$", path.name)
        if number is not None:
            found.append((path, path.parent.name, (int(number[1]) - 1) // LENGTH))
    return found


def figures(encoder: object, test: list[tuple[Path, str, int]]) -> tuple[float, ...]:
    """Graded nDCG, mAP within sequences and mAP within packages, of features."""
    rows = encoder.embed([decode(path.read_bytes(), short_side=40) for path, _, _ in test])  # type: ignore[attr-defined]
    z = torch.nn.functional.normalize(torch.as_tensor(np.asarray(rows)).double(), dim=1)
    package = np.unique([photo[1] for photo in test], return_inverse=True)[1]
    sequence = np.unique([f"{photo[1]} {photo[2]}" for photo in test], return_inverse=True)[1]
    columns = torch.as_tensor(np.stack([sequence, package], axis=1))
    exact = {"temperature": 1e-9, "no_pairs": "zero"}  # steps: the figures themselves
    return (
        1 - float(GradedRankingLoss("ndcg", **exact)(z, columns)),
        1 - float(GradedRankingLoss("h-ap", **exact)(z, columns[:, 0])),
        1 - float(GradedRankingLoss("h-ap", **exact)(z, columns[:, 1])),
    )


if __name__ == "__main__":
    main()
