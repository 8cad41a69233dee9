"""Several ways to compute the same number.

* ``torch``: chunks of plain torch operations, any device, every loss. The reference for the other two.
* ``numba``: fused loops on the CPU, compiled on first use and cached.
* ``triton``: fused kernels on CUDA that never write an N x N matrix.
* ``triton-split``: the same from a third of the instructions; by name only, until it has been measured on a GPU.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from s2r2.errors import ArgumentError
from s2r2.losses.backends.problem import PairGradient, RankingProblem
from s2r2.losses.surrogates import QuantisedAP, Surrogate

__all__ = ["BACKENDS", "Evaluate", "PairGradient", "RankingProblem", "choose_backend", "load_backend"]

BACKENDS = ("auto", "torch", "numba", "triton", "triton-split")

Evaluate = Callable[[RankingProblem, Tensor | None], tuple[Tensor, PairGradient | None]]

_MODULES = {
    "torch": "torch_chunked",
    "histogram": "histogram",
    "numba": "numba_cpu",
    "triton": "triton_cuda",
    "triton-split": "triton_split",
}


def choose_backend(name: str, surrogate: Surrogate, embeddings: Tensor) -> str:
    """Resolve ``"auto"`` and check that a named backend can do what is asked.

    Args:
        name: One of :data:`BACKENDS`. ``"auto"`` takes triton on CUDA and numba on the CPU, and torch for everything
            else: other devices, losses with another kernel than the sigmoid, float64 on CUDA.
        surrogate: The loss.
        embeddings: Tells device and type.

    Returns:
        ``"torch"``, ``"numba"``, ``"triton"``, or ``"histogram"`` (torch too) for the loss that is made of bins.

    Raises:
        S2R2Error: Unknown backend, or one that cannot compute this loss on this device.
    """
    if name not in BACKENDS:
        raise ArgumentError(f"backend is {name!r}; choose one of {', '.join(BACKENDS)}")
    device = embeddings.device.type
    if isinstance(surrogate, QuantisedAP) and name in ("auto", "torch"):
        return "histogram"
    if name == "auto":
        fused = {"cpu": "numba", "cuda": "triton"}.get(device, "torch")
        if not surrogate.sigmoid_kernel or (fused == "triton" and embeddings.dtype == torch.float64):
            return "torch"
        return fused if _installed(fused) else "torch"
    if name == "torch":
        return name
    if not surrogate.sigmoid_kernel:
        raise ArgumentError(
            f"backend {name!r} knows only losses with a sigmoid kernel; use backend='torch' for this one"
        )
    if name == "numba" and device != "cpu":
        raise ArgumentError(
            f"backend 'numba' works on the CPU, the embeddings are on {device}; use 'triton' or 'torch'"
        )
    on_cuda = name.startswith("triton")
    if on_cuda and device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ArgumentError(f"backend {name!r} works on CUDA, the embeddings are on {device}; use 'numba' or 'torch'")
    if on_cuda and embeddings.dtype == torch.float64:
        raise ArgumentError(f"backend {name!r} computes in float32; use backend='torch' for float64 embeddings")
    return name if _installed(name) else "torch"


def load_backend(name: str) -> Evaluate:
    """The ``evaluate`` function of a backend; its library is imported now."""
    evaluate: Evaluate = importlib.import_module(f"{__name__}.{_MODULES[name]}").evaluate
    return evaluate


@functools.cache
def _installed(name: str) -> bool:
    library = name.partition("-")[0]
    if library == "torch" or importlib.util.find_spec(library) is not None:
        return True
    warnings.warn(f"{library} is not installed: the ranking loss uses plain torch, same result, slower", stacklevel=3)
    return False
