"""PASCAL VOC in the form in which it is published: ``JPEGImages``, ``Annotations`` and ``ImageSets/Main``.

Everingham et al., *The PASCAL Visual Object Classes (VOC) Challenge*, IJCV 2010. The labels of an image are the
classes of its objects, those marked difficult left out, as in the challenge's classification task.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from s2r2.errors import S2R2Error
from s2r2.images.sources.labels import Labels
from s2r2.images.sources.names import is_helper, is_image, printable, unique, why_unread
from s2r2.images.sources.register import Data, register_source
from s2r2.images.sources.skipped import Skipped
from s2r2.images.sources.source import FileSource, ImageSource
from s2r2.system.files import os_reason

AGAIN = "fetch it again from http://host.robots.ox.ac.uk/pascal/VOC"


@register_source("PASCAL VOC", "VOCdevkit or VOC2007 as published", parts="ImageSets/Main/PART.txt")
def open_voc(data: Data) -> ImageSource | None:
    """PASCAL VOC from its published files; a part is a list in ``ImageSets/Main``, such as ``trainval`` or ``test``.

    Raises:
        S2R2Error: The part is unknown or damaged, or there are no images.
    """
    places = (data.path, data.path / "VOC2007", data.path / "VOCdevkit" / "VOC2007")
    found = [place for place in places if (place / "JPEGImages").is_dir() and (place / "Annotations").is_dir()]
    if not found:
        return None
    folder, part = found[0], data.part
    problems: list[Skipped] = []
    try:
        names = _list(folder, part) if part else _all(folder, problems)
    except (OSError, UnicodeDecodeError) as error:
        raise S2R2Error(f"cannot read the images of {folder}: {os_reason(error)}") from error
    if not names:
        raise S2R2Error(f"no images in {folder}{':' + part if part else ''}: {AGAIN}")
    annotations = [folder / "Annotations" / f"{name.rpartition('.')[0]}.xml" for name in names]
    missing = sum(not path.is_file() for path in annotations)
    if 0 < missing < len(names):  # all of them: VOC2007 was first published without the test set's annotations
        problems.append(Skipped("Annotations", f"{missing:,} annotations are missing: those images have no label"))
    labels = [_classes(path, problems) for path in annotations]
    keys = unique([printable(f"JPEGImages/{name}") for name in names])
    name = printable(f"{folder}:{part}" if part else str(folder))
    paths = [str(folder / "JPEGImages" / name) for name in names]
    identity = f"{os.path.realpath(folder)}:{part}" if part else os.path.realpath(folder)
    return FileSource(name, keys, paths, Labels.from_lists(labels), problems, identity=identity)


def _all(folder: Path, problems: list[Skipped]) -> Sequence[str]:
    """File names of all images; photos of other formats are problems."""
    names = sorted(entry.name for entry in (folder / "JPEGImages").iterdir() if not is_helper(entry.name))
    others = ((name, why_unread(name)) for name in names)
    problems += [Skipped(printable(f"JPEGImages/{name}"), reason) for name, reason in others if reason]
    return [name for name in names if is_image(name)]


def _list(folder: Path, part: str) -> Sequence[str]:
    """File names of a part's images."""
    lists = folder / "ImageSets" / "Main"
    path = lists / f"{part}.txt"
    if not path.is_file() or path.parent != lists:
        # Beside the lists of images there is one for each class, as cat_train.txt; those are no parts.
        known = sorted(p.stem for p in lists.glob("*.txt") if "_" not in p.stem)
        raise S2R2Error(f"{folder} has no part {part}: use {', '.join(known) or 'no part'}")
    names = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if any("/" in name or "\\" in name for name in names):
        raise S2R2Error(f"{path} is damaged: it names files outside of JPEGImages; {AGAIN}")
    return [f"{name}.jpg" for name in dict.fromkeys(names)]


def _classes(path: Path, problems: list[Skipped]) -> list[str]:
    """Classes of the objects in an image; one whose annotation is damaged is an image without label."""
    try:
        objects = ElementTree.parse(path).getroot().findall("object")
        return sorted({(o.findtext("name") or "").strip() for o in objects if o.findtext("difficult") != "1"} - {""})
    except FileNotFoundError:  # counted by the caller
        return []
    except (OSError, ElementTree.ParseError, ValueError) as error:
        problems.append(Skipped(f"Annotations/{path.name}", f"no label read: {error}"))
        return []
