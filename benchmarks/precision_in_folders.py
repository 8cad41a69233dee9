"""What a sample says of recall in bfloat16, beside the whole folder's: is ``--precision auto`` right to take it?

    python benchmarks/precision_in_folders.py timm:resnet50.a1_in1k@96 --data A.tar B.tar
    python benchmarks/precision_in_folders.py runs/mine@64 --data A.tar --count 2000 --keep DIR

Photos are encoded once in each precision (kept in DIR as .npz, if given, for another time). Then, for errors of the
bfloat16 vectors made 0.15 to 1 times as large, twenty samples of the size that ``auto`` takes are drawn: recall@10 of
the whole folder, of the samples, and the least that is expected of the folder from each sample. "taken" is the part of
the samples by which ``auto`` would choose bfloat16: it must not be above 0 where the folder's recall is below .99.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from s2r2.encoder import load, store_side
from s2r2.encoder.precision import RECALL, least_recall, recall_of, sample_size
from s2r2.images import open_source

ERRORS = (0.15, 0.3, 0.45, 0.6, 0.8, 1.0)
SAMPLES = 20
BATCH = 64


def both(name: str, archive: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of photos spread over a source, in float32 and bfloat16."""
    place, _, size = name.partition("@")
    encoder, source = load(place, image_size=int(size) if size else None), open_source(archive)
    side = store_side(encoder.image_size)
    numbers = np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)).tolist()
    exact, fast = [], []
    for start in range(0, len(numbers), BATCH):
        pixels = encoder.prepare([source.read(number, side) for number in numbers[start : start + BATCH]], side=side)
        exact.append(encoder.embed_pixels(pixels))
        fast.append(encoder.embed_pixels(pixels, precision="bfloat16"))
    return np.concatenate(exact), np.concatenate(fast)


def rows(exact: np.ndarray, fast: np.ndarray) -> Iterator[str]:
    for error in ERRORS:
        moved = exact + error * (fast - exact)
        moved = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
        whole, seen, expected = recall_of(exact, moved), [], []
        for seed in range(SAMPLES):
            chosen = np.random.default_rng(seed).permutation(len(exact))[: sample_size(len(exact))]
            seen.append(recall_of(exact[chosen], moved[chosen]))
            expected.append(least_recall(exact[chosen], moved[chosen], len(exact)))
        power = math.log((1 - whole) / max(1 - np.mean(seen), 1e-9)) / math.log(len(exact) / len(chosen))
        taken = np.mean(np.array(expected) >= RECALL)
        wrong = "  WRONG" if taken and whole < RECALL else ""
        yield (
            f"{len(exact):6,} {len(chosen):6,} {error:6} {whole:7.4f} {np.mean(seen):7.4f} {min(expected):.4f} to"
            f" {max(expected):.4f} {taken:6.2f} {power:6.2f}{wrong}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", metavar="ENCODER[@SIZE]")
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--keep", type=Path)
    a = parser.parse_args()
    for archive in a.data:
        file = a.keep and a.keep / f"{a.encoder.replace('/', '-').replace(':', '-')}-{Path(archive).stem}.npz"
        if file and file.exists():
            exact, fast = np.load(file)["exact"], np.load(file)["fast"]
        else:
            exact, fast = both(a.encoder, archive, a.count)
            if file:
                file.parent.mkdir(parents=True, exist_ok=True)
                np.savez(file, exact=exact, fast=fast)
        print(f"{a.encoder}, {Path(archive).name}: photos, sample, error, recall, in samples, expected, taken, power")
        for row in rows(exact, fast):
            print(row, flush=True)


if __name__ == "__main__":
    main()
