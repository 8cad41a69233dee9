"""Putting copies away: into a folder, into the trash, or by a script that a person reads first."""

import contextlib
import hashlib
import os
import shlex
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.images.sources.names import is_helper
from s2r2.search.duplicates.planning import Copy, Plan
from s2r2.search.index import ImageIndex
from s2r2.system.files import os_reason, sync_folder, why_not_written, write_bytes
from s2r2.system.terminal import visible

CHANGED = "it or the photo that stays has changed or gone: left as it is"

_SCRIPT = """\
#!/bin/sh
# Removes copies of photos. Each line names a copy and its SHA-256, then the photo that stays and its SHA-256:
# a copy is removed only while both files are what they were when this script was written. Where a name has control
# characters, which could change what a terminal shows, a fifth word says what is printed instead.
sha256() {
    {
        if command -v sha256sum >/dev/null; then sha256sum <"$1"; else shasum -a 256 <"$1"; fi
    } 2>/dev/null | cut -d' ' -f1
}
remove() {
    if [ "$(sha256 "$1")" = "$2" ] && [ "$(sha256 "$3")" = "$4" ] && rm -f -- "$1" 2>/dev/null; then
        printf 'removed  %s\\n' "${5:-$1}"
    else
        printf 'left     %s\\n' "${5:-$1}" >&2
    fi
}

"""


def move_copies(index: ImageIndex, plan: Plan, folder: Path) -> Iterator[tuple[Copy, str]]:
    """Move copies into a folder; nothing in it is overwritten.

    Args:
        index: Of the photos.
        plan: What to move.
        folder: Where to; made if it is missing.

    Yields:
        Each copy and what was done, for people.

    Raises:
        S2R2Error: The folder cannot be made, or lies among the photos.
    """
    _refuse_among_photos(index, plan, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise S2R2Error(f"cannot make the folder {folder}: {why_not_written(error)}choose another `move_to`") from error
    return _each(index, plan, lambda path: f"moved to {_moved(path, folder)}")


def _refuse_among_photos(index: ImageIndex, plan: Plan, folder: Path) -> None:
    """Refuse a folder from which the next update would take the copies into the index again."""
    if Path(index.about.data).suffix.lower() in (".csv", ".parquet"):  # which says what its photos are
        return
    rows = ((index.location(copy.row).replace(os.sep, "/"), index.hit(1, copy.row, 1.0).key) for copy in plan.copies)
    root = next((place[: -len(key)] for place, key in rows if place.endswith(f"/{key}")), None)
    if root is not None and _leads_into(folder, root):
        raise ArgumentError(
            f"`move_to={folder}` lies among the photos, and the next update of the index would find the copies there: "
            "choose a folder beside them"
        )


def _leads_into(folder: Path, root: str) -> bool:
    try:
        parts = Path(os.path.realpath(folder)).relative_to(os.path.realpath(root)).parts
    except ValueError:
        return False
    return not any(map(is_helper, parts))  # those are passed over


def trash_copies(index: ImageIndex, plan: Plan) -> Iterator[tuple[Copy, str]]:
    """Put copies into the trash of the system; otherwise as :func:`move_copies`."""
    from send2trash import send2trash

    def trash(path: str) -> str:
        with _writable(path):
            send2trash(path)
        return "in the trash"

    return _each(index, plan, trash)


@contextlib.contextmanager
def _writable(path: str) -> Iterator[None]:
    """Lift the write protection of a file for a moment; send2trash refuses files that are protected."""
    if os.access(path, os.W_OK) or os.name != "posix":
        yield
        return
    with open(path, "rb") as file:  # follows the file to where it goes
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        os.chmod(path, mode | stat.S_IWUSR)
        try:
            yield
        finally:
            os.fchmod(file.fileno(), mode)


def _each(index: ImageIndex, plan: Plan, act: Callable[[str], str]) -> Iterator[tuple[Copy, str]]:
    for copy in plan.copies:
        # Immediately before, for each copy anew: both files are read and their hashes compared with the index.
        if index.original(copy.kept_row) is None or index.original(copy.row) is None:
            yield copy, CHANGED
            continue
        try:
            yield copy, act(copy.path)
        except OSError as error:
            yield copy, f"left as it is: {os_reason(error)}"


def _moved(path: str, folder: Path) -> str:
    """Move a file into a folder under its own name or the next free one; returns where it is."""
    stem, ending = os.path.splitext(os.path.basename(path))
    number = 1
    while True:
        target = folder / (f"{stem}{ending}" if number == 1 else f"{stem} ({number}){ending}")
        try:
            _put(path, target)
        except FileExistsError:
            number += 1
            continue
        sync_folder(folder)
        try:
            os.unlink(path)
        except OSError:  # such as a folder that is read-only: the file stays where it was, and only there
            os.unlink(target)
            raise
        return str(target)


def _put(path: str, target: Path) -> None:
    """Give a file a second name, or where disks differ a copy with its times; never in place of another file."""
    try:
        os.link(path, target)
        return
    except FileExistsError:
        raise
    except OSError:
        pass
    with open(path, "rb") as source, open(target, "xb") as file:
        try:
            shutil.copyfileobj(source, file)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.unlink(target)
            raise
    with contextlib.suppress(OSError):  # some disks keep no such times
        shutil.copystat(path, target)


def script(index: ImageIndex, plan: Plan) -> bytes:
    """A shell script that removes the copies; files that have changed or gone are left out.

    Args:
        index: Of the photos.
        plan: What to remove.

    Returns:
        The script. Names of files are quoted as bytes, whatever is in them.
    """
    lines = []
    for copy in plan.copies:
        contents = [index.original(row) for row in (copy.row, copy.kept_row)]
        sums = [hashlib.sha256(content).hexdigest() for content in contents if content is not None]
        if len(sums) == 2:
            printed = "" if visible(copy.path) == copy.path else f" {shlex.quote(visible(copy.path))}"
            kept = f"{shlex.quote(copy.kept_path)} {sums[1]}{printed}"
            lines.append(f"# {', '.join(copy.kinds)}\nremove {shlex.quote(copy.path)} {sums[0]} \\\n    {kept}\n")
    return os.fsencode(_SCRIPT + "\n".join(lines))


def write_script(index: ImageIndex, plan: Plan, path: Path) -> None:
    """Write :func:`script` into a file.

    Raises:
        S2R2Error: It cannot be written.
    """
    write_bytes(path, script(index, plan))
