"""Which files of an index's rows are on disk for good.

LanceDB does not sync what it writes, so a power cut may leave a version of the table whose data never came to the disk.
After each commit its new files are synced and written down with their checksums; a version that was not written down is
taken back by the next update, and a file that is not what was written down is damage, which is said.
"""

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from s2r2.search.storage.layout import LANCE_TEMPORARY, RECORD, DamagedIndex, lance_files
from s2r2.search.storage.published import read_sealed, write_sealed
from s2r2.search.storage.rows import TABLE
from s2r2.system.files import checksum, sync_file, sync_folder

_CHANGING = "latest_version_hint.json"
_LARGEST_VERSION = 2**64 - 1  # newer versions come first in an alphabetic list


class RowFiles:
    """The files of the rows of one generation.

    Args:
        generation: Its folder.
    """

    def __init__(self, generation: Path) -> None:
        self.generation = generation
        self._known = _read(generation)

    def restore(self, trusted: bool) -> None:
        """Check the files that were written down, take back versions that were not, and remove what was half written.

        Args:
            trusted: Whether rows may be there without a record: an older s2r2 wrote them.

        Raises:
            DamagedIndex: A file is not what was written down, or a link is in its place.
        """
        present = self._present()
        for path in present.values():
            if LANCE_TEMPORARY.fullmatch(path.name):
                path.unlink()
        if self._known is None and trusted:
            return
        known = self._known or {}
        self._check([name for name in present if name in known])
        for name, path in present.items():
            if name not in known and path.suffix == ".manifest":
                path.unlink()

    def cut_short(self) -> bool:
        """Whether an update ended, or is, between writing a version and writing it down."""
        return self._known is not None and any(
            name not in self._known and path.suffix == ".manifest" for name, path in self._present().items()
        )

    def holds_only(self, version: int) -> bool:
        """Whether all files are what was written down, and no update wrote any after this version of the photos.

        Raises:
            DamagedIndex: A file is not what was written down.
        """
        present = self._present()
        if self._known is None or present.keys() != self._known.keys():
            return False
        self._check(list(present))
        manifests = [path for path in present.values() if path.suffix == ".manifest"]
        tables = [path.parts[-3] for path in manifests]
        photos = [path.stem for path, table in zip(manifests, tables, strict=True) if table == f"{TABLE}.lance"]
        one_each = len(tables) == len(set(tables))
        return one_each and photos in ([f"{version}"], [f"{_LARGEST_VERSION - version:020}"])

    def check_for_reading(self) -> None:
        """Check what is small: versions and deletions; the data tell of themselves.

        Raises:
            DamagedIndex: One is not what was written down.
        """
        self._check([name for name in self._known or {} if "/data/" not in name and "/_indices/" not in name])

    def record(self) -> None:
        """Make what was committed durable: the files, their folders, then the list of them."""
        present = self._present()
        known = self._known or {}
        new = [name for name in present if name not in known]
        if not new and known.keys() == present.keys():
            return
        for name in new:
            sync_file(present[name])
        folders = {folder for name in new for folder in present[name].parents if self.generation in folder.parents}
        for folder in (*sorted(folders, key=lambda path: -len(path.parts)), self.generation):
            sync_folder(folder)
        sums = self._sums(new)
        self._known = {name: found for name in sorted(present) if (found := known.get(name) or sums[name])}
        write_sealed(self.generation / RECORD, {"files": self._known})

    def _present(self) -> dict[str, Path]:
        found = {path.relative_to(self.generation).as_posix(): path for path in lance_files(self.generation)}
        return {name: path for name, path in found.items() if path.name != _CHANGING}

    def _check(self, names: list[str]) -> None:
        known = self._known or {}
        for name, found in self._sums(names).items():
            if found not in (known[name], None):
                raise DamagedIndex(self.generation.parent, f"{self.generation.name}/{name} is not what was written")

    def _sums(self, names: list[str]) -> dict[str, str | None]:
        """Checksums of files; None of one that the writer has removed meanwhile."""

        def one(name: str) -> str | None:
            with contextlib.suppress(FileNotFoundError):
                return checksum(self.generation / name)
            return None

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return dict(zip(names, pool.map(one, names), strict=True))


def _read(generation: Path) -> dict[str, str] | None:
    try:
        files = read_sealed(generation / RECORD)["files"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise DamagedIndex(generation.parent, f"{generation.name}/{RECORD}: {error}") from error
    with contextlib.suppress(AttributeError):
        return {str(name): str(value) for name, value in files.items()}
    raise DamagedIndex(generation.parent, f"{generation.name}/{RECORD} names no files")
