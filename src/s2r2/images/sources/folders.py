"""The images below a folder: what is read, what is listed, and what is passed over."""

import os
from collections.abc import Sequence
from pathlib import Path

from s2r2.errors import S2R2Error
from s2r2.images.decoding.decoder import EXTENSIONS
from s2r2.images.sources.base import FileSource, ImageSource, Skipped, os_reason
from s2r2.images.sources.labels import Labels
from s2r2.images.sources.names import is_helper, is_image, printable, unique, why_unread


class NoImages(S2R2Error):
    """A folder without an image that is read.

    Attributes:
        problems: What is in it that people call photos.
    """

    def __init__(self, text: str, problems: list[Skipped]) -> None:
        super().__init__(text)
        self.problems = problems


def open_folder(folder: Path) -> ImageSource:
    """All images below a folder; sub-folders are labels when every image lies exactly one level down.

    What is hidden, and what systems and network drives keep for themselves, is passed over; photos in formats that are
    not read, and folders that cannot be listed, are problems.

    Raises:
        NoImages: There is no image in it.
    """
    problems: list[Skipped] = []
    found = sorted(_walk(folder, problems))
    if not found:
        hint = f" ({problems[0].key}: {problems[0].reason})" if problems else ""
        text = f"no images in {printable(str(folder))}{hint}: looked for {', '.join(sorted(EXTENSIONS))}"
        raise NoImages(text, problems)
    keys = unique([printable(name) for name in found])
    paths = [str(folder / name) for name in found]
    identity = os.path.realpath(folder)
    return FileSource(printable(str(folder)), keys, paths, folder_labels(keys), problems, identity=identity)


def folder_labels(keys: Sequence[str]) -> Labels | None:
    """Labels from sub-folders, when every key is ``label/file`` and there are at least two labels."""
    parts = [key.split("/") for key in keys]
    if any(len(p) != 2 for p in parts) or len({p[0] for p in parts}) < 2:
        return None
    return Labels.from_lists([[p[0]] for p in parts])


def _walk(folder: Path, problems: list[Skipped]) -> list[str]:
    """Names of the images below a folder; each real folder once, so that links cannot go round."""
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    waiting = [(str(folder), "")]
    while waiting:
        path, prefix = waiting.pop()
        place = printable(prefix.rstrip("/") or str(folder))
        try:
            status = os.stat(path)
            if status.st_ino and (status.st_dev, status.st_ino) in seen:
                problems.append(Skipped(place, "folder: a link to one that is read already"))
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                below = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            problems.append(Skipped(place, f"folder: {os_reason(error)}"))
            continue
        folders = []
        for entry in below:
            if is_helper(entry.name):
                continue
            name = prefix + entry.name
            try:
                is_folder = entry.is_dir()
            except OSError as error:  # such as a link to itself
                problems.append(Skipped(printable(name), os_reason(error)))
                continue
            if is_folder:
                folders.append((entry.path, f"{name}/"))
            elif is_image(name):
                found.append(name)
            elif reason := why_unread(name):
                problems.append(Skipped(printable(name), reason))
        waiting += reversed(folders)
    return found
