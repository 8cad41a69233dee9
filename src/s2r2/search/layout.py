"""Where things lie in an index: what is published, the lock of the one writer, and what may be thrown away.

DIR/index.json                 what readers go by; replaced as a whole, so they see the old index or the new one
DIR/lock                       held by the one process that writes
DIR/skipped.csv                photos that could not be read, and why
DIR/FINGERPRINT/               everything that one encoder made
    encoder.safetensors        a copy of that encoder
    lance/                     LanceDB's rows: the truth
    vectors-N.npy, catalogue-N.arrow     what searches map into memory, made from the rows
"""

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from s2r2.errors import S2R2Error
from s2r2.files import write_text

DESCRIPTION = "index.json"
LOCK = "lock"
SKIPPED = "skipped.csv"
ENCODER = "encoder.safetensors"
FORMAT = 2

_GENERATION = re.compile(r"[0-9a-f]{24}")
_TEMPORARY = re.compile(r"\..*\.tmp")


@dataclass(frozen=True)
class Published:
    """What an index is, as its ``index.json`` says.

    Attributes:
        fingerprint: Of the encoder that made the vectors; also the name of the folder in which they are.
        encoder: Name of that encoder.
        data: What was indexed.
        photos: How many photos.
        dimensions: Length of a vector.
        skipped: How many photos could not be read.
        number: Of the published catalogue; grows by one with each.
        version: LanceDB's version of the rows that the catalogue was made from.
        approximate: Settings and measured recall of the approximate index, or None while search is exact.
        updated: When, in ISO 8601.
        s2r2: Version that wrote it.
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
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Publish: from here on readers that open ``folder`` see this."""
        write_text(folder / DESCRIPTION, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")


def read_published(folder: Path) -> Published | None:
    """What is published in ``folder``; None if nothing is yet.

    Raises:
        S2R2Error: The description is damaged, or of another version of the format.
    """
    try:
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise S2R2Error(f"{folder / DESCRIPTION} is damaged ({error}): delete the folder and index again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise S2R2Error(f"the index in {folder} was written by another version of s2r2: delete it and index again")
    try:
        return Published(**content)
    except TypeError as error:
        raise S2R2Error(f"{folder / DESCRIPTION} is damaged ({error}): delete the folder and index again") from error


def check_local(folder: Path) -> None:
    """Refuse an address of object storage, which as a path would name a new folder here.

    Raises:
        S2R2Error: ``folder`` is such an address.
    """
    address = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+):/", str(folder))
    if address is not None:
        raise S2R2Error(f"--store {folder}: an index lies in a folder of this machine, not at an address {address[1]}:")


def check_free_for_index(folder: Path) -> None:
    """Refuse a folder that holds other people's files.

    Raises:
        S2R2Error: There is something in ``folder`` that no index writes.
    """
    for entry in folder.iterdir():
        if entry.name in (DESCRIPTION, LOCK, SKIPPED) or _TEMPORARY.fullmatch(entry.name):
            continue
        if not _GENERATION.fullmatch(entry.name):
            raise S2R2Error(f"{folder} holds something else than an index ({entry.name}): choose another --store")


def remove_leftovers(folder: Path, published: Published, keep: set[str]) -> None:
    """Delete what no reader can come to any more: other encoders' folders, older catalogues, temporary files.

    Args:
        folder: Of the index.
        published: What is in force.
        keep: Names of the files inside the generation's folder that belong to it.
    """
    for entry in folder.iterdir():
        if _TEMPORARY.fullmatch(entry.name):
            entry.unlink(missing_ok=True)
        elif _GENERATION.fullmatch(entry.name) and entry.name != published.fingerprint:
            shutil.rmtree(entry, ignore_errors=True)
    for entry in (folder / published.fingerprint).iterdir():
        if entry.is_file() and entry.name not in keep:
            entry.unlink(missing_ok=True)
