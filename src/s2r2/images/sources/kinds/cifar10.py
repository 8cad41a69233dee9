"""CIFAR-10 in the forms in which it is published: ``cifar-10-batches-bin/*.bin`` and ``cifar-10-batches-py``.

Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009, https://www.cs.toronto.edu/~kriz/cifar.html.
A binary record is one byte of label, 0 to 9, and 3 x 32 x 32 bytes: red, green, blue, each row by row.
"""

from pathlib import Path

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.images.sources.downloading import data_sets_folder, downloaded
from s2r2.images.sources.labels import Labels
from s2r2.images.sources.names import printable
from s2r2.images.sources.register import Data, register_source
from s2r2.images.sources.source import ArraySource, ImageSource
from s2r2.system.files import os_reason

BINARY, PICKLED = "cifar-10-batches-bin", "cifar-10-batches-py"
SIDE = 32
RECORD = 1 + 3 * SIDE * SIDE
BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@register_source(
    "CIFAR-10",
    "cifar-10-batches-bin or cifar-10-batches-py as published, or cifar10, which is downloaded",
    built_in=["cifar10"],
    parts="train, test",
)
def open_cifar10(data: Data) -> ImageSource | None:
    """CIFAR-10 from its published files, binary or pickled; ``train`` without a part.

    Raises:
        S2R2Error: The part is unknown, or a file is missing or damaged.
    """
    if data.name == "cifar10":
        folder = data_sets_folder() / PICKLED
        if not _is_cifar10(folder):
            from torchvision.datasets import CIFAR10

            folder = downloaded("cifar10", PICKLED, CIFAR10)
    else:
        found = [place for place in (data.path, data.path / BINARY, data.path / PICKLED) if _is_cifar10(place)]
        if not found:
            return None
        folder = found[0]
    part = data.part or "train"
    if part not in BATCHES:
        raise S2R2Error(f"{folder} has no part {part}: use train or test")
    name = printable(f"{folder.absolute()}:{part}")
    if any(folder.glob("*.bin")):
        return _open_binary(folder, part, name)
    return _open_pickled(folder, part, name)


def _is_cifar10(folder: Path) -> bool:
    batches = [name for names in BATCHES.values() for name in names]
    return any((folder / f"{name}.bin").is_file() or (folder / name).is_file() for name in batches)


def _open_binary(folder: Path, part: str, name: str) -> ImageSource:
    records = []
    for batch in BATCHES[part]:
        path = folder / f"{batch}.bin"
        try:
            contents = np.fromfile(path, np.uint8)
        except OSError as error:
            raise S2R2Error(f"cannot read {path}: {os_reason(error)}; fetch cifar-10-binary.tar.gz again") from error
        if len(contents) % RECORD or not len(contents):
            raise S2R2Error(
                f"{path} is damaged: {len(contents):,} bytes are not a whole number of 32 x 32 images; "
                f"fetch cifar-10-binary.tar.gz again"
            )
        records.append(contents.reshape(-1, RECORD))
    rows = np.concatenate(records)
    if rows[:, 0].max() >= len(CLASSES):
        raise S2R2Error(f"{folder} is damaged: a label is not between 0 and 9; fetch cifar-10-binary.tar.gz again")
    pixels = rows[:, 1:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return _source(name, pixels, rows[:, 0].tolist())


def _open_pickled(folder: Path, part: str, name: str) -> ImageSource:
    """Read by torchvision, which compares each file's checksum first: a pickle from elsewhere could run code."""
    from torchvision.datasets import CIFAR10

    if folder.name != PICKLED:
        raise S2R2Error(f"{folder} holds CIFAR-10's batches: name it {PICKLED}, as its publisher does")
    try:
        data = CIFAR10(str(folder.parent), train=part == "train")
    except Exception as error:  # RuntimeError, OSError, pickle errors: all mean that the files are not the published
        raise S2R2Error(f"{folder} is damaged or incomplete ({error}): fetch cifar-10-python.tar.gz again") from error
    return _source(name, data.data, data.targets)


def _source(name: str, pixels: np.ndarray, numbers: list[int]) -> ImageSource:
    labels = Labels.from_lists([[CLASSES[number]] for number in numbers])
    return ArraySource(name, pixels, labels, identity=name)
