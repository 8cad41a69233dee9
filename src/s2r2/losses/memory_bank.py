"""Embeddings of recent steps as more candidates, for batches too small to rank against."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.losses.refusals import check_switches, check_whole


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
        check_whole(1, capacity=capacity, width=width)
        check_switches(positives=positives)
        self.positives = positives
        self._filled = 0
        self._next = 0
        self.register_buffer("embeddings", torch.zeros(capacity, width))
        self.register_buffer("groups", torch.zeros(capacity, dtype=torch.int64))
        self.register_load_state_dict_pre_hook(_check_state)

    def __len__(self) -> int:
        return self._filled

    def add(self, embeddings: Tensor, groups: Tensor) -> None:
        """Store embeddings ``(n, D)`` and their groups ``(n,)``; the oldest make room."""
        capacity = len(self.embeddings)
        if embeddings.ndim != 2 or embeddings.shape[1:] != self.embeddings.shape[1:]:
            raise ArgumentError(
                f"the memory bank holds embeddings of width {self.embeddings.shape[1]}, got {tuple(embeddings.shape)}"
            )
        if groups.shape != embeddings.shape[:1] or groups.is_floating_point():
            raise ArgumentError(f"groups are {groups.dtype} {tuple(groups.shape)}; give one integer per embedding")
        embeddings, groups = embeddings[-capacity:], groups[-capacity:]
        place = (torch.arange(len(embeddings), device="cpu") + self._next) % capacity
        self.embeddings[place.to(self.embeddings.device)] = embeddings.detach().to(self.embeddings)
        self.groups[place.to(self.groups.device)] = groups.to(self.groups)
        self._next = (self._next + len(embeddings)) % capacity
        self._filled = min(capacity, self._filled + len(embeddings))

    def contents(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """What is stored: embeddings ``(K, D)`` of the type and device of ``like``, groups ``(K,)`` on the CPU."""
        if like.shape[1] != self.embeddings.shape[1]:
            raise ArgumentError(
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
        """Take back what :meth:`get_extra_state` gave.

        Raises:
            S2R2Error: It is no such state, or one of a bank of another size.
        """
        places = [state.get(key) for key in ("filled", "next")] if isinstance(state, dict) else [None]
        if not all(type(n) is int and 0 <= n <= len(self.embeddings) for n in places) or places[1] == len(self.groups):
            raise S2R2Error(f"the memory bank's state is {state!r:.80}; it must hold filled and next, as it was saved")
        self._filled, self._next = state["filled"], state["next"]


def check_bank(bank: Any) -> None:
    """Raise an S2R2Error unless it is a memory bank or None."""
    if bank is not None and not isinstance(bank, MemoryBank):
        raise ArgumentError(f"bank is {bank!r:.80}; give a MemoryBank(capacity, width), or None")


def _check_state(bank: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, mine in bank.named_buffers():
        saved = state.get(prefix + name)
        if isinstance(saved, Tensor) and saved.shape != mine.shape:
            raise S2R2Error(
                f"the state is of a memory bank with {name} {tuple(saved.shape)}, here they are {tuple(mine.shape)}; "
                "make the bank of that size"
            )
        if isinstance(saved, Tensor) and not bool(torch.isfinite(saved).all()):
            raise S2R2Error(f"the state of the memory bank has {name} that are not finite; start with an empty one")
