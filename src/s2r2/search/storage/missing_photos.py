"""Photos of an index that an update did not find: which are known to be gone, and which may only be out of reach."""

import enum
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from s2r2.images import ImageSource
from s2r2.images.places import FilePlace
from s2r2.images.remote import is_remote
from s2r2.images.sources.names import is_helper, printable
from s2r2.images.sources.walking import LINKED
from s2r2.search.storage.rows import Known
from s2r2.system.files import os_reason

HANDFUL = 5
"""So many photos may be gone at once whatever the size of the index."""

SHARE = 0.1
"""More than this share of an index gone at once is taken for a disk that is away."""


class Sight(enum.Enum):
    """What is known of a file's place."""

    GONE = enum.auto()
    THERE = enum.auto()
    AWAY = enum.auto()
    UNKNOWN = enum.auto()


@dataclass
class Unseen:
    """What is to be done with the rows of photos that an update did not read.

    Attributes:
        drop: Keys of photos that are known to be gone.
        missing: Those that are not where they were, though nobody knows, and why; ``drop_missing`` drops them.
        unreadable: Those that are there, or whose folder cannot be looked at, and why.
        moved: Of those to drop, the ones whose content has come under another name.
    """

    drop: set[str] = field(default_factory=set)
    missing: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    moved: set[str] = field(default_factory=set)


class MissingPhotos:
    """Tells photos that are gone from those that are out of reach.

    A photo is gone when its folder can be read, is not empty, and does not have it; or when its folder is gone in the
    same way from a folder of a disk on which this update has seen photos there. An empty folder may be a disk that is
    not mounted. Whatever else the operating system says (input/output error, no permission, stale handle, not
    connected, timed out) tells nothing of the photo.

    Args:
        source: The photos as they are now.
        failed: Key and reason of those that are listed but could not be read.
        seen: Keys of those that were found.
    """

    def __init__(self, source: ImageSource, failed: Mapping[str, str], seen: Collection[str]) -> None:
        self._source, self._failed, self._seen = source, failed, seen
        self._problems = {
            printable(problem.key).rstrip("/" + os.sep): problem.reason
            for problem in source.problems
            if problem.reason != LINKED  # its photos are listed, under another name
        }
        self._names: dict[str, set[str] | OSError] = {}
        self._alive: set[str] | None = None

    def classify(self, known: Mapping[str, Known], files: Mapping[str, bytes]) -> Unseen:
        """Sort the photos of which the index has rows, but that were not read.

        Args:
            known: What the index remembers of them.
            files: Where the file of each was.
        """
        result = Unseen()
        for key, row in known.items():
            unlisted = self._problem(key, row.location)
            looks = dict(self._look(place) for place in _places(row.location, files.get(key, b"")))
            if unlisted:
                result.unreadable[key] = unlisted
            elif Sight.GONE in looks:
                result.drop.add(key)
            elif Sight.UNKNOWN in looks:
                result.unreadable[key] = looks[Sight.UNKNOWN]
            elif Sight.AWAY in looks:
                result.missing[key] = looks[Sight.AWAY]
            elif key in self._failed:
                result.unreadable[key] = self._failed[key]
            else:  # it is there, but left out of DATA; or it was at an address or in memory, and the source has it not
                result.drop.add(key)
        return result

    def _problem(self, key: str, location: str) -> str:
        """Why the photo could not be listed, if the source says so of it or of a folder or archive that it is in."""
        if not self._problems:
            return ""
        named = location.partition("::")[0]
        for text in {key, named, location}:
            for place in (text, *map(str, Path(text).parents)):
                if place in self._problems and key not in self._failed:
                    return self._problems[place]
        return ""

    def _look(self, path: str) -> tuple[Sight, str]:
        """What is known of the file, and in words why it is not more."""
        try:
            os.stat(path)
            return Sight.THERE, ""
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError) as error:
            return Sight.UNKNOWN, os_reason(error)
        missing, above = path, os.path.dirname(path)
        while isinstance(names := self._listed(above), FileNotFoundError | NotADirectoryError):
            missing, above = above, os.path.dirname(above)
            if missing == above:
                return Sight.AWAY, f"{printable(missing)} is not there"
        if isinstance(names, OSError):
            return Sight.UNKNOWN, f"{printable(above)}: {os_reason(names)}"
        if os.path.lexists(missing):
            return Sight.AWAY, f"{printable(missing)} leads nowhere"
        if not names:
            return Sight.AWAY, f"{printable(above)} is empty"
        if missing != path and above not in self._folders_alive():
            return Sight.AWAY, f"{printable(missing)} is not there"
        return Sight.GONE, ""

    def _listed(self, folder: str) -> set[str] | OSError:
        """Names in a folder, without those that systems put into any folder."""
        if folder not in self._names:
            try:
                self._names[folder] = {name for name in os.listdir(folder) if not is_helper(name)}
            except OSError as error:
                self._names[folder] = error
        return self._names[folder]

    def _folders_alive(self) -> set[str]:
        """Folders at or below which this update has seen photos, on the same disk."""
        if self._alive is None:
            self._alive = set()
            folders: set[str] = set()
            for index, key in enumerate(self._source.keys):
                if printable(key) in self._seen and isinstance(place := self._source.place(index), FilePlace):
                    folders.add(os.path.dirname(os.path.abspath(place.path)))
            for folder in folders | set(map(os.path.realpath, folders)):
                self._alive |= _on_one_disk(folder)
        return self._alive


def _places(location: str, file: bytes) -> list[str]:
    """Where the photo's file was: under the name by which people find it, and where that led."""
    if not file:
        return []
    path = os.fsdecode(file)
    if is_remote(path):  # its store has just listed all that it has
        return []
    if location == printable(path):  # which may have a "::" of its own
        return [path]
    named = location.partition("::")[0]
    return [path] if not os.path.isabs(named) or named == printable(path) or "\\" in named else [named, path]


def _on_one_disk(folder: str) -> set[str]:
    """A folder and those above it on the same disk, the root of all not among them."""
    found: set[str] = set()
    try:
        disk = os.stat(folder).st_dev
        for parent in (folder, *map(str, Path(folder).parents)):
            if os.path.dirname(parent) == parent or os.stat(parent).st_dev != disk:
                break
            found.add(parent)
    except OSError:
        pass
    return found


def settle(found: Unseen, known: Mapping[str, Known], arrived: Counter[str], photos: int, drop_missing: bool) -> Unseen:
    """Decide with all of an update in view: what moved is not missed, and a great loss at once is not believed.

    Args:
        found: What :class:`MissingPhotos` found.
        known: What the index remembers of these photos.
        arrived: How many photos of which content came under new names.
        photos: How many the index had.
        drop_missing: Whether the user says that what was not found is gone.
    """
    lost = _without_arrivals([*found.drop, *found.missing], known, arrived)
    moved = (found.drop | found.missing.keys()) - lost
    drop = found.drop | moved
    missing = {key: why for key, why in found.missing.items() if key in lost}
    if too_many(len(lost & found.drop), photos):
        missing |= dict.fromkeys(lost & found.drop, "gone together with more than a tenth of all")
    if drop_missing:
        return Unseen(drop | missing.keys(), {}, found.unreadable, moved)
    return Unseen(drop - missing.keys(), missing, found.unreadable, moved)


def too_many(lost: int, photos: int) -> bool:
    """Whether so many photos gone at once are rather a disk that is away."""
    return lost > max(HANDFUL, photos * SHARE)


def _without_arrivals(gone: Iterable[str], known: Mapping[str, Known], arrived: Counter[str]) -> set[str]:
    """Of the photos that are gone, those whose content did not arrive under another name."""
    left = Counter(arrived)
    lost = set()
    for key in gone:
        if left[known[key].content] > 0:
            left[known[key].content] -= 1
        else:
            lost.add(key)
    return lost
