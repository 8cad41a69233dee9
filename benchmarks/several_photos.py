"""What do queries of several photos gain, and how should they be combined: ``python benchmarks/several_photos.py``.

Photos are drawn as the first photo of a query; the others of its class that join it are drawn at random. The tables
have mAP over all photos outside the query, with 95 % intervals over queries. First, for 1 to 10 photos to be like: the
soft maximum of cosines (what s2r2 does), the mean vector (Rocchio, 1971) and the plain maximum. Then, for one photo to
be like and the first wrong results of its own ranking to be less like: several weights, beside weight 0, which only
leaves them out. Grocery packages (31 classes) and Intel scenes (6 classes), under ``S2R2_DATA``, with the ImageNet
weights of ``benchmarks/real_weights.py``. ``--indexes DIR`` keeps the indexes for the next time.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np

from real_weights import NAME, write_cache
from s2r2.evaluation.metrics.bootstrap import bootstrap_interval
from s2r2.search import ImageIndex, update_index
from s2r2.search.several_photos import LESS_WEIGHT, soft_maximum

DATA = ("grocery_packages_train_s160.tar", "intel_scenes_test.tar")
QUERIES = 500
MORE = (1, 2, 3, 5, 10)
LESS = (1, 3)
WEIGHTS = (0.0, 0.125, 0.25, 0.5, 1.0)


def average_precision(scores: np.ndarray, right: np.ndarray) -> float:
    """Of a ranking by ``scores`` ``(M,)``."""
    hits = right[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(hits)[hits] / (np.flatnonzero(hits) + 1)).mean())


def judge(scores: np.ndarray, labels: np.ndarray, first: int, seeds: np.ndarray) -> float:
    """Average precision over what is not in the query."""
    outside = np.ones(len(labels), bool)
    outside[seeds] = False
    return average_precision(scores[outside], labels[outside] == labels[first])


def more_like(
    similar: np.ndarray, labels: np.ndarray, firsts: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """``(queries, 3)``: average precision by the soft maximum, the mean and the maximum, for each first photo."""
    values = []
    for first in firsts:
        same = np.flatnonzero((labels == labels[first]) & (np.arange(len(labels)) != first))
        seeds = np.append(first, generator.choice(same, min(count, len(same)) - 1, replace=False))
        ways = (soft_maximum(similar[:, seeds]), similar[:, seeds].mean(1), similar[:, seeds].max(1))
        values.append([judge(scores, labels, first, seeds) for scores in ways])
    return np.array(values)


def less_like(similar: np.ndarray, labels: np.ndarray, firsts: np.ndarray, count: int) -> np.ndarray:
    """``(queries, weights)``: average precision when the first wrong results are photos to be less like."""
    values = []
    for first in firsts:
        ranking = np.argsort(-similar[first], kind="stable")
        wrong = ranking[labels[ranking] != labels[first]][:count]
        seeds, away = np.append(first, wrong), soft_maximum(similar[:, wrong])
        values.append([judge(similar[first] - weight * away, labels, first, seeds) for weight in WEIGHTS])
    return np.array(values)


def measure(index: ImageIndex) -> None:
    """Print the tables of one index."""
    vectors, labels = np.asarray(index.vectors), np.array(index.catalogue.table["label"].to_pylist())
    similar = vectors @ vectors.T
    generator = np.random.default_rng(0)
    firsts = generator.permutation(len(labels))[:QUERIES]
    encoder = index.about.encoder.partition("@")[0]
    print(f"\n{len(index)} photos of {len(np.unique(labels))} classes, {encoder}, {len(firsts)} queries")
    print(f"{'more':>5}  {'soft maximum (s2r2)':<22} {'mean vector':<22} {'maximum':<22} soft maximum - one photo")
    alone = None
    for count in MORE:
        values = more_like(similar, labels, firsts, count, generator)
        alone = values[:, 0] if alone is None else alone
        shown = " ".join(f"{bootstrap_interval(column)!s:<22}" for column in values.T)
        print(f"{count:>5}  {shown} {bootstrap_interval(values[:, 0] - alone)}", flush=True)
    print(f"{'less':>5}  {'weight':<7} {'mAP':<22} - weight 0")
    for count in LESS:
        values = less_like(similar, labels, firsts, count)
        for weight, column in zip(WEIGHTS, values.T, strict=True):
            chosen = "  (s2r2)" if weight == LESS_WEIGHT else ""
            gain = bootstrap_interval(column - values[:, 0])
            print(f"{count:>5}  {weight:<7} {bootstrap_interval(column)!s:<22} {gain}{chosen}", flush=True)


def main() -> None:
    """Index if need be, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--indexes", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for name in DATA:
            folder = (options.indexes or Path(temporary)) / name.removesuffix(".tar")
            if not (folder / "index.json").exists():
                write_cache(Path(temporary))
                (weights,) = Path(temporary).rglob("model.safetensors")
                update_index(f"timm:{NAME}@{weights}", Path(os.environ["S2R2_DATA"]) / name, folder)
            measure(ImageIndex.open(folder))


if __name__ == "__main__":
    main()
