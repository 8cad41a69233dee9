"""Does ``s2r2 refine`` help, and does it harm what nobody marked: ``python benchmarks/refine.py [--encoder NAME]``.

Grocery packages (31 classes; ``S2R2_DATA``): half of the classes are marked, five photos each. The table has mAP over
the other photos of these classes, and over the classes of which nothing was marked, before and after, with paired 95 %
intervals over query photos (each the mean of the draws in which it is a query); ``--seeds`` draws the marked half and
photos anew. Without ``--encoder`` it takes the ImageNet
weights of ``benchmarks/real_weights.py``. ``--index DIR`` keeps the index of the photos for the next time.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from real_weights import NAME, write_cache
from s2r2.evaluation.metrics.bootstrap import bootstrap_interval
from s2r2.evaluation.metrics.retrieval import retrieval_metrics
from s2r2.refining import Judged, Recipe, learn_head
from s2r2.refining.learning import applied, spread_of
from s2r2.search import ImageIndex, update_index

PHOTOS = "grocery_packages_train_s160.tar"
MARKED = 5
RECIPES = {
    "default": Recipe(),
    "stay 0": Recipe(stay=0.0),
    "stay 0.3": Recipe(stay=0.3),
    "stay 3": Recipe(stay=3.0),
}


def marked(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Half of the classes, and rows of five photos of each."""
    generator = np.random.default_rng(seed)
    names = np.unique(labels)
    half = generator.permutation(names)[: len(names) // 2]
    return half, np.concatenate([generator.permutation(np.flatnonzero(labels == name))[:MARKED] for name in half])


def measure(vectors: np.ndarray, labels: np.ndarray, recipe: Recipe, seeds: int) -> None:
    """Print a line for the marked classes and one for the others."""
    before = retrieval_metrics(vectors, labels).average_precision
    spread = spread_of(vectors, recipe.directions)
    values: dict[str, list[np.ndarray]] = {"marked classes": [], "other classes": []}
    seconds = []
    for seed in range(seeds):
        half, rows = marked(labels, seed)
        began = time.perf_counter()
        groups = np.unique(labels[rows], return_inverse=True)[1]
        matrix = learn_head(vectors, [Judged(rows, groups)], spread, recipe)
        seconds.append(time.perf_counter() - began)
        after = retrieval_metrics(applied(matrix, vectors), labels).average_precision
        seen = np.isin(labels, half)
        unmarked = seen.copy()
        unmarked[rows] = False
        for name, chosen in (("marked classes", unmarked), ("other classes", ~seen)):
            values[name].append(np.where(chosen, np.stack([before, after]), np.nan))  # elsewhere it is no query
    for name, parts in values.items():
        gaps = [f"{np.nanmean(part[1] - part[0]):+.3f}" for part in parts]
        stacked = np.stack(parts)
        first, second = np.nanmean(stacked[:, :, np.isfinite(stacked).any((0, 1))], axis=0)
        gap = bootstrap_interval(np.asarray(second - first))
        print(
            f"  {name:<15} mAP {bootstrap_interval(first)} -> {bootstrap_interval(second)}, "
            f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]; by seed {', '.join(gaps)}",
            flush=True,
        )
    print(f"  {np.mean(seconds):.1f} s to learn a head", flush=True)


def main() -> None:
    """Index if need be, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", help="what s2r2 index takes; by default ImageNet weights of EfficientNet-Lite0")
    parser.add_argument("--index", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--recipes", nargs="*", default=["default"], choices=list(RECIPES))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.index or Path(temporary) / "index"
        if not (folder / "index.json").exists():
            write_cache(Path(temporary))
            (weights,) = Path(temporary).rglob("model.safetensors")
            update_index(options.encoder or f"timm:{NAME}@{weights}", Path(os.environ["S2R2_DATA"]) / PHOTOS, folder)
        index = ImageIndex.open(folder)
        vectors, labels = np.asarray(index.vectors), np.array(index.catalogue.table["label"].to_pylist())
        print(f"{len(index)} photos of {len(np.unique(labels))} classes, {index.about.encoder.partition('@')[0]}")
        print(f"{MARKED} marked photos a class for half of the classes, {options.seeds} draws")
        for name in options.recipes:
            print(name)
            measure(vectors, labels, RECIPES[name], options.seeds)


if __name__ == "__main__":
    main()
