"""``DATA``, as people write it: a path of any known kind, or the name of a data set."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from s2r2.errors import S2R2Error
from s2r2.images.archives import open_tar
from s2r2.images.coco import find_coco, open_coco
from s2r2.images.datasets import BUILT_IN, open_built_in
from s2r2.images.folders import open_folder
from s2r2.images.sources import ImageSource, JoinedSource
from s2r2.images.stl10 import is_stl10, open_stl10
from s2r2.images.tables import open_manifest
from s2r2.images.voc import is_voc, open_voc

KINDS = "a folder of images, a .csv or .parquet manifest, a .tar, or digits, stl10, cifar10"


def open_source(data: str | Path | Sequence[str | Path]) -> ImageSource:
    """Open images for reading.

    Args:
        data: A folder (searched recursively; sub-folders are labels when every image lies exactly one level down),
            a manifest (``.csv`` or ``.parquet`` with ``path`` and optionally ``label``, or ``labels`` joined by
            ``;``), a ``.tar`` (read in place), a built-in name (``digits``, ``stl10``, ``cifar10``, each also with
            a part: ``digits:train``), a data set as it is published (``stl10_binary``, a COCO folder or one of its
            ``instances_*.json``, ``VOC2007``; with a part: ``VOC2007:test``), or several of these.

    Raises:
        S2R2Error: There is nothing there, or nothing that is an image.
    """
    if not isinstance(data, str | Path):
        sources = [open_source(part) for part in data]
        if not sources:
            raise S2R2Error(f"no DATA: give {KINDS}")
        return sources[0] if len(sources) == 1 else JoinedSource(sources)
    if not str(data).strip():
        raise S2R2Error(f"DATA is empty text: give {KINDS}")
    path, part = _split_part(str(data))
    if path in BUILT_IN and not os.path.exists(path):
        return open_built_in(path, part)
    place = Path(path).expanduser()
    try:
        return _open_path(place, part, str(data))
    except OSError as error:
        raise S2R2Error(f"cannot open {data}: {error.strerror or error}") from error


def _open_path(path: Path, part: str, data: str) -> ImageSource:
    if path.is_dir():
        if is_stl10(path):
            return open_stl10(path, part)
        if is_voc(path):
            return open_voc(path, part)
        if (annotations := find_coco(path, part)):
            return open_coco(path, annotations)
        if not part:
            return open_folder(path)
    if part:
        raise S2R2Error(f"{data}: {path} has no part {part}; parts are those of a published data set, as in stl10:test")
    if not path.exists():
        raise S2R2Error(f"no such file or folder: {data}; {_suggestion(path)}")
    if path.suffix.lower() in (".csv", ".parquet"):
        return open_manifest(path)
    if path.suffix.lower() == ".json":
        return open_coco(path.parent.parent, [path])
    if path.is_file() and path.name.lower().endswith((".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")):
        return open_tar(path)
    raise S2R2Error(f"{data} cannot be opened as images: give {KINDS}")


def _split_part(data: str) -> tuple[str, str]:
    """``stl10:test`` is the part test of stl10, unless there is a file of that very name."""
    path, colon, part = data.rpartition(":")
    if not colon or os.path.exists(data) or not (path in BUILT_IN or os.path.isdir(os.path.expanduser(path))):
        return data, ""
    return path, part


def _suggestion(path: Path) -> str:
    try:
        beside = {entry.name: str(path.parent / entry.name) for entry in path.parent.iterdir()}
    except OSError:
        beside = {}
    if path.parent == Path():
        beside.update({name: name for name in BUILT_IN})
    name, _, part = path.name.partition(":")
    near = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.7)
    near = near or difflib.get_close_matches(name, beside, n=1, cutoff=0.7)
    return f"did you mean {beside[near[0]]}{':' + part if part else ''}?" if near else f"give {KINDS}"
