"""From whatever a caller holds (paths, PIL images, arrays, a pixel store) to batches of pixels for an encoder."""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from s2r2.errors import S2R2Error
from s2r2.images import UnreadableImage, decode, to_array
from s2r2.views import render_centre

ImageLike: TypeAlias = str | Path | Image.Image | np.ndarray
ImagesLike: TypeAlias = ImageLike | Sequence[ImageLike] | Any  # Any: a PixelStore, or what behaves like one


def load_image(image: ImageLike) -> np.ndarray:
    """One image as ``(H, W, 3)`` uint8.

    Raises:
        S2R2Error: The file cannot be read, or the array is not an image of uint8.
    """
    if isinstance(image, str | Path):
        try:
            return decode(Path(image).read_bytes())
        except OSError as error:
            raise S2R2Error(f"cannot read {image}: {error.strerror or error}") from error
        except UnreadableImage as error:
            raise S2R2Error(f"cannot read {image}: {error.reason}") from error
    if isinstance(image, Image.Image):
        return to_array(image)
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise S2R2Error(f"an image array must be uint8 in 0..255, not {array.dtype}: convert it first")
    if array.ndim == 3 and array.shape[2] == 3:
        return array
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 4):
        return to_array(Image.fromarray(array))
    raise S2R2Error(f"an image array must be (H, W), (H, W, 3) or (H, W, 4), not {array.shape}")


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
    """Yield normalised centre crops ``(n, 3, size, size)`` float32, the next batches being prepared meanwhile."""
    sequence = as_sequence(images)
    starts = range(0, len(sequence), batch_size)

    def render(start: int) -> np.ndarray:
        stop = min(start + batch_size, len(sequence))
        return render_centre([load_image(sequence[i]) for i in range(start, stop)], size, mean=mean, std=std)

    if len(sequence) <= batch_size:  # a query must not pay for a pool
        yield from map(render, starts)
        return
    with ThreadPoolExecutor(2, thread_name_prefix="s2r2-embed") as pool:
        waiting = iter(starts)
        pending: list[Future[np.ndarray]] = [pool.submit(render, start) for start in islice(waiting, 3)]
        with _bar(len(starts), progress) as advance:
            while pending:
                batch = pending.pop(0).result()
                pending.extend(pool.submit(render, start) for start in islice(waiting, 1))
                yield batch
                advance()


class _bar:
    """A progress bar over batches, or nothing."""

    def __init__(self, total: int, visible: bool) -> None:
        from rich.progress import Progress

        self.progress = Progress(disable=not (visible and sys.stdout.isatty()), transient=True)
        self.task = self.progress.add_task("embedding", total=total)

    def __enter__(self) -> Any:
        self.progress.start()
        return lambda: self.progress.advance(self.task)

    def __exit__(self, *details: object) -> None:
        self.progress.stop()
