"""In which precision the vectors of a folder or an index are made: one for all of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2r2.encoder import Encoder, store_side
from s2r2.encoder.model import Output
from s2r2.encoder.precision import (
    AskedPrecision,
    Choice,
    Precision,
    choose_precision,
    has_bfloat16,
    vectors_fingerprint,
)
from s2r2.errors import ArgumentError
from s2r2.images import ImageSource, UnreadableImage, decode_expendable
from s2r2.search.photo_reader import read_ahead
from s2r2.search.storage.published import Published
from s2r2.search.stored_vectors import StoredVectors

_AT_ONCE = 64


@dataclass(frozen=True)
class VectorKind:
    """What the vectors of an index have in common.

    Attributes:
        fingerprint: Equal for vectors that belong together.
        precision: What the index states.
        computed: In which new vectors are made here.
        note: A line that says why; empty where there is nothing to say.
    """

    fingerprint: str
    precision: Precision
    computed: Precision
    note: str = ""


def precision_for(
    asked: AskedPrecision, encoder: Encoder, source: ImageSource, threads: int, output: Output = "feature"
) -> Choice:
    """The precision for the photos of a source, some of which are tried for ``auto``."""
    side = store_side(encoder.image_size)

    def read(index: int) -> np.ndarray | None:
        try:
            content = source.content(index)
            picture = source.read(index, side) if content is None else decode_expendable(content, short_side=side)
        except UnreadableImage:
            return None
        pixels: np.ndarray = encoder.prepare([picture], side=side, threads=1)[0]
        return pixels

    def batches(sample: Sequence[int]) -> Iterator[np.ndarray]:
        for start in range(0, len(sample), _AT_ONCE):  # nothing is read while the encoder is timed
            for found in read_ahead(read, [sample[start : start + _AT_ONCE]], threads):
                if readable := [pixels for pixels in found if pixels is not None]:
                    yield np.stack(readable)

    return choose_precision(asked, encoder, len(source), batches, output=output)


def kind_of_vectors(
    encoder: Encoder | StoredVectors,
    source: ImageSource,
    asked: AskedPrecision | None,
    folder: Path,
    published: Published | None,
    threads: int,
) -> VectorKind:
    """What the vectors of an update are.

    Args:
        encoder: Makes them, or made them.
        source: The photos.
        asked: The precision; for None and ``"auto"`` that of the index.
        folder: Of the index.
        published: What is in force there and goes on; None for an index that is made anew.
        threads: Cores used to read photos.

    Raises:
        ArgumentError: The index has vectors of another kind.
    """
    given = encoder.precision if isinstance(encoder, StoredVectors) else asked
    if published is None:
        if isinstance(encoder, StoredVectors):
            return _kind(encoder, encoder.precision, encoder.precision)
        choice = precision_for(asked or "float32", encoder, source, threads)
        return _kind(encoder, choice.precision, choice.precision, choice.note)
    precision = published.precision
    if published.fingerprint != vectors_fingerprint(encoder.fingerprint, precision):
        raise ArgumentError(
            f"the index in {folder} was made by another encoder ({published.encoder}): "
            "replace it with `rebuild=True`, or choose another `folder`"
        )
    if given not in (None, "auto", precision):
        raise ArgumentError(
            f"the index in {folder} is made in {precision}, not {given}: replace it with `rebuild=True`, or choose "
            "another `folder`"
        )
    if isinstance(encoder, StoredVectors) or given == precision:
        return _kind(encoder, precision, precision)
    computed = precision_here(precision, encoder)
    note = "" if computed == precision else "precision float32 for these photos: this processor has no bfloat16"
    return _kind(encoder, precision, computed, note)


def _kind(encoder: Encoder | StoredVectors, precision: Precision, computed: Precision, note: str = "") -> VectorKind:
    return VectorKind(vectors_fingerprint(encoder.fingerprint, precision), precision, computed, note)


def precision_here(precision: Precision, encoder: Encoder) -> Precision:
    """A precision, or float32 where the processor lacks it: vectors of both can be compared."""
    return precision if has_bfloat16(encoder.device) else "float32"


def query_vector(about: Published, encoder: Encoder, picture: np.ndarray, side: int) -> np.ndarray:
    """Vector ``(D,)`` of a picture ``(H, W, 3)`` uint8, made as those of an index were.

    Args:
        about: The index.
        encoder: Its encoder.
        picture: The picture.
        side: Short side to which it is reduced.
    """
    pixels = encoder.prepare([picture], side=side)
    vector: np.ndarray = encoder.embed_pixels(pixels, precision=precision_here(about.precision, encoder))[0]
    return vector
