"""From whatever a caller holds (paths, PIL images, arrays, a pixel store) to batches of pixels for an encoder."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.images import UnreadableImage, decode_expendable, reduce_array, to_array
from s2r2.images.places import FilePlace
from s2r2.system.prefetch import in_order
from s2r2.system.progress import ProgressLine
from s2r2.views import render_centre

ImageLike: TypeAlias = str | Path | Image.Image | np.ndarray
ImagesLike: TypeAlias = ImageLike | Sequence[ImageLike] | Any  # Any: a PixelStore, or what behaves like one


def store_side(image_size: int) -> int:
    """Short side in pixels to which photos are reduced for an encoder of ``image_size``, wherever they come from.

    Half as large again as the encoder's input, so that small random crops keep detail; at most 256, or
    8/7 of the input where that is more, so that a store of COCO's 118,000 photos stays at about 31 GB.
    """
    return min(image_size * 3 // 2, max(256, image_size * 8 // 7))


def prepare(
    pictures: Sequence[np.ndarray],
    size: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    side: int | None = None,
    threads: int | None = None,
) -> np.ndarray:
    """The one way from photos to an encoder's input ``(n, 3, size, size)`` float32: reduced, cropped, normalized.

    Args:
        pictures: Arrays ``(H, W, 3)`` uint8; those decoded with ``short_side=side`` are reduced already.
        size: Side P of the input.
        mean: Channel means.
        std: Channel standard deviations.
        side: Short side to which they are reduced; by default :func:`store_side`.
        threads: Cores used.
    """
    side = store_side(size) if side is None else side
    return render_centre([reduce_array(p, side) for p in pictures], size, mean=mean, std=std, threads=threads)


def load_image(image: ImageLike, short_side: int | None = None) -> np.ndarray:
    """One image as ``(H, W, 3)`` uint8; a file is reduced to a short side as it is decoded, in a process of its own.

    Raises:
        S2R2Error: The file cannot be read, or the array is not an image of uint8.
    """
    if isinstance(image, str | Path):
        try:
            return decode_expendable(FilePlace(os.fspath(image)), short_side=short_side)
        except UnreadableImage as error:
            raise S2R2Error(f"cannot read {image}: {error.reason}") from error
    if isinstance(image, Image.Image):
        return to_array(image)
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise ArgumentError(f"an image array must be uint8 in 0..255, not {array.dtype}: convert it first")
    if array.size and array.ndim == 3 and array.shape[2] == 3:
        return array
    if array.size and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 4)):
        return to_array(Image.fromarray(array))
    raise ArgumentError(f"an image array must be (H, W), (H, W, 3) or (H, W, 4), not {array.shape}")


def as_sequence(images: Any) -> Sequence[ImageLike]:
    """A single image becomes a sequence of one; an array ``(N, H, W, 3)`` counts as N images."""
    if isinstance(images, str | Path | Image.Image):
        return [images]
    if isinstance(images, np.ndarray) and images.ndim < 4 and images.dtype != object:
        return [images]
    return images


def render_batches(
    images: ImagesLike,
    size: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int,
    progress: bool = False,
) -> Iterator[np.ndarray]:
    """Yield normalized center crops ``(n, 3, size, size)`` float32, the next batches being prepared meanwhile."""
    sequence = as_sequence(images)
    starts, side = range(0, len(sequence), batch_size), store_side(size)

    def render(start: int) -> np.ndarray:
        stop = min(start + batch_size, len(sequence))
        pictures = [load_image(sequence[i], side) for i in range(start, stop)]
        return prepare(pictures, size, mean=mean, std=std)

    if len(sequence) <= batch_size:  # a query must not pay for a pool
        yield from map(render, starts)
        return
    batches = in_order(render, starts, threads=2, ahead=3, name="s2r2-embed")
    with contextlib.closing(batches), ProgressLine("embedding", len(sequence), visible=progress) as line:
        for batch in batches:
            yield batch
            line.advance(len(batch))
