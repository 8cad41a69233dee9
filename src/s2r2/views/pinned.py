"""Memory for views on their way to a GPU: locked, as asynchronous copies need it, and used again and again."""

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

_QUEUED = 2
"""Steps whose copies may wait in the GPU's queue: enough that it never runs dry."""


class PinnedBuffers:
    """Buffers for the steps of a loader, handed out in turns.

    Locking memory is slow, and torch's own cache locks more of it whenever the host is ahead of the GPU. Here the host
    waits instead, while the GPU has ``_QUEUED`` steps to do.

    Args:
        shapes: Of a step's views, uint8, for each size of view.
        steps: Steps that are in preparation at once.
        device: The GPU they are copied to.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], steps: int, device: torch.device) -> None:
        self._shapes, self._device = shapes, device
        self._new = steps + _QUEUED
        self._sent: deque[tuple[list[Tensor], torch.cuda.Event]] = deque()

    def take(self) -> list[Tensor]:
        """Buffers for a step: new ones at first, later the oldest of those that were sent, once they are copied."""
        if self._new or not self._sent:
            self._new = max(0, self._new - 1)
            return [torch.empty(shape, dtype=torch.uint8, pin_memory=True) for shape in self._shapes]
        buffers, copied = self._sent.popleft()
        copied.synchronize()
        return buffers

    def sent(self, buffers: list[Tensor]) -> None:
        """Copies of them have been queued, after which they may be used again."""
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(self._device))
        self._sent.append((buffers, copied))

    def forget(self) -> None:
        """A step's buffers will not come back: threads may still be writing into them."""
        self._new += 1
