"""The precision in which an encoder computes: float32, or bfloat16 where that is faster and ranks photos alike.

In bfloat16 the backbone's products are made of numbers with 8 significant bits, summed in float32 (autocast); weights
stay float32, and so do the vectors that come out. Their last digits differ, and with them the order of photos that are
almost equally similar.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from s2r2.errors import ArgumentError

if TYPE_CHECKING:
    from s2r2.encoder.model import Encoder, Output

Precision = Literal["float32", "bfloat16"]
AskedPrecision = Literal["float32", "bfloat16", "auto"]
_SAMPLE = (256, 1024)
"""Photos that ``auto`` encodes in both precisions: one in eight, but not fewer and not more than these."""
_GROWTH = 1 / 3
"""Power of the number of photos with which misses grow, as neighbors get closer to each other.

``benchmarks/precision_in_folders.py`` found 0 to 0.35 in folders of real photos.
"""
FEWEST = 1000
"""Of fewer photos than these, more time would be lost with the sample than won afterwards."""
RECALL = 0.99
SPEEDUP = 1.1
_NEAREST = 10
_TIE = 1e-6
"""Similarities that differ less are equal: rounding decides which of two copies comes first."""
_IN_HARDWARE = ("avx512_bf16", "amx_bf16", "bf16")
"""What :func:`torch.cpu.get_capabilities` calls instructions for bfloat16 on x86 and ARM."""

Batches = Callable[[Sequence[int]], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Choice:
    """A precision, and a line that says why it was chosen; empty where there is nothing to say."""

    precision: Precision
    note: str = ""


def check_precision(asked: str) -> None:
    """Refuse a precision that is none.

    Raises:
        ArgumentError: It is none.
    """
    if asked not in ("float32", "bfloat16", "auto"):
        raise ArgumentError(f"`precision={asked!r}` is not known: use float32, bfloat16 or auto")


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in _IN_HARDWARE)


def computing_in(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """While it is open, modules compute in this precision."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()


def vectors_fingerprint(encoder: str, precision: Precision) -> str:
    """What is equal of vectors that belong together: for float32, the fingerprint of the encoder itself.

    Args:
        encoder: Fingerprint of the encoder.
        precision: In which it made the vectors.
    """
    if precision == "float32":
        return encoder
    return hashlib.blake2b(f"{encoder} {precision}".encode(), digest_size=12).hexdigest()


def choose_precision(
    asked: AskedPrecision, encoder: "Encoder", count: int, batches: Batches, *, output: "Output" = "feature"
) -> Choice:
    """The precision for many photos; ``auto`` compares both on some of them.

    It takes bfloat16 where the processor has it, where the ten photos that are nearest to each are the ones that
    float32 finds (recall at least .99, expected among all the photos from what the sample shows), and where it is
    really faster.

    Args:
        asked: ``"float32"``, ``"bfloat16"`` or ``"auto"``.
        encoder: Makes the vectors.
        count: How many photos there are.
        batches: Gives the encoder's input for photos by their numbers, some at a time; unreadable ones are left out.
        output: Which vectors are compared.
    """
    if asked == "float32":
        return Choice("float32")
    there = has_bfloat16(encoder.device)
    if asked == "bfloat16":
        slow = "precision bfloat16, as asked: this processor has no instructions for it, float32 would be faster"
        return Choice("bfloat16", "" if there else slow)
    if not there:
        return Choice("float32", "precision float32: this processor has no instructions for bfloat16")
    if count < FEWEST:
        return Choice("float32", f"precision float32: bfloat16 is tried from {FEWEST:,} photos on")
    sample = np.unique(np.linspace(0, count - 1, sample_size(count)).astype(int)).tolist()
    return _compared(encoder, batches(sample), count, output)


def sample_size(count: int) -> int:
    """How many of ``count`` photos ``auto`` encodes in both precisions."""
    return min(max(count // 8, _SAMPLE[0]), _SAMPLE[1])


def _compared(encoder: "Encoder", batches: Iterator[np.ndarray], count: int, output: "Output") -> Choice:
    found: dict[Precision, list[np.ndarray]] = {"float32": [], "bfloat16": []}
    seconds: dict[Precision, float] = {"float32": 0.0, "bfloat16": 0.0}
    clock = time.process_time if encoder.device.type == "cpu" else time.perf_counter  # others may use the processor
    for number, pixels in enumerate(batches):
        for precision, vectors in found.items():
            began = clock()
            vectors.append(encoder.embed_pixels(pixels, output=output, precision=precision))
            seconds[precision] += clock() - began if number else 0.0  # kernels are chosen for the first batch
    if len(found["float32"]) < 2:
        return Choice("float32", "precision float32: too few photos can be read to try bfloat16")
    exact, fast = (np.concatenate(vectors) for vectors in found.values())
    recall, least = recall_of(exact, fast), least_recall(exact, fast, count)
    faster = seconds["float32"] / max(seconds["bfloat16"], 1e-9)
    measured = (
        f"{faster:.1f} times as fast, recall@{_NEAREST} {recall:.3f} against float32 among {len(exact):,} photos, "
        f"so at least {least:.3f} expected among {count:,}"
    )
    if least >= RECALL and faster >= SPEEDUP:
        return Choice("bfloat16", f"precision bfloat16: {measured}")
    return Choice("float32", f"precision float32: bfloat16 would be {measured}")


def least_recall(exact: np.ndarray, fast: np.ndarray, count: int) -> float:
    """Recall to be expected among many photos, at the least, from vectors ``(N, D)`` of a sample of them.

    In a larger folder neighbors lie closer, and more of them change places. What the sample misses, and a standard
    error more, therefore grows with a power of the number of photos.

    Args:
        exact: Vectors of the sample.
        fast: The same in another precision.
        count: How many photos there are.
    """
    found = _found(exact, fast)
    missed = 1 - float(found.mean()) + float(found.std()) / len(found) ** 0.5
    return max(0.0, 1 - missed * max(1.0, count / len(found)) ** _GROWTH)


def recall_of(exact: np.ndarray, fast: np.ndarray) -> float:
    """The part of the ten photos nearest to each by ``exact`` vectors ``(N, D)`` that other vectors find.

    A photo that is as similar as the last of the ten counts as one of them.
    """
    return float(_found(exact, fast).mean())


def _found(exact: np.ndarray, fast: np.ndarray) -> np.ndarray:
    """Recall of each."""
    true, found = exact @ exact.T, fast @ fast.T
    for similarities in (true, found):
        np.fill_diagonal(similarities, -np.inf)
    nearest = min(_NEAREST, len(exact) - 1)
    last = -np.partition(-true, nearest - 1, axis=1)[:, nearest - 1]
    taken = np.argpartition(-found, nearest - 1, axis=1)[:, :nearest]
    part: np.ndarray = (np.take_along_axis(true, taken, 1) >= last[:, None] - _TIE).mean(1)
    return part
