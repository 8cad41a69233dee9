"""What processes other than the first do in an update of an index: they read and encode, and know no index."""

from collections import deque
from typing import NamedTuple

from s2r2.distributed.processes import Processes
from s2r2.encoder import Encoder
from s2r2.encoder.precision import Precision
from s2r2.images import ImageSource
from s2r2.search.photo_reader import EncodingReader
from s2r2.search.update_result import UpdateResult


class Request(NamedTuple):
    """What the first process asks the others to share with it.

    Attributes:
        wanted: Place in the source, and stamp, of each photo to be read.
        contents: Hashes of content that needs no encoding.
        side: Short side to which photos are reduced.
        fingerprint: Of the vectors.
        precision: In which the encoder computes.
    """

    wanted: list[tuple[int, str]]
    contents: frozenset[str]
    side: int
    fingerprint: str
    precision: Precision


def share_encoding(encoder: Encoder, source: ImageSource, batch_size: int, processes: Processes) -> UpdateResult:
    """Read and encode as the first process asks, until it has the result of the update."""
    while isinstance(said := processes.receive(), Request):
        reader = EncodingReader(source, encoder, said.fingerprint, said.contents, said.side, said.precision)
        deque(reader.encoded(said.wanted, batch_size, processes), maxlen=0)
    result: UpdateResult = said
    return result
