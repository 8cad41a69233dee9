"""Does it help to know what photos know? S2R2 with grades, contrast with the same positives, and methods without.

Photos of a sequence are cut into stretches. Every second stretch is trained on, with what its photos know of each
other and no labels; in the others each photo ranks the rest: those of its burst should come before those of its place,
drive or package, and these before all others. Between a stretch to train on and one to judge by, seconds are left out.

    python benchmarks/grades.py drives CAMVID_FOLDER --out FOLDER
    python benchmarks/grades.py flights FOLDER_OF_FLIGHTS --out FOLDER
    python benchmarks/grades.py packages GROCERY_FOLDER --out FOLDER

Drives are images named DRIVE_FRAME at 30 frames a second (CamVid); flights are a folder of photos each, of which EXIF
says when and where they were taken. Packages in shops are a folder each of photos NAME_NUMBER.jpg (the Grocery Store
dataset): each run of five numbers stands for a sequence, which is cleaner than bursts are in life, and neighbors in
number need not be in time. Packages themselves are labels: photos are judged by them, and not trained with them.

Each run's figures are kept in --out: the command can be stopped and called again, also for more seeds. Learning rates
and temperatures are those that studies/small.yaml found for each method on other photos; with grades a method has the
settings that it has without. Intervals of differences join Student's t over the seeds and the resampling of the judged
photos, as studies have them.
"""

import argparse
import csv
import os
import re
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from s2r2.distributed.processes import Processes
from s2r2.encoder import Encoder, store_side
from s2r2.evaluation.distributed import embed_shared
from s2r2.evaluation.metrics.graded_ndcg import graded_ndcg
from s2r2.evaluation.metrics.health import effective_rank
from s2r2.evaluation.metrics.retrieval import retrieval_metrics
from s2r2.evaluation.protocols.held_out_views import HeldOutViews, held_out_views, rank_views
from s2r2.images import PixelStore, open_source
from s2r2.images.grades import group_photos, read_grades
from s2r2.study.statistics import difference, figure, holm
from s2r2.training import TrainConfig, train
from s2r2.training.setup.encoder import first_encoder
from s2r2.views import get_recipe

SIDE, IMAGES, VIEWS = 32, 64, 8
PARTS = ("train", "test")


class Kind(NamedTuple):
    """What photos know of each other, by what else they are judged, and how they are cut up."""

    grades: str
    more: str
    stretch: float
    gap: float


KINDS = {
    "drives": Kind("time:2s,drive", "", 10, 2),
    "flights": Kind("time:10s,place:60m,flight", "", 30, 8),
    "packages": Kind("sequence", ",package", 5, 0),
}
FIRST, LAST, ALL = slice(0, 1), slice(-1, None), slice(None)
CONTRAST = {"method": "simclr", "lr": 0.003, "temperature": 0.4}
RANKING = {"method": "s2r2", "lr": 0.006, "temperature": 0.05}
ROWS = {
    "S2R2, graded": (RANKING, ALL),
    "S2R2": (RANKING, None),
    "SimCLR": (CONTRAST, None),
    "SimCLR, finest grade as positives": (CONTRAST, FIRST),
    "SimCLR, coarsest grade as positives": (CONTRAST, LAST),
    "Poly-View": (
        {"method": "simclr", "lr": 0.006, "temperature": 0.2, "options": {"form": "sufficient-statistics"}},
        None,
    ),
    "MMCR": ({"method": "mmcr", "lr": 0.016}, None),
    "untrained": ({}, None),
}
MINE = "S2R2, graded"
BY_VIEWS = ("view AP", "rank")


class Photo(NamedTuple):
    """A photo, the drive, flight or package that it is of, and its second in it, or its number."""

    path: Path
    of: str
    at: float


def main() -> None:
    """Train and judge all runs that are not there yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="where manifests, runs and figures are kept")
    parser.add_argument("--steps", type=int, default=40, help=f"of {IMAGES} photos and {VIEWS} views each")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=500)
    asked = parser.parse_args()
    kind = KINDS[asked.kind]
    asked.out.mkdir(parents=True, exist_ok=True)
    photos = flights(asked.folder, asked.out) if asked.kind == "flights" else LISTED[asked.kind](asked.folder)
    parts = split(photos, kind)
    manifests = [write(asked.out / f"{name}.csv", part, asked.kind) for name, part in zip(PARTS, parts, strict=True)]
    test = PixelStore.build(open_source(manifests[1]), store_side(SIDE), progress=False)
    grades = kind.grades.split(",")
    judged_by = kind.grades + kind.more
    groups = group_photos(read_grades(judged_by), test)
    rows = {name: row for name, row in ROWS.items() if len(grades) > 1 or row[1] != LAST}
    print(f"{len(parts[0])} photos to train on; judged: {groups.sentence}", flush=True)
    views = held_out_views(test, get_recipe("photos"), view_size=SIDE)
    found: dict[str, list[dict[str, np.ndarray]]] = defaultdict(list)
    for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
        for name, (settings, used) in rows.items():
            file = asked.out / f"{seed} {name} {asked.steps}.npz"
            if not file.is_file():
                encoder = run(manifests[0], settings, ",".join(grades[used]) if used else "", asked.steps, seed)
                np.savez(file, **figures(encoder, test, groups.columns, judged_by, views))
            with np.load(file) as stored:
                found[name].append(dict(stored))
            said = (f"{title} {np.nanmean(values):.3f}" for title, values in found[name][-1].items())
            print(f"seed {seed}  {name:36}", *said, flush=True)
    print_table(found)


def run(data: Path, settings: dict[str, Any], grades: str, steps: int, seed: int) -> Encoder:
    """An encoder, trained or, without settings, as training of this seed begins."""
    config = TrainConfig(
        **settings, grades=grades, backbone="test_resnet", image_size=SIDE, batch_size=IMAGES, views=VIEWS,
        recipe="swav-multicrop", head_hidden=512, embedding_dimensions=128, steps=steps, seed=seed, check_every=1000,
        threads=1,
    )  # fmt: skip
    if not settings:
        return first_encoder(config, get_recipe(config.recipe)).eval()
    with tempfile.TemporaryDirectory() as place:
        return train(data, config, out=Path(place) / "run", quiet=True).encoder


def drives(folder: Path) -> list[Photo]:
    """Frames at least 0.9 seconds apart."""
    found: list[Photo] = []
    named = [(re.fullmatch(r"(.+?)_f?(\d+)", path.stem), path) for path in folder.resolve().rglob("*.png")]
    frames = sorted((name[1], int(name[2]) / 30, path) for name, path in named if name)
    for drive, second, path in frames:
        if not found or drive != found[-1].of or second - found[-1].at >= 0.9:
            found.append(Photo(path, drive, second))
    return found


def packages(folder: Path) -> list[Photo]:
    """Photos of each folder, numbered from zero."""
    named = [(re.search(r"_(\d+)$", path.stem), path) for path in sorted(folder.resolve().rglob("*.jpg"))]
    numbered = [(path.parent.name, int(number[1]), path) for number, path in named if number]
    first = {package: min(number for other, number, _ in numbered if other == package) for package, _, _ in numbered}
    return [Photo(path, package, number - first[package]) for package, number, path in numbered]


LISTED = {"drives": drives, "packages": packages}


def flights(folder: Path, out: Path) -> list[Photo]:
    """Photos of which EXIF says when they were taken, of each folder."""
    paths = sorted(path for path in folder.resolve().rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    every = write(out / "all.csv", [Photo(path, path.parent.name, 0) for path in paths], "flights")
    store = PixelStore.build(open_source(every), store_side(SIDE), progress=False)
    known = zip(paths, store.facts(), strict=True)
    return [Photo(path, path.parent.name, facts.taken) for path, facts in known if facts.taken is not None]


def split(photos: list[Photo], kind: Kind) -> tuple[list[Photo], list[Photo]]:
    """Those to train on and those to judge by, in stretches of seconds that alternate, with gaps."""
    begins: dict[str, float] = {}
    for photo in photos:
        begins[photo.of] = min(photo.at, begins.get(photo.of, photo.at))
    parts: tuple[list[Photo], list[Photo]] = ([], [])
    for photo in photos:
        turn, within = divmod(photo.at - begins[photo.of], kind.stretch + kind.gap)
        if within < kind.stretch:
            parts[int(turn) % 2].append(photo)
    return parts


def write(path: Path, photos: list[Photo], kind: str) -> Path:
    """A manifest with what is not in the photos themselves: drives' times, packages' sequences."""
    further = {
        "drives": ("time", lambda photo: f"{photo.at:.3f}"),
        "packages": ("sequence", lambda photo: f"{photo.of} {photo.at // KINDS[kind].stretch:.0f}"),
    }
    more = [further[kind]] if kind in further else []
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", kind[:-1], *[name for name, _ in more]])
        writer.writerows((os.fspath(photo.path), photo.of, *[tell(photo) for _, tell in more]) for photo in photos)
    return path


def figures(
    encoder: Encoder, test: PixelStore, groups: np.ndarray, grades: str, views: HeldOutViews
) -> dict[str, np.ndarray]:
    """NDCG over all grades, mAP of each, photo by photo, of features; view AP and effective rank, which need none."""
    rows = embed_shared(encoder, test, "feature", Processes())
    found = {"nDCG": graded_ndcg(rows, groups).pseudo_values}
    for grade, column in zip(grades.split(","), groups.T, strict=True):
        result = retrieval_metrics(rows, np.ascontiguousarray(column), leave_out="images")
        found[f"mAP {grade}"] = result.pseudo_values["mAP"]
    ranked = rank_views(encoder, views).average_precision
    return {**found, "view AP": ranked, "rank": np.array([effective_rank(rows)])}


def print_table(found: dict[str, list[dict[str, np.ndarray]]]) -> None:
    """Means over seeds, and S2R2 with grades less each other row; a star where no chance, of all differences."""
    mine = found[MINE]
    cells = [(name, title) for name in found for title in mine[0]]
    judged = np.zeros(len(mine[0]["nDCG"]), np.int64)
    less = {
        (name, title): difference([run[title] for run in mine], [run[title] for run in found[name]], judged)
        for name, title in cells
        if name != MINE and title not in BY_VIEWS
    }
    stars = dict(zip(less, holm([one.p_value for one in less.values()]), strict=True))
    print(f"\nmean over {len(mine)} seeds; {MINE} less the row, with its 95 % interval")
    for name, title in cells:
        line = f"{name:36} {title:22} {figure([run[title] for run in found[name]], judged).value:7.3f}"
        if one := less.get((name, title)):
            star = "*" if stars[name, title] else " "
            line += f"   {one.value:+.3f} ±{one.half_width:.3f}{star} (photos alone ±{one.images:.3f})"
        print(line)


if __name__ == "__main__":
    main()
