"""Where things lie in an index: what is published, who writes, and what may be thrown away.

DIR/index.json                 what readers go by; replaced as a whole, so they see the old index or the new one
DIR/lock                       there while a process writes
DIR/skipped.csv                photos that could not be read, and why
DIR/FINGERPRINT-N/             everything that one encoder made (FINGERPRINT alone in format 2); --rebuild makes another
    encoder.safetensors        a copy of that encoder
    lance/                     LanceDB's rows: the truth
    rows.json                  which files of the rows are on disk for good, with a checksum each
    vectors-N.npy, catalogue-N.arrow     what searches map into memory, made from the rows
    search-N.SUFFIX            files of a search backend that has some
"""

import contextlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from s2r2.errors import S2R2Error
from s2r2.images.sources.names import is_helper, printable
from s2r2.runs import ENCODER_FILE as ENCODER
from s2r2.system.files import checksum, write_text

DESCRIPTION = "index.json"
LOCK = "lock"
SKIPPED = "skipped.csv"
ROWS = "lance"
RECORD = "rows.json"
FORMAT = 3

_GENERATION = re.compile(r"([0-9a-f]{24})(?:-([1-9][0-9]{0,17}))?")
_OWN_FILES = re.compile(
    rf"{re.escape(ENCODER)}|{re.escape(RECORD)}|vectors-\d+\.npy|catalogue-\d+\.arrow|search-\d+\.[a-z]+"
    rf"|\.({re.escape(ENCODER)}|{re.escape(RECORD)})\.\w+\.tmp"
)
_TEMPORARY = re.compile(rf"\.({re.escape(DESCRIPTION)}|{re.escape(SKIPPED)})\.\w+\.tmp")
_LANCE_FILES = re.compile(r".+\.(lance|manifest|txn|arrow|bin|idx|json)")
LANCE_TEMPORARY = re.compile(r".+\.\w+#\d+|\.tmp\w{6}")
"""What LanceDB writes before it gives a file its name; after a kill it stays, and LanceDB never removes it."""
LARGEST_SIDE = 1 << 14
_TYPES: dict[str, Any] = {
    "fingerprint": str, "generation": str, "encoder": str, "data": str, "updated": str, "s2r2": str,
    "photos": int, "dimensions": int, "skipped": int, "number": int, "version": int, "format": int,
    "approximate": dict | None, "backend": str, "files": dict, "side": int | None,
}  # fmt: skip


class DamagedIndex(S2R2Error):
    """Something in an index is not what was written; ``--rebuild`` makes it anew."""

    def __init__(self, folder: Path, why: object) -> None:
        said = next(iter(str(why).strip().splitlines()), "unreadable")[:300]
        super().__init__(f"the index in {folder} is damaged ({said}): make it anew with s2r2 index --rebuild")


class IndexGone(S2R2Error):
    """What an open index shows was deleted or replaced since: open it again."""


@dataclass(frozen=True)
class Published:
    """What an index is, as its ``index.json`` says.

    Attributes:
        fingerprint: Of the encoder that made the vectors.
        encoder: Name of that encoder.
        data: What was indexed.
        photos: How many photos.
        dimensions: Length of a vector.
        skipped: How many photos could not be read.
        number: Of the published catalogue; grows by one with each.
        version: LanceDB's version of the rows that the catalogue was made from.
        approximate: Settings and measured recall of the backend, or None while search is exact.
        updated: When, in ISO 8601.
        s2r2: Version that wrote it.
        generation: Name of the folder in which all of it is.
        files: Checksums of the files of the generation that readers use; none in format 2.
        side: Short side in pixels to which photos are reduced for the encoder.
        backend: Name of the search backend that was asked for.
        format: Of the files.
    """

    fingerprint: str
    encoder: str
    data: str
    photos: int
    dimensions: int
    skipped: int
    number: int
    version: int
    approximate: dict[str, float] | None
    updated: str
    s2r2: str
    generation: str
    files: dict[str, str] = field(default_factory=dict)
    side: int | None = None
    backend: str = "exact"
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Publish: from here on readers that open ``folder`` see this."""
        content = {name: printable(value) if isinstance(value, str) else value for name, value in asdict(self).items()}
        write_sealed(folder / DESCRIPTION, content)


def backend_file(number: int, suffix: str) -> str:
    """Name of a search backend's file that belongs to catalogue ``number``."""
    return f"search-{number}.{suffix}"


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with a checksum of itself."""
    sealed = content | {"check": _check(content)}
    write_text(path, json.dumps(sealed, indent=1, ensure_ascii=False) + "\n")


def read_sealed(path: Path) -> dict[str, Any]:
    """Read JSON; a checksum, where it has one, must hold.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not what was written.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no description")
    check = content.pop("check", None)
    if content.get("format", FORMAT) == FORMAT and check != _check(content):
        raise ValueError(f"{path.name} is not what was written")
    return content


def _check(content: dict[str, Any]) -> str:
    return checksum(memoryview(json.dumps(content, sort_keys=True).encode()))


def read_published(folder: Path) -> Published | None:
    """What is published in ``folder``; None if nothing is yet.

    Raises:
        DamagedIndex: The description is damaged, or of another version of the format.
        S2R2Error: It cannot be read.
    """
    try:
        content = read_sealed(folder / DESCRIPTION)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise DamagedIndex(folder, f"{DESCRIPTION}: {error}") from error
    except OSError as error:
        raise S2R2Error(
            f"cannot read {folder / DESCRIPTION}: {error.strerror or error}; see to its disk and permissions"
        ) from error
    if content.get("format") == 2:
        content = {"generation": content.get("fingerprint"), "files": {}} | content
    elif content.get("format") != FORMAT:
        raise DamagedIndex(folder, "another version of s2r2 wrote it")
    if "backend" not in content:  # LanceDB was the only one
        content["backend"] = "exact" if content.get("approximate") is None else "lancedb"
    try:
        published = Published(**content)
        _check_types(published)
    except (TypeError, ValueError, AttributeError) as error:
        raise DamagedIndex(folder, f"{DESCRIPTION}: {error}") from error
    return published


def in_force(folder: Path) -> Published | None:
    """What is published in a folder whose index is to be made anew: what is damaged counts as nothing."""
    try:
        return read_published(folder)
    except DamagedIndex:
        return None


def _check_types(published: Published) -> None:
    for name, kind in _TYPES.items():
        value = getattr(published, name)
        if not isinstance(value, kind) or isinstance(value, bool) or (kind is int and value < 0):
            raise ValueError(f"{name} is {value!r}")
    if not _GENERATION.fullmatch(published.generation) or published.generation[:24] != published.fingerprint:
        raise ValueError(f"generation is {published.generation!r}")
    if published.side is not None and not 1 <= published.side <= LARGEST_SIDE:
        raise ValueError(f"side is {published.side}")
    for name, value in (published.approximate or {}).items():
        if not isinstance(value, int | float):
            raise ValueError(f"approximate.{name} is {value!r}")


def decoding_side(published: Published | None, image_size: int) -> int:
    """Short side to which photos are reduced for an encoder of ``image_size``: the vectors of an index are made alike.

    Early versions did not state it, and took at least that of a thumbnail.
    """
    from s2r2.encoder import store_side

    if published is None:
        return store_side(image_size)
    return published.side or max(store_side(image_size), 192)


def check_local(folder: Path) -> None:
    """Refuse an address of object storage, which as a path would name a new folder here, and what LanceDB cannot open.

    Raises:
        S2R2Error: ``folder`` is such an address, or its path is no UTF-8 or has control characters.
    """
    address = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+):/", str(folder))
    if address is not None:
        raise S2R2Error(f"--index {folder}: an index lies in a folder of this machine, not at an address {address[1]}:")
    whole = os.path.abspath(folder)
    if printable(whole) != whole or re.search(r"[\x00-\x1f\x7f]", whole):
        raise S2R2Error(
            f"--index {printable(whole)!a}: an index needs a folder whose path is UTF-8 without control characters: "
            "choose another"
        )


def check_free_for_index(folder: Path) -> None:
    """Refuse a folder that holds other people's files; those that systems put into any folder do not count.

    Raises:
        S2R2Error: There is something in ``folder`` that no index writes.
    """
    for entry in folder.iterdir():
        if entry.name in (DESCRIPTION, LOCK, SKIPPED) or is_helper(entry.name):
            continue
        if not _GENERATION.fullmatch(entry.name):
            raise S2R2Error(f"{folder} holds something else than an index ({entry.name}): choose another --index")


def generation_for(folder: Path, fingerprint: str, published: Published | None, rebuild: bool) -> str:
    """Name of the generation to write: the one in force, one that an interrupted process left, or a new one."""
    if published is not None and not rebuild:
        return published.generation
    found = [match for entry in folder.iterdir() if (match := _GENERATION.fullmatch(entry.name))]
    numbers = [int(match[2] or 0) for match in found]
    own = max((match for match in found if match[1] == fingerprint), key=lambda m: int(m[2] or 0), default=None)
    in_force = -1
    if published is not None:
        in_force = int((_GENERATION.fullmatch(published.generation) or [0, 0, 0])[2] or 0)
    if own is not None and int(own[2] or 0) > in_force and not (rebuild and published is None):
        return own[0]
    return f"{fingerprint}-{max([in_force, 0, *numbers]) + 1}"


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


def remove_leftovers(folder: Path, published: Published, keep: set[str]) -> None:
    """Delete what no reader can come to any more: older generations and catalogues, temporary files.

    Only files that an index writes are removed, by name, and folders that are then empty. No link is followed.

    Args:
        folder: Of the index.
        published: What is in force.
        keep: Names of the files inside the generation's folder that belong to it.
    """
    for entry in folder.iterdir():
        if _TEMPORARY.fullmatch(entry.name):
            _unlink(entry)
        elif _GENERATION.fullmatch(entry.name) and entry.name != published.generation:
            _remove_generation(entry)
    _remove_own_files(folder / published.generation, keep)


def _remove_generation(generation: Path) -> None:
    if generation.is_symlink():
        generation.unlink(missing_ok=True)
        return
    if not generation.is_dir():
        return
    rows = generation / ROWS
    if not rows.is_symlink():
        for parent, _, files in os.walk(rows, topdown=False):  # links to folders are not entered
            for name in files:
                if _LANCE_FILES.fullmatch(name) or LANCE_TEMPORARY.fullmatch(name):
                    _unlink(Path(parent, name))
            _rmdir(Path(parent))
    _remove_own_files(generation, set())
    _rmdir(generation)


def _remove_own_files(generation: Path, keep: set[str]) -> None:
    for entry in generation.iterdir():
        if entry.name not in keep and _OWN_FILES.fullmatch(entry.name):
            _unlink(entry)


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _rmdir(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.rmdir()
