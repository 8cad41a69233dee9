"""An index that needs no update is recognized by its catalogue, without torch, timm and LanceDB.

Their imports take longer than all the rest.
"""

import contextlib
import filecmp
import json
import os
import re
import time
from pathlib import Path

from s2r2.images import ImageSource, Skipped, UnreadableImage, decode_expendable, write_skipped
from s2r2.images.sources.names import printable
from s2r2.runs import ENCODER_FILE
from s2r2.search.photo_reader import PhotoNames
from s2r2.search.publishing import backend_for, is_whole, names_in_use
from s2r2.search.storage import layout
from s2r2.search.storage.catalog import Catalogue
from s2r2.search.storage.published import FORMAT, Published, read_published
from s2r2.search.storage.row_files import RowFiles
from s2r2.search.update_result import UpdateResult
from s2r2.system.locking import locked

TRIED_AGAIN = 100
"""Photos outside the catalogue that are tried again here: those that cannot be read are new to every update."""

_NAME_OF_TIMM = re.compile(r"(timm|untrained):[\w.]+")
"""Weights that stay the same under this name, unlike those of a hub's repository, a folder or a file."""


def nothing_new(
    encoder: str,
    source: ImageSource,
    folder: Path,
    backend: str | None,
    approximate_from: int,
    text: str | None = None,
    precision: str | None = None,
) -> UpdateResult | None:
    """What :func:`s2r2.search.update_index` would return, if it would change nothing; else None, and nothing is done.

    Photos and vectors are compared as an update compares them. An encoder of timm is known by its name, and a file by
    its bytes.

    Args:
        encoder: As on the command line.
        source: The photos.
        folder: The index's folder.
        backend: Name of the search backend, ``"auto"``, or None for the one chosen before.
        approximate_from: From how many photos on ``"auto"`` takes approximate search.
        text: Name of the model for words, ``"none"``, or None for the one chosen before.
        precision: In which new photos would be embedded; that of the index also for None and ``"auto"``.

    Raises:
        S2R2Error: Another process writes the index, or it is damaged.
    """
    layout.check_local(folder)
    if not (folder / layout.DESCRIPTION).is_file():
        return None
    with (
        contextlib.suppress(OSError),  # such as a folder that cannot be written to: the update says it
        locked(folder / layout.LOCK, f"writing the index in {folder}", "wait until it has finished"),
    ):
        return _result(encoder, source, folder, backend, approximate_from, text, precision)
    return None


def _result(
    encoder: str,
    source: ImageSource,
    folder: Path,
    backend: str | None,
    approximate_from: int,
    text: str | None,
    precision: str | None,
) -> UpdateResult | None:
    began = time.monotonic()
    published = read_published(folder)
    if published is None or published.format != FORMAT or published.data != printable(source.name):
        return None
    if text is not None and (text if text != "none" else "") != published.words:  # a local folder is looked at anew
        return None
    if precision not in (None, "auto", published.precision):  # the update refuses it
        return None
    generation = folder / published.generation
    chosen = backend or published.chosen_backend
    wanted = (chosen, backend_for(chosen, published.photos, approximate_from))
    same = wanted == (published.chosen_backend, published.backend) and _same_encoder(encoder, generation, published)
    skipped = _compared(source, generation, published) if same else None
    if skipped is None or len(skipped) != published.skipped:
        return None
    if not _is_complete(generation, published):  # last: an update that has work to do reads all files itself
        return None
    write_skipped(folder / layout.SKIPPED, skipped)
    layout.remove_leftovers(folder, published.generation, names_in_use(published) | {layout.RECORD})
    return UpdateResult(folder, published, 0, 0, published.photos, 0, 0, skipped, time.monotonic() - began)


def _is_complete(generation: Path, published: Published) -> bool:
    """Whether all files are what was published, and no update left rows that are not."""
    return is_whole(generation, published.files) and RowFiles(generation).holds_only(published.version)


def _same_encoder(encoder: str, generation: Path, published: Published) -> bool:
    if layout.ENCODER not in published.files:  # made from vectors: this encoder is still to be put into it
        return False
    if _NAME_OF_TIMM.fullmatch(encoder):
        return encoder == published.encoder
    file = Path(encoder, ENCODER_FILE) if os.path.isdir(encoder) else Path(encoder)
    return file.is_file() and filecmp.cmp(file, generation / layout.ENCODER, shallow=False)


def _compared(source: ImageSource, generation: Path, published: Published) -> list[Skipped] | None:
    """The photos that cannot be read, if all others are in the catalogue as they are now; else None."""
    catalogue = Catalogue.open(generation, published.number, published.photos, published.dimensions, published.files)
    columns = (catalogue.table[name].to_pylist() for name in ("key", "stamp", "label", "location"))
    known = {key: described for key, *described in zip(*columns, strict=True)}
    names = PhotoNames(source)
    unknown: list[int] = []
    source.prepare_stamps(range(len(source)))
    for index in range(len(source)):
        try:
            described = [json.dumps(source.stamp(index)), names.label(index), names.location(index)]
        except UnreadableImage:
            return None
        key = names.key(index)
        if key not in known:
            unknown.append(index)
        elif known.pop(key) != described:
            return None
    if known or len(unknown) > TRIED_AGAIN:
        return None
    skipped = list(source.problems)
    for index in unknown:
        reason = _why_unreadable(source, index, published.side)
        if reason is None:
            return None
        skipped.append(Skipped(names.key(index), reason))
    return skipped


def _why_unreadable(source: ImageSource, index: int, side: int | None) -> str | None:
    """Why a photo cannot be read; None if it can."""
    try:
        content = source.content(index)
        if content is not None:
            decode_expendable(content, short_side=side)
    except UnreadableImage as error:
        return error.reason
    return None
