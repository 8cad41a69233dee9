"""STL-10 in the form in which it is published: ``stl10_binary/*.bin``.

Coates, Lee, Ng, *An Analysis of Single Layer Networks in Unsupervised Feature Learning*,
AISTATS 2011, https://cs.stanford.edu/~acoates/stl10. Each image is
3 x 96 x 96 bytes: red, green, blue, each column by column. ``*_y.bin`` has one byte for each image, 1 to 10.
"""

from pathlib import Path

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.images.sources.downloading import data_sets_folder, downloaded
from s2r2.images.sources.joining import JoinedSource
from s2r2.images.sources.labels import Labels
from s2r2.images.sources.names import printable
from s2r2.images.sources.register import Data, register_source
from s2r2.images.sources.source import ArraySource, ImageSource
from s2r2.system.files import os_reason, stamp

FOLDER = "stl10_binary"
SIDE = 96
AGAIN = "fetch stl10_binary.tar.gz again from https://cs.stanford.edu/~acoates/stl10"
PARTS = ("train", "test", "unlabeled")
CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


@register_source(
    "STL-10",
    "stl10_binary as published, or stl10, which is downloaded",
    built_in=["stl10"],
    parts="train, test, unlabeled",
    priority=1,  # a folder may hold several data sets: it has always been the first of them
)
def open_stl10(data: Data) -> ImageSource | None:
    """STL-10 from its published files, mapped into memory; without a part all that is there.

    Raises:
        S2R2Error: A part is unknown or missing, or its files do not fit together.
    """
    part = data.part
    if data.name == "stl10":
        folder, part = data_sets_folder() / FOLDER, part or "unlabeled"
        if not _is_stl10(folder):
            from torchvision.datasets import STL10

            folder = downloaded("stl10", FOLDER, STL10)
    else:
        found = [place for place in (data.path, data.path / FOLDER) if _is_stl10(place)]
        if not found:
            return None
        folder = found[0]
    parts = part.split("+") if part else [p for p in PARTS if (folder / f"{p}_X.bin").is_file()]
    for one in parts:
        if one not in PARTS:
            raise S2R2Error(f"{folder} has no part {one}: use {', '.join(PARTS)}, or several joined by +")
    sources = [_open_part(folder, one) for one in parts]
    return sources[0] if len(sources) == 1 else JoinedSource(sources)


def _is_stl10(folder: Path) -> bool:
    return any((folder / f"{part}_X.bin").is_file() for part in PARTS)


def _open_part(folder: Path, part: str) -> ImageSource:
    pixels = folder / f"{part}_X.bin"
    try:
        size = pixels.stat().st_size
        count, rest = divmod(size, 3 * SIDE * SIDE)
        if rest or not count:
            raise S2R2Error(f"{pixels} is damaged: {size:,} bytes are not a whole number of 96 x 96 images; {AGAIN}")
        columns = np.memmap(pixels, np.uint8, mode="r").reshape(count, 3, SIDE, SIDE)
        labels = None if part == "unlabeled" else _labels(folder, part, count)
    except OSError as error:
        raise S2R2Error(f"cannot read {error.filename or pixels}: {os_reason(error)}; {AGAIN}") from error
    keys = [f"{i:06d}" for i in range(count)]
    name = printable(f"{folder.absolute()}:{part}")
    source = ArraySource(name, columns.transpose(0, 3, 2, 1), labels, keys, stamp(pixels), identity=name)
    source.folds = _folds(folder, count) if part == "train" else ()
    return source


def _folds(folder: Path, count: int) -> list[np.ndarray]:
    """The ten predefined folds of 1,000 training images, where the file with them is there."""
    path = folder / "fold_indices.txt"
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        folds = [np.array(line.split(), np.int64) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise S2R2Error(f"cannot read {path} ({error}): {AGAIN}, or delete it to do without folds") from error
    if any(len(fold) == 0 or fold.min() < 0 or fold.max() >= count for fold in folds):
        raise S2R2Error(f"{path} is damaged: it names images beyond the {count:,} that there are; {AGAIN}")
    return folds


def _labels(folder: Path, part: str, count: int) -> Labels | None:
    path, names = folder / f"{part}_y.bin", folder / "class_names.txt"
    classes = names.read_text(encoding="utf-8").split() if names.is_file() else list(CLASSES)
    numbers = np.fromfile(path, np.uint8)
    if len(numbers) != count:
        raise S2R2Error(f"{path} is damaged: {len(numbers):,} labels for {count:,} images; {AGAIN}")
    if numbers.min() < 1 or numbers.max() > len(classes):
        raise S2R2Error(f"{path} is damaged: a label is not between 1 and {len(classes)}; {AGAIN}")
    return Labels.from_lists([[classes[number - 1]] for number in numbers])
