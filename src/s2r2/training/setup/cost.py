"""What a step costs: its time, how much of it fits into memory, and what to do when it does not fit."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from s2r2.encoder import Encoder
from s2r2.errors import S2R2Error
from s2r2.training.adaptation import trained_module

_SHARE = 0.4
"""Of the free memory, what activations may take: the backward pass needs about as much again for its own."""


def fitting_micro_batch(
    encoder: nn.Module, *, image_size: int, views: int, device: torch.device, processes: int = 1
) -> int:
    """Views that may pass through the encoder at once, from what a few of them leave behind for the backward pass.

    Args:
        encoder: The module to be trained; its state is left as it was.
        image_size: Side of a view in pixels.
        views: Views of a step in this process.
        device: Where it will be trained.
        processes: How many share the memory of the CPU.

    Returns:
        A power of two, at least 8; 0 when the whole step fits.
    """
    free = free_memory(device) // (1 if device.type == "cuda" else processes)
    most = int(_SHARE * free / bytes_per_view(encoder, image_size))
    if most >= views:
        return 0
    return max(8, 1 << (most.bit_length() - 1)) if most > 0 else 8


def bytes_per_view(encoder: nn.Module, image_size: int, views: int = 4) -> int:
    """Bytes that one view's forward pass keeps for the backward pass, in float32."""
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in encoder.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    pixels = torch.zeros(views, 3, image_size, image_size, device=next(encoder.parameters()).device)
    with _left_as_it_was(encoder), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = encoder(pixels)  # what is kept lives as long as this
        del output
    return max(1, sum(kept.values()) // views)


def seconds_per_pixel(encoder: nn.Module, image_size: int, views: int) -> float:
    """Time of a forward and a backward pass for one pixel, the shortest of three measured on the encoder's device."""
    device = next(encoder.parameters()).device
    pixels = torch.randn(views, 3, image_size, image_size, device=device)
    times = []
    with _left_as_it_was(encoder):
        for _ in range(3):
            began = time.perf_counter()
            encoder(pixels).sum().backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - began)
    return min(times) / (views * image_size**2)


def seconds_per_step_of_head(encoder: Encoder, views: int) -> float:
    """Time of a forward and a backward pass of so many features through a head that is trained alone."""
    head = trained_module(encoder, "head")
    features = torch.randn(views, encoder.dimensions("feature"), device=encoder.device)
    began = time.perf_counter()
    head(features).sum().backward()
    if encoder.device.type == "cuda":
        torch.cuda.synchronize(encoder.device)
    encoder.zero_grad(set_to_none=True)
    return time.perf_counter() - began


@contextlib.contextmanager
def _left_as_it_was(encoder: nn.Module) -> Iterator[None]:
    """Training mode, for a trial; afterwards weights, buffers, gradients and random numbers are what they were."""
    state = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    training = encoder.training
    encoder.train()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            encoder.load_state_dict(state)
            encoder.zero_grad(set_to_none=True)
            encoder.train(training)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device; of the CPU those that programs may still take."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    with contextlib.suppress(OSError, StopIteration, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    return 4 << 30


@contextlib.contextmanager
def out_of_memory_is_an_error(*, views: int, image_size: int, micro_batch: int, device: torch.device) -> Iterator[None]:
    """Say in one line how to make a step fit.

    Raises:
        S2R2Error: The device's memory is used up.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_out_of_memory(error):
            raise
        at_once = min(micro_batch or views, views)
        raise S2R2Error(
            f"out of memory with {at_once:,} views of {image_size} px in the encoder at once "
            f"({free_memory(device) / 2**30:.1f} GiB are free on {device} now): use "
            f"`micro_batch={max(8, at_once // 4)}` or `micro_batch='auto'`, which gives the same ranking in less memory"
        ) from error


def _is_out_of_memory(error: RuntimeError) -> bool:
    words = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in words or "out of memory" in words
