"""Embeddings of recent steps as further candidates, for batches too small to rank against."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from s2r2.errors import S2R2Error


class MemoryBank(nn.Module):
    """The last ``capacity`` embeddings, first in, first out, without gradient (as in XBM, arXiv 1912.06798).

    Give it to a loss, ``SmoothAPLoss(bank=MemoryBank(4096, 128))``: each call ranks against the batch and the bank,
    then, if gradients are enabled, stores the batch. In a process group every process stores everybody's embeddings,
    so the banks stay equal without any exchange. The contents are part of ``state_dict``.

    Args:
        capacity: Number of embeddings kept.
        width: D, numbers in an embedding.
        positives: False: stored embeddings are negatives of every query, right where groups number the images of one
            batch and mean nothing in the next. True: groups are labels with a lasting meaning, and a stored embedding
            is a positive of the queries with its label.
    """

    embeddings: Tensor
    groups: Tensor

    def __init__(self, capacity: int, width: int, *, positives: bool = False) -> None:
        super().__init__()
        if capacity < 1 or width < 1:
            raise S2R2Error(f"a memory bank needs capacity and width of at least 1, got {capacity} and {width}")
        self.positives = positives
        self._filled = 0
        self._next = 0
        self.register_buffer("embeddings", torch.zeros(capacity, width))
        self.register_buffer("groups", torch.zeros(capacity, dtype=torch.int64))

    def __len__(self) -> int:
        return self._filled

    def add(self, embeddings: Tensor, groups: Tensor) -> None:
        """Store embeddings ``(n, D)`` and their groups ``(n,)``; the oldest make room."""
        capacity = len(self.embeddings)
        if embeddings.shape[1:] != self.embeddings.shape[1:]:
            raise S2R2Error(
                f"the memory bank holds embeddings of width {self.embeddings.shape[1]}, got {tuple(embeddings.shape)}"
            )
        embeddings, groups = embeddings[-capacity:], groups[-capacity:]
        place = (torch.arange(len(embeddings)) + self._next) % capacity
        self.embeddings[place.to(self.embeddings.device)] = embeddings.detach().to(self.embeddings)
        self.groups[place.to(self.groups.device)] = groups.to(self.groups)
        self._next = (self._next + len(embeddings)) % capacity
        self._filled = min(capacity, self._filled + len(embeddings))

    def contents(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """What is stored: embeddings ``(K, D)`` of the type and device of ``like``, groups ``(K,)`` on the CPU."""
        if like.shape[1] != self.embeddings.shape[1]:
            raise S2R2Error(
                f"the memory bank holds embeddings of width {self.embeddings.shape[1]}, the batch has {like.shape[1]}"
            )
        return self.embeddings[: self._filled].to(like), self.groups[: self._filled].cpu()

    def clear(self) -> None:
        """Forget everything."""
        self._filled = self._next = 0

    def get_extra_state(self) -> dict[str, int]:
        """Where the next embedding goes; saved in ``state_dict``."""
        return {"filled": self._filled, "next": self._next}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`get_extra_state` gave."""
        self._filled, self._next = int(state["filled"]), int(state["next"])
