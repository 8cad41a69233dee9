"""What the losses refuse rather than answer with a wrong number: transforms, second derivatives, bad settings."""

from __future__ import annotations

import functools
import math
import numbers
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from s2r2.errors import ArgumentError, S2R2Error

INSTEAD = "use s2r2.losses.smooth_ap_definition, which is slow and plain autograd"

_NOT_COMPILED = f"a ranking loss cannot be part of a compiled graph: {INSTEAD}"


def eager(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: ``torch.compile`` leaves the function as it is; with ``fullgraph=True`` torch says why.

    It does what ``torch.compiler.disable`` does, but does not import the compiler, which takes seconds.
    """
    disabled: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **options)
        if not disabled:
            disabled.append(torch.compiler.disable(function, reason=_NOT_COMPILED))
        return disabled[0](*args, **options)

    called._torchdynamo_disable = True  # type: ignore[attr-defined]
    called._torchdynamo_disable_msg = _NOT_COMPILED  # type: ignore[attr-defined]
    return called


def transformed() -> bool:
    """Whether a transform of ``torch.func`` (grad, vmap, jacrev ...) is at work."""
    return bool(torch._C._are_functorch_transforms_active())


def refuse_transforms(*tensors: Tensor | None) -> None:
    """Refuse what only plain autograd functions can do: ``torch.func`` and forward-mode derivatives.

    Raises:
        S2R2Error: It names the function to use instead.
    """
    dual = any(t is not None and torch.autograd.forward_ad.unpack_dual(t).tangent is not None for t in tensors)
    if dual or transformed():
        raise S2R2Error(f"this loss knows neither torch.func (grad, vmap ...) nor forward-mode derivatives: {INSTEAD}")


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward pass whose gradient may be used, but not differentiated: with ``create_graph`` that raises.

    torch's own ``once_differentiable`` lets the gradient pass as a constant where the loss's own gradient is one. If
    the pass has an ``anchor``, an empty tensor made of the inputs, the gradient depends on them in torch's eyes, too.
    """

    @functools.wraps(backward)
    def guarded(ctx: Any, gradient: Tensor) -> Any:
        with torch.no_grad():
            found = backward(ctx, gradient)
        if not torch.is_grad_enabled():
            return found
        anchor = getattr(ctx, "anchor", None)
        return tuple(_Last.apply(g.detach().requires_grad_(), anchor) if isinstance(g, Tensor) else g for g in found)

    return guarded


def check_above_zero(**settings: Any) -> None:
    """Check numbers that may be changed at any time, when they are used.

    Raises:
        S2R2Error: One is not a finite number above 0; it is named.
    """
    for name, value in settings.items():
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not (number and 0 < float(value) < math.inf):
            raise ArgumentError(f"{name} is {value!r}; it must be a number above 0")


def check_whole(least: int, **settings: Any) -> None:
    """Check counts.

    Raises:
        S2R2Error: One is not a whole number of at least ``least``; it is named.
    """
    for name, value in settings.items():
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or int(value) < least:
            raise ArgumentError(f"{name} is {value!r}; it must be a whole number of at least {least}")


def check_switches(**settings: Any) -> None:
    """Raise an S2R2Error that names the setting unless all are True or False."""
    for name, value in settings.items():
        if not isinstance(value, bool):
            raise ArgumentError(f"{name} is {value!r}; it must be True or False")


def zero_without_pairs(rule: str, reason: str, queries: Tensor, candidates: Tensor) -> Tensor:
    """Zero as a loss ``(N,)`` that carries gradients, for a batch without any pair.

    Raises:
        S2R2Error: The rule is ``"error"``.
    """
    if rule == "error":
        raise ArgumentError(f'{reason}; or let such batches count nothing: no_pairs="zero"')
    return (queries * 0).sum(1) + (candidates * 0).sum()


def check_rule(rule: str) -> None:
    """Raise an S2R2Error unless ``no_pairs`` is one of its two rules."""
    if rule not in ("error", "zero"):
        raise ArgumentError(f"no_pairs is {rule!r}; choose 'error' or 'zero'")


class _Last(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, anchor: Tensor | None) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise S2R2Error(f"this loss has no second derivative: {INSTEAD}")
