"""Does knowing which photos are of one sequence help? S2R2 with grades, contrast with the same positives, and neither.

Photos of packages in shops, numbered (the Grocery Store dataset): each run of five numbers of a package stands for a
sequence. Every second one is trained on, with its sequences and no labels. Among the others, each photo ranks the rest:
those of its sequence should come before those of its package, and these before all others. The sequences are made from
the packages' folders, so they are cleaner than bursts are in life, and neighbors in number need not be in time.

    python benchmarks/grades.py GROCERY_FOLDER [--epochs 10] [--seeds 3]

Differences pair by photo; their 95 % intervals are over photos, of values averaged over the seeds, and do not cover
other seeds: what each seed says stands beside them.
"""

import argparse
import csv
import re
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from s2r2.encoder import Encoder
from s2r2.evaluation import retrieval_metrics
from s2r2.evaluation.metrics.graded_ndcg import graded_ndcg
from s2r2.evaluation.task import Outcome
from s2r2.images import decode
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
    found: dict[str, list[dict[str, Outcome]]] = defaultdict(list)
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
                said = (f"{title} {np.nanmean(one.values):.3f}" for title, one in found[name][-1].items())
                print(f"seed {seed}  {name:32}", *said, flush=True)
    print("\nmean over seeds; S2R2 with grades less the row, with its interval, and seed by seed")
    mine = found["S2R2, sequences as grades"]
    for name, values in found.items():
        for title in mine[0]:
            mean = np.mean([np.nanmean(one[title].values) for one in values])
            less = ""
            if values is not mine:
                by = averaged(mine, title, +1, averaged(values, title, -1)).interval()
                seeds = (
                    np.nanmean(a[title].values) - np.nanmean(b[title].values) for a, b in zip(mine, values, strict=True)
                )
                less = f"{by.value:+.3f} [{by.low:+.3f}, {by.high:+.3f}]   " + " ".join(f"{one:+.3f}" for one in seeds)
            print(f"{name:32} {title:13} {mean:6.3f}   {less}")


def sequences(folder: Path) -> list[tuple[Path, str, int]]:
    """Path, package and number of the sequence of each photo."""
    found = []
    for path in sorted(folder.resolve().rglob("*.jpg")):
        number = re.search(r"(\d+)\.jpg$", path.name)
        if number is not None:
            found.append((path, path.parent.name, (int(number[1]) - 1) // LENGTH))
    return found


def figures(encoder: Encoder, test: list[tuple[Path, str, int]]) -> dict[str, Outcome]:
    """NDCG over both grades, mAP within sequences and mAP within packages, of features."""
    rows = encoder.embed([decode(path.read_bytes(), short_side=40) for path, _, _ in test])
    package = np.unique([photo[1] for photo in test], return_inverse=True)[1]
    sequence = np.unique([f"{photo[1]} {photo[2]}" for photo in test], return_inverse=True)[1]
    graded = graded_ndcg(rows, np.stack([sequence, package], axis=1))
    found = {"nDCG": Outcome(graded.ndcg, pseudo_values=graded.pseudo_values)}
    for title, groups in {"mAP sequences": sequence, "mAP packages": package}.items():
        result = retrieval_metrics(rows, groups, leave_out="images")
        found[title] = Outcome(result.average_precision, pseudo_values=result.pseudo_values["mAP"])
    return found


def averaged(seeds: list[dict[str, Outcome]], title: str, sign: int, more: Outcome | None = None) -> Outcome:
    """Values photo by photo, averaged over seeds, times the sign, plus others."""
    values, pseudo = (
        sign * np.mean([getattr(one[title], name) for one in seeds], axis=0) for name in ("values", "pseudo_values")
    )
    return (
        Outcome(values, pseudo_values=pseudo)
        if more is None
        else Outcome(values + more.values, pseudo_values=pseudo + more.pseudo_values)
    )


if __name__ == "__main__":
    main()
