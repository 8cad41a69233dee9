"""The precision for the photos of a folder, and for queries of an index."""

from collections.abc import Iterator, Sequence

import numpy as np

from s2r2.encoder import Encoder, store_side
from s2r2.encoder.model import Output
from s2r2.encoder.precision import (
    AskedPrecision,
    Choice,
    Precision,
    choose_precision,
    has_bfloat16,
)
from s2r2.images import ImageSource, UnreadableImage, decode_expendable
from s2r2.search.photo_reader import read_ahead
from s2r2.search.storage.published import Published

_AT_ONCE = 64


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
