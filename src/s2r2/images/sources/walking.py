"""The files below a folder."""

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

from s2r2.images.sources.names import is_helper, printable
from s2r2.images.sources.skipped import Skipped
from s2r2.system.files import os_reason

LINKED = "folder: a link to one that is read already"
_WRITTEN = (frozenset(("config.yaml", "views.png")), frozenset(("evaluation.json", "pictures")))
"""What only runs and evaluations have in one folder: pictures that are beside and below it are none of the photos."""


def walk(
    folder: Path,
    problems: list[Skipped],
    is_wanted: Callable[[str], bool],
    why_not: Callable[[str], str | None] = lambda _: None,
) -> list[str]:
    """Names of the wanted files below a folder; each real folder once, so that links cannot go round.

    What is there itself comes before what links lead to, so that photos keep their names when a link is made to them.
    Folders of runs and evaluations are passed over: who trains inside the folder of photos would find their pictures
    among the photos.

    Args:
        folder: The folder.
        problems: Folders that cannot be listed, and files with a reason, are added.
        is_wanted: Whether a file of this name is wanted.
        why_not: Why one that is not has to be told of; None: it is passed over.
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    waiting = [(str(folder), "")]
    links: deque[tuple[str, str]] = deque()
    while waiting or links:
        path, prefix = waiting.pop() if waiting else links.popleft()
        place = printable(prefix.rstrip("/") or str(folder))
        try:
            status = os.stat(path)
            if status.st_ino and (status.st_dev, status.st_ino) in seen:
                problems.append(Skipped(place, LINKED))
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                below = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            problems.append(Skipped(place, f"folder: {os_reason(error)}"))
            continue
        names = {entry.name for entry in below}
        if prefix and any(written <= names for written in _WRITTEN):
            continue
        folders: list[tuple[str, str]] = []
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
                (links if entry.is_symlink() else folders).append((entry.path, f"{name}/"))
            elif is_wanted(name):
                found.append(name)
            elif reason := why_not(name):
                problems.append(Skipped(printable(name), reason))
        waiting += reversed(folders)
    return found
