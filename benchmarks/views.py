"""Random views beside lightly, torchvision v2 and albumentations: CPU microseconds a view, and how threads help.

    python benchmarks/views.py                        scikit-learn's two sample photos, cut to size (2 minutes)
    python benchmarks/views.py --data PHOTOS.tar      any photos

SimCLR's recipe everywhere (crop, flip, color jitter, grayscale, blur, normalization), one thread, CPU time, rounds
interleaved; a ratio is the median of the rounds' ratios. Each pipeline is used as its documentation shows: lightly and
torchvision get what they ask for (PIL images; uint8 tensors), albumentations does not antialias. Every pipeline ends
with the 64 views of 8 photos in one float32 batch, as training needs them.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from s2r2.images import UnreadableImage, open_source
from s2r2.views import draw_parameters, get_recipe, render_views

RESULTS = Path(__file__).parent / "results" / "views.json"
CASES = [((96, 96), 96), ((160, 213), 96), ((160, 213), 128), ((256, 341), 224), ((480, 640), 128)]
RECIPE = get_recipe("photos")
VIEWS = 8


def photos(data: str | None, count: int, height: int, width: int) -> list[np.ndarray]:
    """``count`` photos, cut to the shape and reduced to ``height x width``."""
    if data is None:
        from sklearn.datasets import load_sample_images

        found = [np.asarray(image) for image in load_sample_images().images]
        rng = np.random.default_rng(0)
        corners = [(found[i % 2], *rng.integers(0, 120, 2)) for i in range(count)]
        pictures = [Image.fromarray(image[y : y + 300, x : x + 500]) for image, y, x in corners]
    else:
        source, pictures = open_source(data), []
        for index in range(len(source)):
            try:
                pictures.append(Image.fromarray(source.read(index)))
            except UnreadableImage:
                continue
            if len(pictures) == count:
                break
    return [np.asarray(_cut(picture, width / height).resize((width, height))) for picture in pictures]


def _cut(picture: Image.Image, ratio: float) -> Image.Image:
    width = min(picture.width, round(picture.height * ratio))
    height = min(picture.height, round(width / ratio))
    return picture.crop((0, 0, width, height))


def ours(images: Sequence[np.ndarray], size: int, dtype: str = "float32") -> Callable[[int], None]:
    sizes = np.array([image.shape[:2] for image in images])
    ids = np.arange(len(images), dtype=np.uint64)
    out = np.empty((len(images) * VIEWS, 3, size, size), dtype)

    def run(round_number: int, threads: int = 1) -> None:
        table = draw_parameters(RECIPE, sizes, ids, VIEWS, seed=0, epoch=round_number, view_size=size)
        render_views(
            images, table, size, mean=RECIPE.mean, std=RECIPE.std, backend="numba", threads=threads, out=out,
            dtype=dtype,  # type: ignore[arg-type]
        )  # fmt: skip

    return run


def with_lightly(images: Sequence[np.ndarray], size: int) -> Callable[[int], None]:
    from lightly.transforms import SimCLRTransform

    transform = SimCLRTransform(input_size=size)
    pictures = [Image.fromarray(image) for image in images]

    def run(round_number: int) -> None:
        torch.manual_seed(round_number)
        calls = [transform(picture) for picture in pictures for _ in range(VIEWS // 2)]  # two views a call
        torch.stack([view for pair in calls for view in pair])

    return run


def with_torchvision(images: Sequence[np.ndarray], size: int) -> Callable[[int], None]:
    from torchvision.transforms import v2

    kernel = int(0.1 * size) // 2 * 2 + 1
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(size, RECIPE.crop_scale, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(kernel, RECIPE.blur_sigma)], p=0.5),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(RECIPE.mean, RECIPE.std),
        ]
    )
    tensors = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in images]

    def run(round_number: int) -> None:
        torch.manual_seed(round_number)
        torch.stack([transform(tensor) for tensor in tensors for _ in range(VIEWS)])

    return run


def with_albumentations(images: Sequence[np.ndarray], size: int) -> Callable[[int], None]:
    import albumentations as A
    from albumentations.pytorch import ToTensorV2

    kernel = int(0.1 * size) // 2 * 2 + 1
    transform = A.Compose(
        [
            A.RandomResizedCrop((size, size), scale=RECIPE.crop_scale, ratio=RECIPE.crop_ratio),
            A.HorizontalFlip(p=0.5),
            A.ColorJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, p=0.8),
            A.ToGray(p=0.2),
            A.GaussianBlur(blur_limit=(kernel, kernel), sigma_limit=RECIPE.blur_sigma, p=0.5),
            A.Normalize(RECIPE.mean, RECIPE.std),
            ToTensorV2(),
        ]
    )

    def run(round_number: int) -> None:
        transform.set_random_seed(round_number)
        torch.stack([transform(image=image)["image"] for image in images for _ in range(VIEWS)])

    return run


def compare(data: str | None, rounds: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for (height, width), size in CASES:
        images = photos(data, 8, height, width)
        runs = {
            "s2r2": ours(images, size),
            "s2r2 uint8": ours(images, size, "uint8"),
            "lightly": with_lightly(images, size),
            "torchvision v2": with_torchvision(images, size),
            "albumentations": with_albumentations(images, size),
        }
        for run in runs.values():
            run(0)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(1, rounds + 1):
            for name, run in runs.items():
                start = time.process_time()
                run(number)
                times[name].append((time.process_time() - start) / (len(images) * VIEWS) * 1e6)
        ratios = {
            name: statistics.median(t / own for t, own in zip(taken, times["s2r2"], strict=True))
            for name, taken in times.items()
        }
        microseconds = {name: statistics.median(taken) for name, taken in times.items()}
        rows.append({"case": f"{width}x{height} -> {size}", "us": microseconds, "ratio": ratios})
    return rows


def threads_help(data: str | None, rounds: int) -> list[dict[str, object]]:
    """Least wall time of one thread against that of two, for steps of 64 images."""
    rows: list[dict[str, object]] = []
    for (height, width), size in CASES[:4]:
        run = ours(photos(data, 64, height, width), size)
        run(0)
        took: dict[int, list[float]] = {1: [], 2: []}
        for number in range(3 * rounds):
            for threads, taken in took.items():
                start = time.perf_counter()
                run(number % 2, threads)  # type: ignore[call-arg]
                taken.append(time.perf_counter() - start)
        rows.append({"case": f"{width}x{height} -> {size}", "gain": min(took[1]) / min(took[2])})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="photos: folder, tar, manifest; by default scikit-learn's sample photos")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = compare(arguments.data, arguments.rounds)
    gains = threads_help(arguments.data, arguments.rounds)
    console = Console(width=150)
    table = Table(
        title=f"CPU microseconds a view, one thread (times ours); {platform.processor() or platform.machine()}"
    )
    names = list(rows[0]["us"])  # type: ignore[call-overload]
    for column in ("photo -> view", *names):
        table.add_column(column, justify="right")
    for row in rows:
        us, ratio = row["us"], row["ratio"]
        cells = [f"{us[name]:.0f}" + ("" if name == "s2r2" else f" ({ratio[name]:.2f})") for name in names]  # type: ignore[index]
        table.add_row(str(row["case"]), *cells)
    console.print(table)
    table = Table(title="Two threads against one, least wall times")
    for column in ("photo -> view", "times as fast"):
        table.add_column(column, justify="right")
    for row in gains:
        table.add_row(str(row["case"]), f"{row['gain']:.2f}")
    console.print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"one_thread": rows, "two_threads": gains}, indent=1))


if __name__ == "__main__":
    main()
