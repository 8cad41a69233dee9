"""Writing an index: alone, and with one line for what the disk refuses."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from s2r2.encoder.precision import check_precision
from s2r2.errors import ArgumentError, S2R2Error
from s2r2.search.backends.base import AUTO, get_backend
from s2r2.search.storage import layout
from s2r2.system.files import make_folder, why_not_written
from s2r2.system.locking import locked


def check_choices(batch_size: int, precision: str | None, backend: str | None, approximate_from: int | None) -> None:
    """Refuse arguments of an update that cannot be, before the work.

    Raises:
        S2R2Error: One cannot.
    """
    if batch_size < 1:
        raise ArgumentError(f"`batch_size={batch_size}`: give at least 1")
    if approximate_from is not None and approximate_from < 0:
        raise ArgumentError(f"`approximate_from={approximate_from}`: give a number of photos, 0 or more")
    check_precision(precision or "float32")
    if backend not in (None, AUTO):
        get_backend(backend)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold an index's folder for writing; it is made if missing.

    Raises:
        S2R2Error: Another process writes there, the folder holds other files, or the disk is full.
    """
    try:
        make_folder(folder)
        with locked(folder / layout.LOCK, f"writing the index in {folder}", "wait until it has finished"):
            layout.check_free_for_index(folder)
            yield
    except OSError as error:
        raise S2R2Error(f"cannot write the index {folder}: {why_not_written(error)}choose another `folder`") from error
    except RuntimeError as error:  # LanceDB's errors are of this class, and say what the operating system said
        if "lance" not in str(error).lower():
            raise
        first = str(error).strip().splitlines()[0].partition(", /")[0]  # without the place in LanceDB's code
        raise S2R2Error(f"cannot write the index {folder}: {why_not_written(first)}choose another `folder`") from error
