"""Vectors of many photos as numbered parts, each made by a process that needs no other one.

DIR/part-00003-of-00010.parquet      the vectors of a tenth of the photos; there once it is complete
DIR/_skipped-00003-of-00010.csv      which of them were unreadable, and why, if any were
DIR/_encoder.safetensors             a copy of the encoder, for an index that is made from the parts

What begins with ``_`` is left out by tools that read a folder of Parquet files as one table.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pyarrow import ArrowInvalid, parquet

from s2r2.distributed.processes import Processes
from s2r2.encoder import Encoder
from s2r2.encoder.model import Output
from s2r2.encoder.precision import AskedPrecision
from s2r2.errors import ArgumentError, S2R2Error
from s2r2.images import ImageSource
from s2r2.images.sources.names import printable
from s2r2.search.embedding_rows import Origin, batches_of, check_embedding, embedded, tables, write_parquet
from s2r2.search.exporting import Written, list_skipped
from s2r2.search.photo_reader import PhotoNames
from s2r2.search.precision import precision_for
from s2r2.system.files import atomic_write, make_folder, why_not_written, write_bytes

ENCODER = "_encoder.safetensors"
PART = re.compile(r"part-(\d{5,})-of-(\d{5,})\.parquet")
SKIPPED = re.compile(r"_skipped-\d{5,}-of-\d{5,}\.csv")
MOST_SHARDS = 100_000
_UNIT = 64
"""Shards begin at multiples of this, the usual batch: then each batch has the photos that it has in ``s2r2 index``, and
its vectors are the same to the last bit."""


@dataclass(frozen=True)
class Part:
    """A part that is complete.

    Attributes:
        path: Its file.
        written: What was written into it now; None if it was there already.
    """

    path: Path
    written: Written | None


class Shards:
    """Parts of the vectors of a source's photos, in a folder.

    Nothing is shared by the processes that write parts but the folder. A part appears there as a whole; one that is
    killed leaves none, and is made by being started again. Two processes that make the same part do no harm: they
    write the same.

    Args:
        encoder: Makes the vectors, rows of length 1.
        source: The photos.
        folder: Where the parts are; made if missing.
        shards: In how many parts the photos are divided.
        output: ``"feature"`` or ``"embedding"``.
        batch_size: Photos encoded at once.
        precision: ``"float32"`` or ``"bfloat16"``.
        encoder_place: What :func:`s2r2.load` takes to load the encoder again.

    Raises:
        S2R2Error: An argument is out of range, or the folder holds something else, such as another number of parts.
    """

    def __init__(
        self,
        encoder: Encoder,
        source: ImageSource,
        folder: str | Path,
        shards: int,
        *,
        output: Output = "feature",
        batch_size: int = 64,
        precision: AskedPrecision = "float32",
        encoder_place: str | None = None,
    ) -> None:
        check_embedding(output, batch_size, precision, apart=True)
        if not 1 <= shards <= MOST_SHARDS:
            raise ArgumentError(f"`shards={shards}`: give a number from 1 to {MOST_SHARDS:,}")
        self.encoder, self.source, self.folder, self.shards = encoder, source, Path(folder), shards
        self.output, self.batch_size, self.encoder_place = output, batch_size, encoder_place
        choice = precision_for(precision, encoder, source, 1, output)
        self.precision, self.note = choice.precision, choice.note
        self._prepare()

    def write(self, shard: int) -> Part:
        """Make a part, unless it is there.

        Args:
            shard: Its number, from 0.

        Raises:
            S2R2Error: There is no such part, or the disk is full.
        """
        if not 0 <= shard < self.shards:
            raise ArgumentError(
                f"`shard={shard}`: with `shards={self.shards}` they are numbered from 0 to {self.shards - 1}"
            )
        name = f"{shard:05d}-of-{self.shards:05d}"
        path = self.folder / f"part-{name}.parquet"
        if path.exists():
            self._check(path)
            return Part(path, None)
        batches = batches_of(self._photos(shard), self.batch_size)
        threads = Processes().threads
        found = embedded(self.encoder, self.source, self._names, batches, self.output, threads, self.precision)
        skipped = list(self.source.problems) if shard == 0 else []
        dimensions = self.encoder.dimensions(self.output)
        with atomic_write(path) as file:
            rows = tables(found, self._names, dimensions, skipped)
            count = write_parquet(file, rows, dimensions, self._origin)
            list_skipped(self.folder / f"_skipped-{name}.csv", skipped)  # a part in place has its list beside it
        return Part(path, Written(count, dimensions, skipped))

    def _photos(self, shard: int) -> range:
        count = len(self.source)
        unit = _UNIT if count >= _UNIT * self.shards else 1  # of few photos each shard has some
        units = -(-count // unit)
        start, end = (number * units // self.shards * unit for number in (shard, shard + 1))
        return range(start, min(end, count))

    @cached_property
    def _names(self) -> PhotoNames:
        return PhotoNames(self.source)

    @cached_property
    def _origin(self) -> Origin:
        return Origin.of(self.encoder, self.source, self.output, self.encoder_place, self.precision)

    def _prepare(self) -> None:
        """Have a folder with a copy of the encoder, and no parts of other vectors."""
        name = printable(str(self.folder))
        try:
            make_folder(self.folder)
            there = [match for entry in sorted(self.folder.iterdir()) if (match := PART.fullmatch(entry.name))]
            for number in {int(match[2]) for match in there} - {self.shards}:
                raise ArgumentError(
                    f"{name} holds parts of {number} shards: give `shards={number}`, or choose another `out`"
                )
            for match in there[:1]:  # one is enough: each of the others is checked by whoever skips it
                self._check(self.folder / match[0])
        except OSError as error:
            raise ArgumentError(f"cannot write {name}: {why_not_written(error)}choose another `out`") from error
        if self.output == "feature":  # what an index compares
            keep_encoder(self.encoder, self.folder)

    def _check(self, part: Path) -> None:
        """Make sure that a part has the vectors that this one would have.

        Raises:
            S2R2Error: It has not, or cannot be read.
        """
        name = printable(str(part))
        try:
            found = Origin.read(parquet.read_schema(part))
        except (ArrowInvalid, OSError) as error:
            raise S2R2Error(f"{name} is damaged: delete it, and it is made again") from error
        wanted = self._origin
        if found is not None and found.is_like(wanted):
            return
        if found is None:
            what = "was written by another program"
        elif found.fingerprint != wanted.fingerprint:
            what = f"was made by another encoder, {found.encoder}"
        elif found.precision != wanted.precision:
            what = f"was made in {found.precision}, not {wanted.precision}"
        elif found.output != wanted.output:
            what = f"holds the output {found.output}, not {wanted.output}"
        else:
            what = f"is of {found.photos:,} photos of {found.data}, which are not these {wanted.photos:,}"
        raise ArgumentError(f"{name} {what}: choose another `out`")


def keep_encoder(encoder: Encoder, folder: str | Path) -> Path:
    """Keep a copy of the encoder beside vectors that it makes, as ``_encoder.safetensors``; returns its path.

    ``s2r2 index --vectors`` finds it there, so that the index can be searched by photos that are not in it.
    """
    path, content = Path(folder) / ENCODER, encoder.to_bytes()
    if not path.exists() or path.read_bytes() != content:
        write_bytes(path, content)
    return path
