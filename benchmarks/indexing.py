"""`s2r2 index` beside the encoder alone on tensors in memory; then a second run with ten changes.

    python benchmarks/indexing.py                               5,000 JPEGs made from scikit-learn's sample photos
    python benchmarks/indexing.py --data A.tar --data B.tar     5,000 photos of these
    python benchmarks/indexing.py --encoder runs/mine           another encoder than an untrained ResNet-18
    python benchmarks/indexing.py --image-size 96               the same at 96 pixels
    python benchmarks/indexing.py --precisions timm:resnet50.a1_in1k untrained:resnet18@96 --data A.tar --count 1000
                                                                float32 beside bfloat16, in pairs of whole commands

The encoder alone gets as many photos, ready in memory, in the same batches and with the same threads: the first half
before the index is made and the second half after it, so that a machine that others share counts for both alike. The
command's time is of the whole process, from the shell and back: it includes importing torch and LanceDB. CPU seconds,
of all threads, say what reading, decoding, thumbnails and rows cost beside the encoder, whoever else uses the machine.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from s2r2.encoder import Encoder, load
from s2r2.encoder.precision import recall_of
from s2r2.images import open_source
from s2r2.images.places import FilePlace
from s2r2.search import ImageIndex
from s2r2.views import render_centre

RESULTS = Path(__file__).parent / "results" / "indexing.json"
BATCH = 64


def make_photos(folder: Path, count: int) -> None:
    from sklearn.datasets import load_sample_images

    pictures = load_sample_images().images
    generator = np.random.default_rng(0)
    for number in range(count):
        top, left = generator.integers(0, (200, 320))
        picture = Image.fromarray(pictures[number % 2][top : top + 220, left : left + 320])
        picture.save(folder / f"{number:05d}.jpg", quality=88)


def extract_photos(archives: Sequence[str], folder: Path, count: int) -> None:
    """The first ``count`` photos of some sources, as files of one folder."""
    number = 0
    for archive in archives:
        source = open_source(archive)
        for index in range(len(source)):
            place = source.place(index)
            if not isinstance(place, FilePlace) or number == count:
                break
            suffix = Path(source.keys[index]).suffix
            (folder / f"{number:05d}{suffix}").write_bytes(place.read())
            number += 1


def alone(encoder: Encoder, folder: Path, count: int) -> tuple[float, float]:
    """Wall and CPU seconds for ``count`` photos that are in memory: some batches of real ones, again and again."""
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())[: 4 * BATCH]]
    batches = [
        render_centre(pictures[at : at + BATCH], encoder.image_size, mean=encoder.mean, std=encoder.std)
        for at in range(0, len(pictures), BATCH)
    ]
    encoder.embed_pixels(batches[0])
    start, cpu = time.perf_counter(), time.process_time()
    done = 0
    while done < count:
        batch = batches[done // BATCH % len(batches)][: count - done]
        encoder.embed_pixels(batch)
        done += len(batch)
    return time.perf_counter() - start, time.process_time() - cpu


def children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def index(encoder: str, folder: Path, store: Path, *options: str) -> tuple[float, float, str]:
    """Wall and CPU seconds of the whole command, and what it printed."""
    command = [sys.executable, "-m", "s2r2", "index", encoder, str(folder), "--index", str(store), *options]
    start, cpu = time.perf_counter(), children_cpu()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - start, children_cpu() - cpu, done.stdout.strip()


def change_ten(folder: Path) -> None:
    """Four new photos, three changed, two deleted, one moved."""
    paths = sorted(folder.iterdir())
    for number in range(4):
        Image.new("RGB", (100, 80), (40 * number, 90, 0)).save(folder / f"new-{number}.png")
    for number in range(3):
        Image.new("RGB", (100, 80), (0, 90, 40 * number)).save(paths[number], "PNG")
    paths[3].unlink()
    paths[4].unlink()
    paths[5].rename(folder / f"moved{paths[5].suffix}")


def vectors_by_key(store: Path) -> np.ndarray:
    found = ImageIndex.open(store)
    return found.vectors[np.argsort(found.catalogue.table["key"].to_pylist())]


def both_precisions(name: str, folder: Path, scratch: Path, pairs: int) -> dict[str, Any]:
    """``s2r2 index`` in float32 and bfloat16, one after the other, and the encoder alone on one batch in memory.

    Ratios are of CPU seconds, of all threads: other programs on the machine matter little.
    """
    place, _, size = name.partition("@")
    encoder = load(place, image_size=int(size) if size else None)
    run = encoder.save(scratch / name.replace("/", "-").replace(":", "-")).parent
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())[:BATCH]]
    batch = encoder.prepare(pictures)
    cpu: dict[str, list[float]] = {}
    for pair in range(pairs + 1):
        for precision in ("float32", "bfloat16"):
            began = time.process_time()
            encoder.embed_pixels(batch, precision=precision)
            if pair:  # the first time kernels are chosen
                cpu.setdefault(f"alone {precision}", []).append(time.process_time() - began)
    stores = {precision: scratch / f"{precision}.index" for precision in ("float32", "bfloat16")}
    for _ in range(pairs):
        for precision, store in stores.items():
            seconds = index(str(run), folder, store, "--precision", precision, "--rebuild")[1]
            cpu.setdefault(f"command {precision}", []).append(seconds)
    exact, fast = map(vectors_by_key, stores.values())
    least = {what: min(seconds) for what, seconds in cpu.items()}
    return {
        "encoder": encoder.name, "image_size": encoder.image_size, "photos": len(exact), "cpu_s": cpu,
        "alone_ms": {p: 1000 * least[f"alone {p}"] / len(batch) for p in stores},
        "command_ms": {p: 1000 * least[f"command {p}"] / len(exact) for p in stores},
        "ratio_alone": least["alone float32"] / least["alone bfloat16"],
        "ratio_command": least["command float32"] / least["command bfloat16"],
        "recall": recall_of(exact, fast), "least_cosine": float((exact * fast).sum(1).min()),
    }  # fmt: skip


def compare_precisions(names: Sequence[str], folder: Path, scratch: Path, pairs: int) -> None:
    rows = []
    print("encoder, pixels, photos, alone: ms float32 / bfloat16 = ratio, command: the same, recall@10, least cosine")
    for name in names:
        row = both_precisions(name, folder, scratch, pairs)
        rows.append(row)
        cells = [
            f"{row[what + '_ms']['float32']:.1f} / {row[what + '_ms']['bfloat16']:.1f} = {row['ratio_' + what]:.2f}"
            for what in ("alone", "command")
        ]
        said = [row["encoder"], row["image_size"], row["photos"], *cells, f"{row['recall']:.4f}", row["least_cosine"]]
        print(*said, sep=", ", flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.with_name("precisions.json").write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", default=[], help="photos: folder, tar, manifest; may be repeated")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--encoder", default="untrained:resnet18")
    parser.add_argument("--image-size", type=int, help="for untrained: and timm:")
    parser.add_argument("--precisions", nargs="+", metavar="ENCODER[@SIZE]", help="float32 beside bfloat16 of these")
    parser.add_argument("--pairs", type=int, default=2, help="pairs of commands with --precisions")
    arguments = parser.parse_args()
    if arguments.precisions:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "photos")
            folder.mkdir()
            if arguments.data:
                extract_photos(arguments.data, folder, arguments.count)
            else:
                make_photos(folder, arguments.count)
            compare_precisions(arguments.precisions, folder, Path(scratch), arguments.pairs)
        return
    encoder = load(arguments.encoder, image_size=arguments.image_size)
    with tempfile.TemporaryDirectory() as scratch:
        folder, store, run = (Path(scratch) / name for name in ("photos", "index", "encoder"))
        folder.mkdir()
        encoder.save(run)
        if arguments.data:
            extract_photos(arguments.data, folder, arguments.count)
        else:
            make_photos(folder, arguments.count)
        count = len(list(folder.iterdir()))
        before, before_cpu = alone(encoder, folder, count // 2)
        command, command_cpu, said = index(str(run), folder, store)
        after, after_cpu = alone(encoder, folder, count - count // 2)
        nothing, nothing_cpu, _ = index(str(run), folder, store)
        change_ten(folder)
        ten, ten_cpu, said_ten = index(str(run), folder, store)
        photos = len(ImageIndex.open(store))
    alone_s, alone_cpu = before + after, before_cpu + after_cpu
    result = {
        "photos": count, "encoder": encoder.name, "image_size": encoder.image_size, "threads": torch.get_num_threads(),
        "alone_s": alone_s, "alone_cpu_s": alone_cpu, "command_s": command, "command_cpu_s": command_cpu,
        "speed_ratio": alone_s / command, "speed_ratio_without_start": alone_s / (command - nothing),
        "nothing_new_s": nothing, "ten_changes_s": ten, "photos_after": photos,
    }  # fmt: skip
    print(f"{said}\n{said_ten}\n")
    print(f"{count:,} photos, {encoder.name} at {encoder.image_size} px, {torch.get_num_threads()} torch threads")
    for what, wall, cpu in (
        ("encoder alone, tensors in memory", alone_s, alone_cpu),
        ("s2r2 index, the whole command", command, command_cpu),
        ("again, nothing new", nothing, nothing_cpu), ("again, ten changes", ten, ten_cpu),
    ):  # fmt: skip
        print(f"{what:34s} {wall:7.1f} s   {cpu:7.1f} CPU s")
    print(f"of the encoder's own speed: {alone_s / command:.2f}, without starting Python "
          f"{alone_s / (command - nothing):.2f}")  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
