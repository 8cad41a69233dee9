"""``DATA``, as people write it: a path of any known kind, or the name of a data set."""

import csv
import difflib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.images.sources import cifar10, stl10
from s2r2.images.sources.base import (
    ArraySource,
    ImageSource,
    JoinedSource,
    PartSource,
    Skipped,
    os_reason,
    printable,
)
from s2r2.images.sources.coco import find_coco, missing_annotations, open_coco
from s2r2.images.sources.folders import NoImages, open_folder
from s2r2.images.sources.labels import Labels
from s2r2.images.sources.manifest import open_manifest
from s2r2.images.sources.remote import local
from s2r2.images.sources.shards import is_shards, open_shards, shards_of_folder
from s2r2.images.sources.tars import open_tar
from s2r2.images.sources.voc import is_voc, open_voc
from s2r2.images.store.cache import cache_folder
from s2r2.system.files import atomic_write
from s2r2.system.terminal import csv_safe


def open_source(data: str | Path | Sequence[str | Path]) -> ImageSource:
    """Open images for reading.

    Args:
        data: A folder (searched recursively; sub-folders are labels when every image lies exactly one level down); a
            manifest (``.csv`` or ``.parquet`` with ``path`` and optionally ``label`` or ``labels`` joined by ``;``)
            or a ``.tar`` (read in place), both also with a part that a column ``split`` names
            (``photos.csv:test``); tar shards (a folder of them, a pattern such as ``shard-{000..099}.tar``, or an
            address such as ``s3://bucket/shard-{000..099}.tar``), labelled by the ``.cls`` beside each image; STL-10,
            CIFAR-10, MS-COCO or PASCAL VOC in their published layout (a folder, or ``FOLDER:PART``); a
            built-in name (``digits``, ``stl10``, ``cifar10``, each also with a part: ``digits:train``); or several of
            these.

    Raises:
        S2R2Error: There is nothing there, or nothing that is an image.
    """
    if not isinstance(data, str | Path):
        sources = [open_source(part) for part in data]
        if not sources:
            raise S2R2Error("no DATA: give a folder of photos, a manifest, a .tar, or digits")
        return sources[0] if len(sources) == 1 else JoinedSource(sources)
    text = local(str(data))
    try:
        return _open(text)
    except (OSError, ValueError) as error:  # a name with a NUL, or longer than the system takes; a disk that fails
        raise S2R2Error(f"cannot read {printable(text)}: {os_reason(error)}") from None


def _open(data: str) -> ImageSource:
    if is_shards(data):
        return open_shards(data)
    place, part = _split_part(data)
    if place in BUILT_IN and not Path(place).exists():
        return BUILT_IN[place](part)
    path = Path(place).expanduser()
    if path.is_dir():
        return _open_published(path, part) or _open_plain(path, part)
    if not path.exists():
        near = difflib.get_close_matches(path.name.partition(":")[0], _neighbours(path), n=1, cutoff=0.7)
        hint = f"did you mean {near[0]}?" if near else "give a folder, a manifest, a .tar, or digits, stl10, cifar10"
        raise S2R2Error(f"no such file or folder: {printable(data)}; {hint}")
    if not path.is_file():
        raise S2R2Error(f"{printable(data)} is neither a folder nor a regular file: give one of these")
    suffix = path.suffix.lower()
    if suffix == ".tar":
        return _pick(open_tar(path), part)
    if suffix in (".csv", ".parquet"):
        return _pick(open_manifest(path), part)
    if suffix == ".json" and not part:
        return open_coco(path.parent.parent, [path])
    raise S2R2Error(f"{printable(data)} is neither a folder nor a .csv, .parquet or .tar: give one of these")


def absolute_data(data: str | Path) -> str:
    """``DATA`` as it is found from any folder: a path made absolute; a built-in name or an address as it is.

    Links are not followed: the rows of a manifest are relative to the folder of the link to it.
    """
    place, part = _split_part(str(data))
    if "://" in place or (place in BUILT_IN and not Path(place).exists()):
        return str(data)
    return f"{Path(place).expanduser().absolute()}{f':{part}' if part else ''}"


def _split_part(data: str) -> tuple[str, str]:
    """``stl10:test`` is the part test of stl10, unless there is a file of that very name."""
    path, colon, part = data.rpartition(":")
    if not colon or Path(data).exists() or not (path in BUILT_IN or Path(path).expanduser().exists()):
        return data, ""
    return path, part


def _open_published(path: Path, part: str) -> ImageSource | None:
    """STL-10, CIFAR-10, COCO or VOC, where a folder has the layout in which they are published."""
    for folder in (path, path / stl10.FOLDER):
        if stl10.is_stl10(folder):
            return stl10.open_stl10(folder, part)
    for folder in (path, path / cifar10.BINARY, path / cifar10.PICKLED):
        if cifar10.is_cifar10(folder):
            return cifar10.open_cifar10(folder, part)
    if annotations := find_coco(path, part):
        return open_coco(path, annotations)
    for folder in (path, path / "VOC2007", path / "VOCdevkit" / "VOC2007"):
        if is_voc(folder):
            return open_voc(folder, part)
    return None


def _pick(source: ImageSource, part: str) -> ImageSource:
    """The images of a part that the source's table names; all without a part."""
    if not part:
        return source
    if part not in source.parts:
        known = ", ".join(source.parts) or "none: its table has no column split"
        raise S2R2Error(f"{source.name} has no part {part}; it has {known}")
    return PartSource(source, part)


def _open_plain(path: Path, part: str) -> ImageSource:
    if part:
        if (path / part).is_dir():  # the images of COCO, without their annotations
            raise S2R2Error(
                f"{path / part} has no labels: {missing_annotations(path, part)}, or name {path / part} itself for "
                "images without labels"
            )
        raise S2R2Error(
            f"{path} has no part {part}: parts are those of STL-10 (train, test, unlabeled), CIFAR-10 (train, test), "
            f"COCO (annotations/instances_PART.json) and VOC (ImageSets/Main/PART.txt)"
        )
    shards = shards_of_folder(path)
    try:
        return open_folder(path)
    except NoImages as error:
        if not shards:
            raise
        source = open_shards(str(path), shards)
        opened = {printable(os.path.basename(shard)) for shard in shards}
        source.problems += [problem for problem in error.problems if problem.key not in opened]
        return source


def write_skipped(path: str | Path, skipped: Sequence[Skipped]) -> None:
    """Write the list of what was left out as CSV: ``image``, ``reason``; a spreadsheet runs none of it."""
    with atomic_write(path, "w") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "reason"])
        writer.writerows([csv_safe(printable(entry.key)), csv_safe(printable(entry.reason))] for entry in skipped)


def _digits(part: str) -> ImageSource:
    """Scikit-learn's 1,797 handwritten digits; ``train`` and ``test`` are 80 % and 20 % of each class.

    They have 8 x 8 pixels and are enlarged to 32 x 32: random crops of whole pixels would be too coarse otherwise.
    """
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, classes = load_digits(return_X_y=True)
    small = [Image.fromarray(np.rint(image / 16 * 255).astype(np.uint8)) for image in images.reshape(-1, 8, 8)]
    pixels = np.stack([np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)) for image in small])
    indices = np.arange(len(pixels))
    train, test = train_test_split(indices, test_size=0.2, random_state=0, stratify=classes)
    parts = {"": indices, "train": np.sort(train), "test": np.sort(test)}
    chosen = parts[_part("digits", part, parts)]
    labels = Labels.from_lists([[str(classes[i])] for i in chosen])
    return ArraySource(f"digits:{part}" if part else "digits", pixels[chosen], labels, [f"{i:04d}" for i in chosen])


def _cifar10(part: str) -> ImageSource:
    root = _data_sets()
    if not cifar10.is_cifar10(root / cifar10.PICKLED):
        from torchvision.datasets import CIFAR10

        _download("cifar10", cifar10.PICKLED, CIFAR10.url, root, CIFAR10.filename, CIFAR10.tgz_md5)
    return cifar10.open_cifar10(root / cifar10.PICKLED, part)


def _stl10(part: str) -> ImageSource:
    root = _data_sets()
    if not stl10.is_stl10(root / stl10.FOLDER):
        from torchvision.datasets import STL10

        _download("stl10", stl10.FOLDER, STL10.url, root, STL10.filename, STL10.tgz_md5)
    return stl10.open_stl10(root / stl10.FOLDER, part or "unlabeled")


def _download(name: str, folder: str, url: str, root: Path, filename: str, checksum: str) -> None:
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        download_and_extract_archive(url, str(root), filename=filename, md5=checksum)
    except Exception as error:  # urllib, OSError, RuntimeError: all mean that the files are not to be had
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise S2R2Error(
            f"{name} cannot be downloaded ({line}): put its published folder {folder} into {root}"
        ) from error


BUILT_IN: dict[str, Callable[[str], ImageSource]] = {"digits": _digits, "cifar10": _cifar10, "stl10": _stl10}


def _data_sets() -> Path:
    """Where downloaded data sets are kept."""
    root = cache_folder() / "datasets"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise S2R2Error(f"cannot make {root}: {error.strerror or error}; set S2R2_CACHE to another folder") from error
    return root


def _part(name: str, part: str, parts: Sequence[str] | dict[str, np.ndarray]) -> str:
    if part not in parts:
        raise S2R2Error(f"{name}:{part} is not known: use {', '.join(f'{name}:{p}' if p else name for p in parts)}")
    return part


def _neighbours(path: Path) -> list[str]:
    try:
        beside = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        beside = []
    return [*beside, *BUILT_IN]
