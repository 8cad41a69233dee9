"""Data sets that are downloaded when their name is given for ``DATA``."""

from pathlib import Path
from typing import Any

from s2r2.errors import S2R2Error
from s2r2.system.cache_folder import cache_folder
from s2r2.system.files import why_not_written


def downloaded(name: str, folder: str, data_set: Any) -> Path:
    """The published folder of a data set, downloaded if it is not there yet.

    Args:
        name: The data set's built-in name.
        folder: What its publisher calls the folder.
        data_set: torchvision's class for it, which knows its address and checksum.

    Raises:
        S2R2Error: It cannot be downloaded or unpacked.
    """
    from torchvision.datasets.utils import download_and_extract_archive

    root = data_sets_folder()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise S2R2Error(f"cannot make {root}: {why_not_written(error)}set S2R2_CACHE to another folder") from error
    try:
        download_and_extract_archive(data_set.url, str(root), filename=data_set.filename, md5=data_set.tgz_md5)
    except Exception as error:  # urllib, OSError, RuntimeError: all mean that it was not downloaded
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise S2R2Error(
            f"{name} cannot be downloaded ({line}): put its published folder {folder} into {root}"
        ) from error
    return root / folder


def data_sets_folder() -> Path:
    """Where downloaded data sets are kept."""
    return cache_folder() / "datasets"
