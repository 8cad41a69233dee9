"""Tar shards in WebDataset's layout, read in place: on disk, or at addresses by ranges."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from s2r2.errors import S2R2Error
from s2r2.images.decoding.formats import READ
from s2r2.images.places import place_of
from s2r2.images.remote import AT_ONCE, file_system, is_remote, reason, without_query
from s2r2.images.sources.labels import Labels
from s2r2.images.sources.names import printable
from s2r2.images.sources.register import Data, register_source
from s2r2.images.sources.source import ImageSource
from s2r2.images.sources.strings import joined
from s2r2.images.sources.tar_index import TarIndex, tar_index
from s2r2.images.sources.tars import TarSource
from s2r2.system.prefetch import in_order
from s2r2.system.progress import ProgressLine


@register_source(
    "tar shards (shard-{000..099}.tar, also at an address)",
    "a pattern with numbers or *, a folder of tars, or s3://bucket/shard-{000..099}.tar; labels from .cls files",
    priority=2,  # an address is no path: nobody need look for it on the disk
)
def open_shard_pattern(data: Data) -> ImageSource | None:
    """Tar shards at an address, or that a pattern stands for.

    Raises:
        S2R2Error: As :func:`open_shards`.
    """
    if is_remote(data.text):
        file = without_query(data.text)
        wanted = file.endswith(".tar") or (".tar" in file and _is_pattern(file))
    else:
        wanted = ".tar" in data.text and _is_pattern(data.text) and not Path(data.text).exists()
    return open_shards(data.text, _expand(data.text)) if wanted else None


def shards_of_folder(folder: Path) -> list[str]:
    """The tars that lie in a folder."""
    return sorted(str(path) for path in folder.glob("*.tar") if path.is_file())


def open_shards(data: str, shards: Sequence[str]) -> ImageSource:
    """Open tar shards: their headers are read once, and never again while the shards do not change.

    Args:
        data: What the user wrote: a folder, or a pattern with braces (``shard-{000000..000099}.tar``) or wildcards.
        shards: The paths or addresses that it stands for.

    Raises:
        S2R2Error: The pattern stands for nothing, a shard cannot be read or is compressed, or there is no image.
    """
    other = next((shard for shard in shards if not without_query(shard).endswith(".tar")), None)
    if other is not None:
        raise S2R2Error(f"{other} is no .tar: shards are read in place, pack their files without compression")
    here = os.path.abspath("")
    places = [place_of(shard, here) for shard in shards]
    threads = AT_ONCE if is_remote(data) else 2
    found = in_order(lambda shard: tar_index(*shard), zip(places, shards, strict=True), threads=threads, ahead=64)
    indexes = []
    with contextlib.closing(found), ProgressLine("indexing shards", len(shards), visible=len(shards) > 1) as line:
        for index in found:
            indexes.append(index)
            line.advance()
    if not sum(map(len, indexes)):
        raise S2R2Error(f"no images in {data}: looked for {READ}")
    keys = joined([f"{stem}/" for stem in _stems(shards)], [index.names for index in indexes])
    return TarSource(_name(data, shards), keys, _labels(indexes), places, shards, indexes)


def _is_pattern(data: str) -> bool:
    """Whether there are braces or wildcards in it; in an address ? begins a query."""
    return not frozenset("{*[" if is_remote(data) else "{*?[").isdisjoint(data)


def _expand(data: str) -> list[str]:
    """The shards that a pattern stands for, in its order; wildcards in alphabetical order."""
    found: list[str] = []
    for pattern in _braces(data):
        found += _glob(pattern) if _is_pattern(pattern) else [pattern]
    if not found:
        raise S2R2Error(f"no shards: {data} stands for no file")
    return list(dict.fromkeys(found))


def _braces(pattern: str) -> list[str]:
    """``{000..012}`` counts with as many digits as it is written with, ``{a,b}`` names some; several combine.

    Raises:
        S2R2Error: There is something else between braces.
    """
    before, opening, rest = pattern.partition("{")
    if not opening:
        return [pattern]
    inside, closing, after = rest.partition("}")
    first, dots, last = inside.partition("..")
    if dots and first.isdecimal() and last.isdecimal() and int(first) <= int(last):
        values = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    elif closing and "," in inside:
        values = inside.split(",")
    else:
        raise S2R2Error(f"{pattern}: write the numbers of shards as {{000..099}}, or names as {{a,b}}")
    return [before + value + end for value in values for end in _braces(after)]


def _glob(pattern: str) -> list[str]:
    if not is_remote(pattern):
        import glob

        return sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
    system, path = file_system(pattern)
    try:
        return [str(system.unstrip_protocol(name)) for name in sorted(system.glob(path))]
    except Exception as error:
        raise S2R2Error(f"cannot list {pattern}: {reason(error)}; write the shards as {{000..099}} instead") from None


def _labels(indexes: Sequence[TarIndex]) -> Labels | None:
    parts = []
    for index in indexes:
        encoded = index.labels.dictionary_encode()
        lists = [[name] if name else [] for name in encoded.dictionary.to_pylist()]
        parts.append((Labels.from_cells(encoded.indices.to_numpy(), lists), len(index)))
    return Labels.join(parts)


def _stems(shards: Sequence[str]) -> list[str]:
    """Names of the shards without their endings and the folder that they share."""
    parts = [shard.replace(os.sep, "/").split("/") for shard in shards]
    same = 0
    while all(len(names) > same + 1 and names[same] == parts[0][same] for names in parts):
        same += 1
    stems = [printable("/".join(names[same:]).removesuffix(".tar")) for names in parts]
    different = set(stems)
    if len(different) < len(stems) or any(folder in different for stem in stems for folder in _folders(stem)):
        return [f"{number}-{stem}" for number, stem in enumerate(stems)]  # x/y.jpg in a is not y.jpg in a/x
    return stems


def _folders(stem: str) -> list[str]:
    parts = stem.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _name(data: str, shards: Sequence[str]) -> str:
    if Path(data).is_dir():
        return printable(data)
    stems = _stems(shards)
    return stems[0] if len(stems) == 1 else f"{stems[0]}-to-{stems[-1]}"
