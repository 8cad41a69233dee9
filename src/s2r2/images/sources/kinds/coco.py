"""MS-COCO in the form in which it is published: folders of images beside ``annotations/instances_*.json``.

Lin et al., *Microsoft COCO: Common Objects in Context*, ECCV 2014. The labels of an image are the categories of the
objects annotated in it.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from s2r2.errors import S2R2Error
from s2r2.images.sources.labels import Labels
from s2r2.images.sources.names import printable
from s2r2.images.sources.register import Data, register_source
from s2r2.images.sources.skipped import Skipped
from s2r2.images.sources.source import FileSource, ImageSource
from s2r2.system.files import os_reason
from s2r2.system.wording import amount

AGAIN = "fetch it again from https://cocodataset.org/#download"

PREFIX = "instances_"


@register_source(
    "MS-COCO",
    "the COCO folder, one of its folders of images such as val2017, or an instances_*.json",
    parts="annotations/instances_PART.json",
    priority=-1,  # any sub-folder may be a part without its annotations: other data sets are asked first
)
def open_coco(data: Data) -> ImageSource | None:
    """Images and labels that COCO's annotation files name.

    Raises:
        S2R2Error: A file is damaged or names no images, or the images or the annotations of a part are missing.
    """
    folder, part = data.path, data.part
    if folder.suffix.lower() == ".json" and folder.is_file() and not part:
        return _open(folder.parent.parent, [folder])
    if not folder.is_dir():
        return None
    own = sorted((folder / "annotations").glob(f"{PREFIX}{part or '*'}.json"))
    beside = folder.parent / "annotations" / f"{PREFIX}{folder.name}.json"
    annotations = own or ([beside] if not part and beside.is_file() else [])
    if not annotations and part and (folder / part).is_dir():
        raise S2R2Error(
            f"{folder / part} has no labels: put {PREFIX}{part}.json into {folder / 'annotations'} (from "
            f"https://cocodataset.org/#download), or name {folder / part} itself for images without labels"
        )
    return _open(folder, annotations) if annotations else None


def _open(folder: Path, annotations: Sequence[Path]) -> FileSource:
    paths: dict[str, str] = {}
    labels: dict[str, list[str]] = {}
    problems: list[Skipped] = []
    for path in annotations:
        part = path.stem.removeprefix(PREFIX)
        images, names, count = _read(path)
        if count:
            problems.append(Skipped(path.name, f"{amount(count, 'annotation')} of unknown images or categories"))
        place = _image_folder(folder, part, path, images)
        for number, file_name in images.items():
            key = printable(f"{part}/{file_name}" if len(annotations) > 1 else file_name)
            paths[key] = str(place / file_name)
            labels[key] = sorted({*labels.get(key, ()), *names[number]})  # a file may be there under two numbers
    name = printable(" ".join([str(folder), *(path.stem for path in annotations)]))
    places = [os.path.realpath(path) for path in (folder, *annotations)]
    files = list(paths.values())
    return FileSource(
        name, list(paths), files, Labels.from_lists(list(labels.values())), problems, identity=" ".join(places)
    )


def _read(path: Path) -> tuple[dict[int, str], dict[int, list[str]], int]:
    """File name and categories of each image by its number, and how many annotations fit to nothing."""
    try:
        content = json.loads(path.read_bytes())
        images = _once((_number(image["id"]), _inside(image["file_name"])) for image in content["images"])
        categories = _once((_number(category["id"]), str(category["name"])) for category in content["categories"])
        pairs = [(_number(a["image_id"]), _number(a["category_id"])) for a in content["annotations"]]
    except OSError as error:
        raise S2R2Error(f"cannot read {path}: {os_reason(error)}") from error
    except KeyError as error:
        raise S2R2Error(f"{path} is not COCO's instances file: {error} is missing; {AGAIN}") from error
    except (ValueError, TypeError, RecursionError) as error:
        line = next(iter(str(error).splitlines()), "")
        raise S2R2Error(f"{path} is damaged ({line[:200]}): {AGAIN}") from error
    if not images:
        raise S2R2Error(f"{path} names no images: {AGAIN}")
    found: dict[int, set[str]] = {number: set() for number in images}
    unknown = 0
    for image, category in pairs:
        if image in images and category in categories:
            found[image].add(categories[category])
        else:
            unknown += 1
    return images, {number: sorted(names) for number, names in found.items()}, unknown


def _once(pairs: Iterable[tuple[int, str]]) -> dict[int, str]:
    """What each number stands for."""
    found: dict[int, str] = {}
    for number, text in pairs:
        if found.setdefault(number, text) != text:
            raise ValueError(f"{number} is the number of both {found[number]} and {text}")
    return found


def _number(value: Any) -> int:
    if not isinstance(value, int):
        raise ValueError(f"{value!r} is no number")
    return value


def _inside(name: Any) -> str:
    """A file name that cannot lead out of its folder."""
    if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{name!r} is no file name")
    return name


def _image_folder(folder: Path, part: str, annotations: Path, images: dict[int, str]) -> Path:
    """Where the images are: ``part/``, ``images/part/``, ``images/`` or the folder itself."""
    places = (folder / part, folder / "images" / part, folder / "images", folder)
    first = list(images.values())[:100]
    place = next((place for place in places if any((place / name).is_file() for name in first)), None)
    if place is None:
        raise S2R2Error(f"the images of {annotations} are not in {folder / part}: unpack them there")
    return place
