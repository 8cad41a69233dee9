"""What all vectors of an index have in common: their encoder, and the precision in which it computed."""

from dataclasses import dataclass
from pathlib import Path

from s2r2.encoder import Encoder
from s2r2.encoder.precision import AskedPrecision, Precision, vectors_fingerprint
from s2r2.errors import ArgumentError
from s2r2.images import ImageSource
from s2r2.search.precision import precision_for, precision_here
from s2r2.search.storage.published import Published
from s2r2.search.stored_vectors import StoredVectors


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
