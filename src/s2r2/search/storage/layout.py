"""Where things lie in an index: what is published, who writes, and what may be thrown away.

DIR/index.json                 what readers go by; replaced as a whole, so they see the old index or the new one
DIR/lock                       there while a process writes
DIR/skipped.csv                photos that could not be read, and why
DIR/marks.csv                  results that people marked as right or wrong; no update touches it
DIR/marks.lock                 there while a server writes marks
DIR/FINGERPRINT-N/             everything that one encoder made (FINGERPRINT alone in format 2); a rebuild makes another
    encoder.safetensors        a copy of that encoder
    lance/                     LanceDB's rows: the truth
    rows.json                  which files of the rows are on disk for good, with a checksum each
    vectors-N.npy, catalogue-N.arrow     what searches map into memory, made from the rows
    map-N.npz                  the place of each photo on the map
    words-N.npy                vectors of a CLIP-like model, if words are to find photos
    search-N/                  what the search backend has made of the vectors, if it needs anything
"""

import contextlib
import os
import re
from pathlib import Path

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.images.sources.names import is_helper, printable
from s2r2.runs import ENCODER_FILE as ENCODER

DESCRIPTION = "index.json"
LOCK = "lock"
SKIPPED = "skipped.csv"
MARKS = "marks.csv"
MARKS_LOCK = "marks.lock"
ROWS = "lance"
RECORD = "rows.json"

GENERATION = re.compile(r"([0-9a-f]{24})(?:-([1-9][0-9]{0,17}))?")
_OWN_FILES = re.compile(
    rf"{re.escape(ENCODER)}|{re.escape(RECORD)}|vectors-\d+\.npy|catalogue-\d+\.arrow|map-\d+\.npz|words-\d+\.npy"
    rf"|\.({re.escape(ENCODER)}|{re.escape(RECORD)})\.\w+\.tmp"
)
_SEARCH_FOLDER = re.compile(r"search-\d+")
_TEMPORARY = re.compile(rf"\.({re.escape(DESCRIPTION)}|{re.escape(SKIPPED)})\.\w+\.tmp")
_LANCE_FILES = re.compile(r".+\.(lance|manifest|txn|arrow|bin|idx|json)")
SEARCH_FILES = re.compile(r".+\.(lance|manifest|txn|arrow|bin|idx|json|npy|npz|faiss|safetensors)")
"""What search backends may write: only this is ever removed."""
LANCE_TEMPORARY = re.compile(r".+\.\w+#\d+|\.tmp\w{6}")
"""What LanceDB writes before it gives a file its name; after a kill it stays, and LanceDB never removes it."""


class DamagedIndex(S2R2Error):
    """Something in an index is not what was written; a rebuild makes it anew."""

    def __init__(self, folder: Path, why: object) -> None:
        said = next(iter(str(why).strip().splitlines()), "unreadable")[:300]
        super().__init__(f"the index in {folder} is damaged ({said}): rebuild it with s2r2 index --rebuild")


class IndexGone(S2R2Error):
    """What an open index shows was deleted or replaced since: open it again."""


def check_local(folder: Path) -> None:
    """Refuse an address of object storage, which as a path would name a new folder here, and what LanceDB cannot open.

    Raises:
        S2R2Error: ``folder`` is such an address, or its path is no UTF-8 or has control characters.
    """
    address = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+):/", str(folder))
    if address is not None:
        raise ArgumentError(f"{folder}: an index cannot be at an address ({address[1]}:); use a folder on this machine")
    whole = os.path.abspath(folder)
    if printable(whole) != whole or re.search(r"[\x00-\x1f\x7f]", whole):
        raise ArgumentError(
            f"{printable(whole)!a}: the path of an index must be UTF-8 without control characters: choose another"
        )


def check_free_for_index(folder: Path) -> None:
    """Refuse a folder that holds other people's files; those that systems put into any folder do not count.

    Raises:
        S2R2Error: There is something in ``folder`` that no index writes.
    """
    for entry in folder.iterdir():
        if entry.name in (DESCRIPTION, LOCK, SKIPPED, MARKS, MARKS_LOCK) or is_helper(entry.name):
            continue
        if not GENERATION.fullmatch(entry.name):
            raise ArgumentError(f"{folder} holds other files than an index ({entry.name}): choose another `folder`")


def no_index(folder: Path) -> str:
    """Says that there is no index in ``folder``, and where one can be made."""
    try:
        if folder.exists():
            check_free_for_index(folder)
    except (S2R2Error, OSError):
        return (
            f"no index in {folder}, which is something else: make one in a new folder with s2r2 index ENCODER DATA "
            "--index DIR"
        )
    return f"no index in {folder}: make one with s2r2 index ENCODER DATA --index {folder}"


def generation_for(folder: Path, fingerprint: str, published: str | None, rebuild: bool) -> str:
    """Name of the generation to write: the one in force, one that an interrupted process left, or a new one."""
    if published is not None and not rebuild:
        return published
    found = [match for entry in folder.iterdir() if (match := GENERATION.fullmatch(entry.name))]
    numbers = [int(match[2] or 0) for match in found]
    own = max((match for match in found if match[1] == fingerprint), key=lambda m: int(m[2] or 0), default=None)
    in_force = -1
    if published is not None:
        in_force = int((GENERATION.fullmatch(published) or [0, 0, 0])[2] or 0)
    if own is not None and int(own[2] or 0) > in_force and not (rebuild and published is None):
        return own[0]
    return f"{fingerprint}-{max([in_force, 0, *numbers]) + 1}"


def new_generation(folder: Path, fingerprint: str) -> str:
    """Name of a generation that nothing has been written to."""
    found = [match for entry in folder.iterdir() if (match := GENERATION.fullmatch(entry.name))]
    return f"{fingerprint}-{max([0, *(int(match[2] or 0) for match in found)]) + 1}"


def lance_files(generation: Path) -> list[Path]:
    """All files of the rows of a generation.

    Raises:
        DamagedIndex: There is a link among them: what LanceDB removes there would be removed elsewhere.
    """
    found: list[Path] = []
    for place in (generation, generation / ROWS):
        if place.is_symlink():
            raise DamagedIndex(generation.parent, f"{place} is a link")
    for parent, folders, files in os.walk(generation / ROWS):
        for name in (*folders, *files):
            if os.path.islink(os.path.join(parent, name)):
                raise DamagedIndex(generation.parent, f"{os.path.join(parent, name)} is a link")
        found += [Path(parent, name) for name in files]
    return found


def remove_leftovers(folder: Path, published: str, keep: set[str]) -> None:
    """Delete what no reader can come to any more: older generations and catalogues, temporary files.

    Only files that an index writes are removed, by name, and folders that are then empty. No link is followed.

    Args:
        folder: Of the index.
        published: Name of the generation in force.
        keep: Names of the files inside the generation's folder that belong to it.
    """
    for entry in folder.iterdir():
        if _TEMPORARY.fullmatch(entry.name):
            _unlink(entry)
        elif GENERATION.fullmatch(entry.name) and entry.name != published:
            _remove_generation(entry)
    _remove_own_files(folder / published, keep)


def _remove_generation(generation: Path) -> None:
    if generation.is_symlink():
        generation.unlink(missing_ok=True)
        return
    if not generation.is_dir():
        return
    if not (generation / ROWS).is_symlink():
        _remove_below(generation / ROWS, _LANCE_FILES)
    _remove_own_files(generation, set())
    _rmdir(generation)


def _remove_own_files(generation: Path, keep: set[str]) -> None:
    for entry in generation.iterdir():
        if entry.name in keep:
            continue
        if _OWN_FILES.fullmatch(entry.name):
            _unlink(entry)
        elif _SEARCH_FOLDER.fullmatch(entry.name):
            remove_search_folder(entry)


def remove_search_folder(folder: Path) -> None:
    """Remove what a search backend has made; links are removed, not followed."""
    if folder.is_symlink():
        _unlink(folder)
    else:
        _remove_below(folder, SEARCH_FILES)


def _remove_below(folder: Path, own: re.Pattern[str]) -> None:
    """Remove files by their names, and folders that are then empty; links to folders are not entered."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            if own.fullmatch(name) or LANCE_TEMPORARY.fullmatch(name):
                _unlink(Path(parent, name))
        _rmdir(Path(parent))


def search_folder(number: int) -> str:
    """Name of the folder of the search backend that belongs to catalogue ``number``."""
    return f"search-{number}"


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _rmdir(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.rmdir()
