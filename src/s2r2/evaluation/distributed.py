"""Embedding in several processes: each encodes its share of the batches, the first one gets all rows in order."""

from collections.abc import Iterator

import numpy as np

from s2r2.distributed.processes import Processes
from s2r2.encoder import Encoder
from s2r2.encoder.images import render_batches
from s2r2.encoder.model import Output
from s2r2.images import PixelStore

BATCH = 64
VIEW_BATCH = 128


def embed_shared(
    encoder: Encoder, store: PixelStore, output: Output, processes: Processes, *, progress: bool = False
) -> np.ndarray:
    """Rows ``(N, D)`` of a store's images, as ``encoder.embed`` makes them, in the first process; none in the others.

    Args:
        encoder: The encoder.
        store: The images.
        output: Feature or embedding.
        processes: Those that share them.
        progress: Show a progress bar.
    """
    starts = range(0, len(store), BATCH)
    indices = [i for start in processes.share(starts) for i in range(start, min(start + BATCH, len(store)))]
    batches = render_batches(
        _Part(store, indices),
        encoder.image_size,
        mean=encoder.mean,
        std=encoder.std,
        batch_size=BATCH,
        progress=progress and processes.leader,
    )
    mine = (encoder.embed_pixels(pixels, output=output) for pixels in batches)
    return _joined(processes.in_turn(mine, len(starts)), encoder, output)


def embed_views_shared(encoder: Encoder, pixels: np.ndarray, output: Output, processes: Processes) -> np.ndarray:
    """Rows ``(N, D)`` of views ``(N, 3, P, P)`` in the first process; none in the others."""
    starts = range(0, len(pixels), VIEW_BATCH)
    parts = (pixels[start : start + VIEW_BATCH] for start in processes.share(starts))
    mine = (encoder.embed_pixels(part, output=output) for part in parts)
    return _joined(processes.in_turn(mine, len(starts)), encoder, output)


def _joined(rows: Iterator[np.ndarray], encoder: Encoder, output: Output) -> np.ndarray:
    return np.concatenate([np.empty((0, encoder.dimensions(output)), np.float32), *rows])


class _Part:
    """Some images of a store, as a sequence."""

    def __init__(self, store: PixelStore, indices: list[int]) -> None:
        self.store, self.indices = store, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> np.ndarray:
        return self.store[self.indices[position]]
