"""A loss over a batch of any size in the memory of one slice (Gao, Zhang, Han, Callan, arXiv 2101.06983).

A ranking loss needs all embeddings at once, but not all activations:

1. embed the batch slice by slice, keeping no graph;
2. take the loss and its gradient with respect to the embeddings, once, over the whole batch;
3. embed each slice again, with the same random numbers, and push its part of that gradient into the parameters.

The gradients are those of the whole batch, for one more forward pass.
"""

from __future__ import annotations

import contextlib
import numbers
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.checkpoint import get_device_states, set_device_states

from s2r2.errors import ArgumentError


class CachedStep(NamedTuple):
    """What a cached step leaves behind besides gradients: loss (scalar) and embeddings ``(N, D)``, both detached."""

    loss: Tensor
    embeddings: Tensor


def cached_backward(
    model: Callable[[Tensor], Tensor],
    inputs: Tensor | Sequence[Tensor],
    loss_fn: Callable[[Tensor], Tensor],
    *,
    micro_batch: int | Sequence[int],
    backward: Callable[[Tensor], Any] = torch.Tensor.backward,
    no_sync: Callable[[], contextlib.AbstractContextManager[Any]] | None = None,
    loss_parameters: Iterable[Tensor] | None = None,
) -> CachedStep:
    """Do what ``loss_fn(model(inputs)).backward()`` does, in the memory of one slice.

    Gradients are added to ``.grad`` of the parameters; calling the optimizer is yours. Dropout and other random
    layers see the same random numbers (of torch, on the CPU and on the device) in both passes. Batch norm sees one
    slice at a time: its statistics are those of a slice, and enter the running averages once. Works under autocast;
    of float16 embeddings the loss is given a float32 copy, since gradients that no scaler has seen would vanish in it.

    Args:
        model: Embeds a slice, ``(n, ...)`` to ``(n, D)``: a module, or a function that calls modules (it is called
            once more, with two rows, to see which buffers they have). Wrapped in
            ``DistributedDataParallel``, gradients are exchanged with the last slice only; the number of slices may
            differ between processes. Of a model in shards (torch's ``fully_shard``) they are exchanged with each
            slice, or every process would hold them whole; all processes must have as many slices.
        inputs: The batch ``(N, ...)``; or several tensors of different sizes (multi-crop), whose embeddings are
            concatenated in their order.
        loss_fn: Takes the embeddings ``(N, D)`` and returns a scalar.
        micro_batch: Rows of a slice; one number for all inputs or one for each.
        backward: Called with a scalar in place of ``scalar.backward()``: ``fabric.backward``, or
            ``lambda loss: scaler.scale(loss).backward()``.
        no_sync: Opens a context without gradient exchange; found by itself where the model, or what Fabric has
            wrapped, offers one, as DDP does.
        loss_parameters: Parameters of the loss itself; found by itself if ``loss_fn`` is a module.

    Returns:
        Loss and embeddings, detached.

    Raises:
        S2R2Error: Wrong slice sizes, an output that is no matrix, parameters in the loss that were not named, or
            nothing that gradients could flow into.
    """
    slices = _cut(inputs, micro_batch)
    own = loss_parameters if loss_parameters is not None else _parameters(loss_fn)
    parameters = [parameter for parameter in own if parameter.requires_grad]
    without_exchange = no_sync or _find_no_sync(model)
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model

    states, outputs = [], []
    with torch.no_grad(), _buffers_kept(inner, slices[0]):
        for piece in slices:
            states.append(_RandomState.now(piece))
            outputs.append(_checked(inner(piece), piece))
    embeddings = torch.cat(outputs)
    # Its gradient has not been scaled yet, and in float16 what is below 6e-8 would be lost.
    embeddings = (embeddings.float() if embeddings.dtype == torch.float16 else embeddings).requires_grad_()
    with torch.enable_grad():
        loss = loss_fn(embeddings)
    _check_leaves(loss, [embeddings, *parameters])
    by_embedding, *by_parameter = torch.autograd.grad(loss, [embeddings, *parameters], allow_unused=True)
    if by_embedding is None:
        raise ArgumentError("the loss does not depend on the embeddings; loss_fn must use its argument")
    after = _RandomState.now(slices[0])

    gradients = by_embedding.split([len(piece) for piece in slices])
    reached = False
    for number, (piece, state, gradient) in enumerate(zip(slices, states, gradients, strict=True)):
        last = number == len(slices) - 1
        # Weights that autocast has cached belong to the pass without graph, or to a graph already freed.
        torch.clear_autocast_cache()
        state.restore()
        with contextlib.nullcontext() if last else without_exchange():
            # A scalar whose gradient is the one wanted: hooks such as a loss scaler then apply exactly once.
            with torch.enable_grad():
                scalar = (model(piece) * gradient).sum()
                if last:
                    pairs = zip(parameters, by_parameter, strict=True)
                    scalar = sum(((p * g).sum() for p, g in pairs if g is not None), start=scalar)
            if scalar.requires_grad:
                backward(scalar)
                reached = True
            del scalar  # and with it the graph, before the next slice makes its own
    after.restore()
    if not reached:
        raise ArgumentError(
            "no parameter of the model or the loss requires a gradient; set requires_grad of those that are to learn"
        )
    return CachedStep(loss.detach(), embeddings.detach())


@dataclass(frozen=True)
class _RandomState:
    """State of torch's generators on the CPU and on the device of a slice."""

    cpu: Tensor
    devices: list[int]
    states: list[Tensor]
    kind: str

    @classmethod
    def now(cls, piece: Tensor) -> _RandomState:
        devices, states = get_device_states(piece)
        return cls(torch.get_rng_state(), devices, states, piece.device.type)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.devices:
            set_device_states(self.devices, self.states, device_type=self.kind)


def _cut(inputs: Tensor | Sequence[Tensor], micro_batch: int | Sequence[int]) -> list[Tensor]:
    tensors = [inputs] if isinstance(inputs, Tensor) else inputs
    if not isinstance(tensors, Sequence) or not all(isinstance(tensor, Tensor) and tensor.ndim for tensor in tensors):
        raise ArgumentError(f"inputs is {type(inputs).__name__}; give a tensor (N, ...), or a list of them")
    sizes = list(micro_batch) if isinstance(micro_batch, Sequence) else [micro_batch] * len(tensors)
    whole = all(isinstance(size, numbers.Integral) and not isinstance(size, bool) for size in sizes)
    if len(sizes) != len(tensors) or not whole or any(size < 1 for size in sizes):
        raise ArgumentError(
            f"micro_batch is {micro_batch!r} for {len(tensors)} inputs; give a number of rows above 0, or one for each"
        )
    slices = [
        piece for tensor, size in zip(tensors, sizes, strict=True) for piece in tensor.split(int(size)) if len(piece)
    ]
    if not slices:
        raise ArgumentError("the batch is empty; give at least two views of an image")
    return slices


def _parameters(loss_fn: Callable[[Tensor], Tensor]) -> Iterable[Tensor]:
    return loss_fn.parameters() if isinstance(loss_fn, nn.Module) else ()


def _find_no_sync(model: Any) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    wrapped: Any = getattr(model, "_forward_module", None)  # what Fabric has wrapped: DDP, if it uses that
    for module in (model, wrapped):
        if hasattr(module, "no_sync"):
            return module.no_sync
    return contextlib.nullcontext


@contextlib.contextmanager
def _buffers_kept(model: Any, piece: Tensor) -> Iterator[None]:
    """Undo what the block does to buffers: running statistics must not count a slice twice."""
    buffers = list(model.buffers()) if isinstance(model, nn.Module) else _buffers_reached(model, piece[:2])
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


def _buffers_reached(function: Callable[[Tensor], Any], few: Tensor) -> list[Tensor]:
    """The buffers of all modules that a function calls: a call with a few rows shows which, and leaves no trace."""
    before: dict[int, tuple[Tensor, Tensor]] = {}
    thread, state = threading.get_ident(), _RandomState.now(few)

    def keep(module: nn.Module, _inputs: Any) -> None:
        if not torch.compiler.is_compiling() and threading.get_ident() == thread:
            before.update((id(b), (b, b.clone())) for b in module.buffers() if id(b) not in before)

    hook = register_module_forward_pre_hook(keep)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using `torch.compile")  # says that hooks may be called twice
            # Compiled code calls no hooks, and would be compiled anew because of them.
            compiled = "torch._dynamo" in sys.modules
            with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
                function(few)
    finally:
        hook.remove()
        for buffer, value in before.values():
            buffer.copy_(value)
        state.restore()
    return [buffer for buffer, _ in before.values()]


def _checked(output: Tensor, piece: Tensor) -> Tensor:
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(piece):
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ArgumentError(
            f"the model made {shape} of {len(piece)} inputs; it must return embeddings ({len(piece)}, D)"
        )
    return output


def _check_leaves(loss: Tensor, known: list[Tensor]) -> None:
    """Refuse a loss with parameters that would silently get no gradient."""
    if not isinstance(loss, Tensor) or loss.grad_fn is None or loss.numel() != 1:
        kind = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ArgumentError(f"loss_fn returned {kind} without gradient or not scalar; reduce it to one number")
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None and not any(leaf is tensor for tensor in known):
            raise ArgumentError(f"the loss has a parameter {tuple(leaf.shape)} of its own; name it in loss_parameters")
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
