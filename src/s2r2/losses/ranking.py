"""The call that every ranking loss shares: check, gather, find positives, evaluate, average."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from s2r2.errors import ArgumentError
from s2r2.losses.backends import Evaluate, PairGradient, RankingProblem, choose_backend, load_backend
from s2r2.losses.batch import assemble, check_arguments
from s2r2.losses.distributed import Distributed
from s2r2.losses.levels import Levels
from s2r2.losses.memory_bank import MemoryBank
from s2r2.losses.refusals import (
    check_above_zero,
    check_rule,
    check_switches,
    eager,
    once,
    refuse_transforms,
    zero_without_pairs,
)
from s2r2.losses.surrogates import Surrogate, create_surrogate


class RankingLoss(nn.Module):
    """A loss made of the ranks of positives, chosen by name.

    Every embedding is a query; the others with its group are positives, the rest negatives. Groups are integers of
    any size and order: which image a view comes from, or a class label. Embeddings are used as they are: normalize
    them to compare by cosine. A query without positives is left out but remains a candidate for the others.

    Args:
        name: ``"smooth-ap"``, ``"sup-ap"``, ``"recall-at-k"``, ``"smooth-ndcg"`` or ``"quantised-ap"``; formulas,
            sources and options in :mod:`s2r2.losses.surrogates`.
        temperature: Width of the kernel in units of similarity, > 0; None takes the loss's own default. An
            attribute: assign a new value whenever you like. (``"quantised-ap"`` has none.)
        include_self: Count the query as a candidate and as a positive of itself, as the original Smooth-AP does.
        reduction: ``"mean"`` over queries that have a positive, or ``"none"``: one loss per embedding ``(N,)``, zero
            for embeddings that are no queries.
        backend: ``"auto"``, ``"torch"``, ``"numba"``, ``"triton"`` or ``"triton-split"``: same result, other speed.
        distributed: ``"auto"`` gathers over the default process group if there is one, a process group over that
            one, False not at all. See :mod:`s2r2.losses.distributed` for what each process returns.
        check_finite: Look for NaN and infinity first. False skips that on an accelerator, where it costs a host
            synchronization; such numbers then make the loss NaN.
        bank: Embeddings of recent steps as more candidates.
        no_pairs: What a batch without any pair is: ``"error"``, or ``"zero"``, a loss of 0 that carries gradients.
        **options: Options of the named loss, such as ``outer="log"`` of ``"smooth-ap"``.

    Shape:
        embeddings ``(N, D)`` floating point, groups ``(N,)`` integers; the result is a scalar, float64 for float64
        embeddings and otherwise float32.
    """

    levels: Levels | None = None

    def __init__(
        self,
        name: str = "smooth-ap",
        *,
        temperature: float | None = None,
        include_self: bool = False,
        reduction: str = "mean",
        backend: str = "auto",
        distributed: Distributed = "auto",
        check_finite: bool = True,
        bank: MemoryBank | None = None,
        no_pairs: str = "error",
        **options: Any,
    ) -> None:
        super().__init__()
        self.surrogate = create_surrogate(name, **options)
        self.temperature = self.surrogate.temperature if temperature is None else temperature
        self.include_self = include_self
        self.reduction = reduction
        self.backend = backend
        self.distributed = distributed
        self.check_finite = check_finite
        self.bank = bank
        self.no_pairs = no_pairs

    def forward(
        self,
        embeddings: Tensor,
        groups: Tensor,
        *,
        gallery: Tensor | None = None,
        gallery_groups: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss.

        Args:
            embeddings: Queries, and candidates too if there is no gallery, ``(N, D)``.
            groups: Group of each embedding, ``(N,)``. On the CPU they save an accelerator a synchronization.
            gallery: Candidates instead of the embeddings themselves, ``(M, D)``; gradients flow into them.
            gallery_groups: Their groups, ``(M,)``.
            query_mask: Which embeddings are queries, ``(N,)`` bool; the others are candidates only.

        Returns:
            Scalar, or ``(N,)`` with ``reduction="none"``.

        Raises:
            S2R2Error: Wrong shapes or types, NaN or infinity, or no query with a positive.
        """
        return ranking_loss(
            embeddings,
            groups,
            self.surrogate,
            temperature=self.temperature,
            gallery=gallery,
            gallery_groups=gallery_groups,
            query_mask=query_mask,
            include_self=self.include_self,
            reduction=self.reduction,
            backend=self.backend,
            distributed=self.distributed,
            check_finite=self.check_finite,
            bank=self.bank,
            no_pairs=self.no_pairs,
            levels=self.levels,
        )

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"{self.surrogate}, temperature={self.temperature}, backend={self.backend!r}"


@eager
def ranking_loss(
    embeddings: Tensor,
    groups: Tensor,
    surrogate: Surrogate | str,
    *,
    temperature: float,
    gallery: Tensor | None = None,
    gallery_groups: Tensor | None = None,
    query_mask: Tensor | None = None,
    include_self: bool = False,
    reduction: str = "mean",
    backend: str = "auto",
    distributed: Distributed = "auto",
    check_finite: bool = True,
    bank: MemoryBank | None = None,
    no_pairs: str = "error",
    levels: Levels | None = None,
) -> Tensor:
    """Functional form of :class:`RankingLoss`, which describes the arguments; with ``levels`` groups have columns.

    ``surrogate`` is a name, or an object with options of its own, such as ``SmoothAP(outer="log")``.
    """
    if not isinstance(surrogate, Surrogate):
        surrogate = create_surrogate(surrogate)
    if reduction not in ("mean", "none"):
        raise ArgumentError(f"reduction is {reduction!r}; choose 'mean' or 'none'")
    check_above_zero(temperature=temperature)
    check_rule(no_pairs)
    check_switches(include_self=include_self, check_finite=check_finite)
    check_arguments(embeddings, groups, gallery, gallery_groups, query_mask, graded=levels is not None)
    refuse_transforms(embeddings, gallery)
    if gallery is not None and (include_self or bank is not None):
        raise ArgumentError("a gallery excludes include_self and bank: the queries are not among the candidates")

    loss: Tensor
    with full_precision(embeddings.device):
        batch = assemble(
            embeddings,
            groups,
            gallery=gallery,
            gallery_groups=gallery_groups,
            query_mask=query_mask,
            include_self=include_self,
            distributed=distributed,
            bank=bank,
            weighting=levels,
        )
        if check_finite or embeddings.device.type == "cpu":
            batch.check_finite()
        terms = [
            _Term(RankingProblem(batch.queries, batch.candidates, relevance, surrogate, float(temperature)), share)
            for relevance, share in zip(batch.levels, batch.shares, strict=True)
        ]
        evaluate = load_backend(choose_backend(backend, surrogate, batch.queries))
        anchor = batch.queries[:0] + batch.candidates[:0]
        if batch.total == 0:
            reason = (
                f"no query has a positive: no group occurs twice among {len(groups)} embeddings, or query_mask hides "
                "those that do; give each image at least two views"
                if gallery is None
                else f"no query has a positive: no group of the {len(groups)} embeddings occurs in the gallery, or "
                "query_mask hides those that do; give a gallery with their groups"
            )
            zeros = zero_without_pairs(no_pairs, reason, batch.queries, batch.candidates)
            loss = zeros if reduction == "none" else zeros.sum()
        elif reduction == "none":
            loss = _LossPerQuery.apply(batch.queries, batch.candidates, terms, evaluate, anchor)
        else:
            scale = batch.world_size / batch.total
            loss = _MeanLoss.apply(batch.queries, batch.candidates, terms, evaluate, scale, anchor)
    if bank is not None and torch.is_grad_enabled():
        bank.add(batch.fresh, batch.fresh_groups)
    return loss


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Float32 means float32 inside: no autocast, no TF32 or bfloat16 in matrix products.

    Ranks are counts; a similarity rounded to TF32 or bfloat16 is off by 0.5 to 10 percent of a rank.
    """
    backends: Any = torch.backends
    settings = (backends.cuda.matmul, backends.mkldnn.matmul)
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


class _Term(NamedTuple):
    """A level of relevance: who is positive, and the share of each valid query's loss that it has; None: all of it."""

    problem: RankingProblem
    share: Tensor | None

    def of(self, queries: Tensor, candidates: Tensor) -> RankingProblem:
        """The problem with these embeddings."""
        return replace(self.problem, queries=queries.detach(), candidates=candidates.detach())

    def part(self, values: Tensor) -> Tensor:
        """Its part of values of the valid queries ``(Q,)``."""
        return values if self.share is None else values * self.share


class _MeanLoss(torch.autograd.Function):
    """``scale * sum of losses``. Forward computes the gradient too; backward multiplies it."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        candidates: Tensor,
        terms: Sequence[_Term],
        evaluate: Evaluate,
        scale: float,
        anchor: Tensor,
    ) -> Tensor:
        ctx.anchor = anchor
        wanted = any(ctx.needs_input_grad[:2])
        loss, gradients = queries.new_zeros(()), []
        for term in terms:
            weights = term.part(queries.new_full((len(term.problem.relevance),), scale)) if wanted else None
            losses, gradient = evaluate(term.of(queries, candidates), weights)
            gradients += [] if gradient is None else [gradient]
            loss = loss + term.part(losses).sum() * scale
        if gradients:
            ctx.save_for_backward(*_total(gradients))
        return loss

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        by_queries, by_candidates = ctx.saved_tensors
        needs_queries, needs_candidates = ctx.needs_input_grad[:2]
        return (
            gradient * by_queries if needs_queries else None,
            gradient * by_candidates if needs_candidates else None,
            *[None] * 4,
        )


class _LossPerQuery(torch.autograd.Function):
    """Losses ``(N,)``, zero for embeddings that are no queries. Backward evaluates again with its weights."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, candidates: Tensor, terms: Sequence[_Term], evaluate: Evaluate, anchor: Tensor
    ) -> Tensor:
        ctx.anchor = anchor
        ctx.save_for_backward(queries, candidates)
        ctx.evaluate = evaluate
        ctx.terms = [term._replace(problem=term.of(queries[:0], candidates[:0])) for term in terms]
        found = queries.new_zeros(len(queries))
        for term in terms:
            losses, _ = evaluate(term.of(queries, candidates), None)
            found.index_add_(0, term.problem.relevance.rows, term.part(losses))
        return found

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, candidates = ctx.saved_tensors
        gradients = []
        with full_precision(queries.device):
            for term in ctx.terms:
                weights = term.part(gradient[term.problem.relevance.rows]).contiguous()
                gradients.append(ctx.evaluate(term.of(queries, candidates), weights)[1])
        by = _total(gradients)
        needs_queries, needs_candidates = ctx.needs_input_grad[:2]
        found = by.queries if needs_queries else None, by.candidates if needs_candidates else None
        return *found, None, None, None


def _total(gradients: Sequence[PairGradient]) -> PairGradient:
    """Their sum, in place of the first."""
    first, *others = gradients
    for other in others:
        for whole, more in zip(first, other, strict=True):
            whole += more
    return first
