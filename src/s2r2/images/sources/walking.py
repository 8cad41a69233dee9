"""The files below a folder."""

import os
from collections.abc import Callable
from pathlib import Path

from s2r2.images.sources.names import is_helper, printable
from s2r2.images.sources.skipped import Skipped
from s2r2.system.files import os_reason


def walk(
    folder: Path,
    problems: list[Skipped],
    is_wanted: Callable[[str], bool],
    why_not: Callable[[str], str | None] = lambda _: None,
) -> list[str]:
    """Names of the wanted files below a folder; each real folder once, so that links cannot go round.

    Args:
        folder: The folder.
        problems: Folders that cannot be listed, and files with a reason, are added.
        is_wanted: Whether a file of this name is wanted.
        why_not: Why one that is not has to be told of; None: it is passed over.
    """
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
            elif is_wanted(name):
                found.append(name)
            elif reason := why_not(name):
                problems.append(Skipped(printable(name), reason))
        waiting += reversed(folders)
    return found
