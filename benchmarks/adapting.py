"""What adapting a pretrained encoder without labels changes: ``python benchmarks/adapting.py``, four sets, three seeds.

For each set of photos in S2R2_DATA: the encoder as it is, adapted in every form of ``--adapt``, and the same backbone
trained from random weights for the same time. The verdict pairs by test image; its intervals are over test images.
"""

import argparse
import os
import tempfile
from pathlib import Path

from real_weights import NAME, write_cache

DATA = {
    "grocery": "grocery_packages_train_s160.tar",
    "clothing": "clothing_cc0_s160.tar",
    "scenes": "intel_scenes_test.tar",
    "coco": "coco_small_s160.tar",
}
FORMS = {"all": {"adapt": "all"}, "last-blocks": {"adapt": "last-blocks"}, "from scratch": {}}
FIGURES = ("map", "recall@1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--data", nargs="*", choices=DATA, default=list(DATA))
    options = parser.parse_args()
    photos = Path(os.environ["S2R2_DATA"])
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(write_cache(Path(folder)))  # before anything reads them
        print("| photos | trained | seed | mAP | R@1 | kNN | verdict |\n|---|---|---|---|---|---|---|")
        for name in options.data:
            for form, settings in FORMS.items():
                for seed in range(options.seeds):
                    _row(photos / DATA[name], name, form, settings, seed, Path(folder), options)


def _row(
    data: Path, name: str, form: str, settings: dict[str, str], seed: int, folder: Path, options: argparse.Namespace
) -> None:
    from s2r2.evaluation import evaluate_run
    from s2r2.training import TrainConfig, train

    begun = {"start": f"timm:{NAME}", **settings} if settings else {"backbone": NAME}
    config = TrainConfig(
        minutes=options.minutes, image_size=options.image_size, batch_size=32, recipe="photos", seed=seed, **begun
    )
    run = folder / f"{name}-{form}-{seed}".replace(" ", "-")
    train(data, config, out=run, quiet=True)
    found = evaluate_run(run, data, progress=False)
    said = str(found.about.get("verdict", "")).partition("; of")[0]
    knn = next(column for column in found.columns if column.startswith("knn@"))
    rows = [(form, "trained", said)]
    if settings and seed == 0 and form == next(iter(FORMS)):
        rows.insert(0, ("frozen", f"timm:{NAME}", ""))
    for title, encoder, verdict in rows:
        row = found.row(encoder, "feature")
        cells = [f"{100 * row.figures[f].value:.1f} ±{100 * row.figures[f].half_width:.1f}" for f in (*FIGURES, knn)]
        print(f"| {name} | {title} | {seed} | {' | '.join(cells)} | {verdict} |", flush=True)


if __name__ == "__main__":
    main()
