"""What an index says about itself in ``index.json``, which readers go by."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2r2.errors import S2R2Error
from s2r2.images.sources.names import printable
from s2r2.search.storage.layout import DESCRIPTION, GENERATION, DamagedIndex
from s2r2.system.files import checksum, write_text

if TYPE_CHECKING:
    from s2r2.encoder.precision import Precision

FORMAT = 5
SEALED_FROM = 3
"""Formats from this one on have checksums."""
LARGEST_SIDE = 1 << 14
_TYPES: dict[str, Any] = {
    "fingerprint": str, "generation": str, "encoder": str, "data": str, "updated": str, "s2r2": str,
    "photos": int, "dimensions": int, "skipped": int, "number": int, "version": int, "format": int,
    "backend": str, "backend_settings": dict | None, "chosen_backend": str, "files": dict, "side": int | None,
    "words": str, "words_fingerprint": str, "precision": str,
}  # fmt: skip


@dataclass(frozen=True)
class Published:
    """What an index is, as its ``index.json`` says.

    Attributes:
        fingerprint: Of the vectors: that of the encoder that made them; in bfloat16 another one.
        encoder: Name of that encoder.
        data: What was indexed.
        photos: How many photos.
        dimensions: Length of a vector.
        skipped: How many photos could not be read.
        number: Of the published catalogue; grows by one with each.
        version: LanceDB's version of the rows that the catalogue was made from.
        backend: Name of the search backend.
        backend_settings: What it has measured and set; None if it is not good enough, so that search is exact.
        chosen_backend: What the user has chosen: a name, or ``auto``.
        updated: When, in ISO 8601.
        s2r2: Version that wrote it.
        generation: Name of the folder in which all of it is.
        files: Checksums of the files of the generation that readers use; none in format 2.
        side: Short side in pixels to which photos are reduced for the encoder.
        words: Name of the CLIP-like model that made the vectors for words; empty if there are none.
        words_fingerprint: Of its weights.
        precision: In which the encoder computes, ``"float32"`` or ``"bfloat16"``.
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
    updated: str
    s2r2: str
    generation: str
    files: dict[str, str] = field(default_factory=dict)
    side: int | None = None
    backend: str = "exact"
    backend_settings: dict[str, float] | None = field(default_factory=dict)
    chosen_backend: str = "auto"
    words: str = ""
    words_fingerprint: str = ""
    precision: "Precision" = "float32"
    format: int = FORMAT

    @property
    def searched_by(self) -> str:
        """Name of the backend that answers."""
        return self.backend if self.backend_settings is not None else "exact"

    def write(self, folder: Path) -> None:
        """Publish: from here on readers that open ``folder`` see this."""
        content = {name: printable(value) if isinstance(value, str) else value for name, value in asdict(self).items()}
        write_sealed(folder / DESCRIPTION, content)


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
    if content.get("format", FORMAT) in range(SEALED_FROM, FORMAT + 1) and check != _check(content):
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
            f"cannot read {folder / DESCRIPTION}: {error.strerror or error}; check the disk and its permissions"
        ) from error
    if content.get("format") not in range(2, FORMAT + 1):
        raise DamagedIndex(folder, "another version of s2r2 wrote it")
    try:
        content = _in_this_format(content)
        published = Published(**content)
        _check_types(published)
    except (TypeError, ValueError, AttributeError) as error:
        raise DamagedIndex(folder, f"{DESCRIPTION}: {error}") from error
    return published


def _in_this_format(content: dict[str, Any]) -> dict[str, Any]:
    """The description of an index of an earlier format, as it would be in this one."""
    if content["format"] == 2:
        content = {"generation": content.get("fingerprint"), "files": {}} | content
    if content["format"] < 4:  # LanceDB's index was inside of the rows: searched exactly until the next update
        content.pop("approximate", None)
    return content


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
    if not GENERATION.fullmatch(published.generation) or published.generation[:24] != published.fingerprint:
        raise ValueError(f"generation is {published.generation!r}")
    if published.precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision is {published.precision!r}")
    if published.side is not None and not 1 <= published.side <= LARGEST_SIDE:
        raise ValueError(f"side is {published.side}")
    for name, value in (published.backend_settings or {}).items():
        if not isinstance(value, int | float):
            raise ValueError(f"backend_settings.{name} is {value!r}")


def decoding_side(published: Published | None, image_size: int) -> int:
    """Short side to which photos are reduced for an encoder of ``image_size``: the vectors of an index are made alike.

    Early versions did not state it, and took at least that of a thumbnail.
    """
    from s2r2.encoder import store_side

    if published is None:
        return store_side(image_size)
    return published.side or max(store_side(image_size), 192)
