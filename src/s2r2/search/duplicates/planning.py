"""Which photo of each group stays, and which copies may be put away."""

import fnmatch
import os
from collections.abc import Callable
from dataclasses import dataclass

from s2r2.errors import ArgumentError
from s2r2.images.remote import is_remote
from s2r2.search.duplicates.finding import Comparer, Duplicates
from s2r2.search.index import ImageIndex

_GLOB = "path="


@dataclass(frozen=True)
class Copy:
    """A file that may be put away because another one stays.

    Attributes:
        row: Its row in the index.
        path: The file.
        kept_row: Row of the photo that stays.
        kept_path: Its file.
        kinds: What the copy is beside it.
        bytes: Size of the copy.
    """

    row: int
    path: str
    kept_row: int
    kept_path: str
    kinds: tuple[str, ...]
    bytes: int


@dataclass(frozen=True)
class Plan:
    """What would be done.

    Attributes:
        copies: Files to be put away, in the order of their groups.
        left: Photos in groups that are neither kept for a copy nor put away: where they are, and why.
    """

    copies: list[Copy]
    left: list[tuple[str, str]]


def check_keep(keep: str) -> None:
    """Refuse a rule that is none.

    Raises:
        ArgumentError: It is neither ``largest``, ``oldest``, ``newest`` nor ``path=GLOB``.
    """
    if keep not in ("largest", "oldest", "newest") and not (keep.startswith(_GLOB) and len(keep) > len(_GLOB)):
        raise ArgumentError(f"`keep={keep}`: use largest, oldest, newest or path=GLOB, such as path=*/originals/*")


def plan(index: ImageIndex, found: Duplicates, keep: str) -> Plan:
    """Decide which photo of each group stays; no file is changed.

    A copy is put away only beside a kept photo that it was compared with directly: where a group is a chain, its ends
    may show different parts of a scene, and then more than one photo stays. Only files of their own are kept or put
    away, never members of archives or photos at addresses.

    Args:
        index: Of the photos.
        found: Their groups.
        keep: ``largest`` (most pixels, then most bytes), ``oldest`` or ``newest`` (by the file's time), or
            ``path=GLOB``: all photos whose path matches stay; groups without one are left as they are.

    Raises:
        ArgumentError: ``keep`` is something else.
    """
    check_keep(keep)
    planned = Plan([], [])
    comparer = Comparer(index)
    for group in found.groups:
        _plan_group(index, comparer, group.rows, keep, planned)
    return planned


def _plan_group(index: ImageIndex, comparer: Comparer, rows: list[int], keep: str, planned: Plan) -> None:
    files: dict[int, str] = {}
    for row in rows:
        why = _why_not(index, comparer, row)
        if why:
            planned.left.append((index.location(row), why))
        else:
            files[row] = _path(index, row)
    waiting = sorted(files, key=_preference(index, comparer, keep))
    matching = {row for row in waiting if _matches(index, row, keep)}
    while len(waiting) > 1:
        kept = waiting.pop(0)
        if keep.startswith(_GLOB) and kept not in matching:
            break
        for row in list(waiting):
            kinds = () if row in matching else comparer.kinds(kept, row)
            if files[row] == files[kept]:  # found under two names through a link: it is one file
                waiting.remove(row)
            elif kinds:
                waiting.remove(row)
                size = index.catalogue.table["bytes"][row].as_py()
                planned.copies.append(Copy(row, files[row], kept, files[kept], kinds, size))


def _why_not(index: ImageIndex, comparer: Comparer, row: int) -> str:
    """Why a photo is left alone; empty if it is a file of its own that is still what was indexed."""
    table = index.catalogue.table
    if not table["file"][row].as_py() or is_remote(_path(index, row)):
        return "it is no file on this machine"
    if index.catalogue.is_member(row):
        return "it is inside an archive"
    if not comparer.original(row).there:
        return "its file is gone or has changed since it was indexed"
    return ""


def _path(index: ImageIndex, row: int) -> str:
    return os.fsdecode(index.catalogue.table["file"][row].as_py())


def _matches(index: ImageIndex, row: int, keep: str) -> bool:
    return keep.startswith(_GLOB) and fnmatch.fnmatchcase(_path(index, row), keep.removeprefix(_GLOB))


def _preference(index: ImageIndex, comparer: Comparer, keep: str) -> Callable[[int], tuple[float, ...]]:
    """Sorts photos so that what is to be kept comes first; equal ones stay in the order of their keys."""

    def order(row: int) -> tuple[float, ...]:
        seen = comparer.original(row)
        size = (-seen.width * seen.height, -seen.bytes)
        modified = index.catalogue.table["modified"][row].as_py() or 0.0
        if keep == "oldest":
            return (modified, *size)
        if keep == "newest":
            return (-modified, *size)
        return (not _matches(index, row, keep), *size)

    return order
