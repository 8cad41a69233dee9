"""Remedies that the losses name."""

import re

import numpy as np
import torch
import torch.distributed as dist
from performing import State, case, choices, named
from torch import nn

from s2r2.losses import (
    GradedRankingLoss,
    MemoryBank,
    NTXentLoss,
    RankingLoss,
    SmoothAPLoss,
    SwAVLoss,
    ranking_statistics,
    smooth_ap_definition,
    smooth_average_precision_loss,
)
from s2r2.losses.decoupled import by_view
from s2r2.losses.gradient_cache import cached_backward
from s2r2.losses.surrogates import create_surrogate

Z = nn.functional.normalize(torch.randn(12, 6, generator=torch.Generator().manual_seed(0)), dim=1)
GROUPS = torch.arange(12) // 3
ALONE = torch.arange(12)
LAYER = nn.Linear(6, 4)


def loss(*arguments: object, **settings: object) -> float:
    value = smooth_average_precision_loss(*(arguments or (Z, GROUPS)), **settings)  # type: ignore[arg-type]
    assert torch.isfinite(value).all()
    return float(value.sum())


def each(said: str, name: str, **settings: object) -> None:
    """Every choice that the message offers works."""
    offered = choices(said)
    assert offered
    for choice in offered:
        loss(**{name: choice}, **settings)


case("reduction is {}; choose", lambda _: loss(reduction="sum"), lambda _, said: each(said, "reduction"))
case(
    "no_pairs is {}; choose",
    lambda _: loss(no_pairs="x"),
    lambda _, said: [loss(no_pairs=choice) for choice in choices(said)],
)
case(
    "distributed is {}; use 'auto'",
    lambda _: loss(distributed="x"),
    lambda _, said: [loss(distributed=value) for value in ("auto", False)],
)
case(
    "backend is {}; choose one of",
    lambda _: loss(backend="x"),
    lambda _, said: [loss(backend=choice) for choice in choices(said) if not choice.startswith("triton")],
)
case(
    "knows only losses with a sigmoid kernel",
    lambda _: RankingLoss("sup-ap", backend="numba")(Z, GROUPS),
    lambda _, said: RankingLoss("sup-ap", backend=named(r"backend='(\w+)' for", said))(Z, GROUPS),
)
case(
    "backend {} works on CUDA",
    lambda _: loss(backend="triton"),
    lambda _, said: [loss(backend=choice) for choice in choices(said)],
)


def interpreted(state: State) -> object:
    """Where Triton's interpreter stands for a GPU."""
    state.patch.setenv("TRITON_INTERPRET", "1")
    return loss(Z.double(), GROUPS, backend="triton")


case(
    "backend {} computes in float32; use",
    interpreted,
    lambda _, said: loss(Z.double(), GROUPS, backend=named(r"backend='(\w+)' for", said)),
)
case(
    "give two or more images the same number of ",
    lambda _: by_view(Z, ALONE),
    lambda _, said: by_view(Z, ALONE // 2),
)
case(
    "gallery and gallery_groups belong together",
    lambda _: loss(Z, GROUPS, gallery=Z),
    lambda _, said: (loss(Z, GROUPS, gallery=Z, gallery_groups=GROUPS), loss(Z, GROUPS)),
)
case(
    "make width and device equal",
    lambda _: loss(Z, GROUPS, gallery=Z[:, :5], gallery_groups=GROUPS),
    lambda _, said: loss(Z[:, :5], GROUPS, gallery=Z[:, :5], gallery_groups=GROUPS),
)
LABELS = ["cat", "dog", "cow", "cat", "dog", "cow"] * 2
case(
    "number other labels first",
    lambda _: loss(Z, LABELS),
    lambda _, said: loss(
        Z,
        eval(said.rsplit("first: ")[-1], {"torch": torch, "numpy": np, "labels": LABELS}),  # the message's own line
    ),
)
case(
    "give a dense tensor with its numbers",
    lambda _: loss(Z, GROUPS.to_sparse()),
    lambda _, said: loss(Z, GROUPS.to_sparse().to_dense()),
)
case(
    "{} is {} for {} {}; give one integer per row",
    lambda _: loss(Z, GROUPS[:-1]),
    lambda _, said: loss(Z, GROUPS[: int(named(r"per row: \((\d+),\)", said))]),
)
COLUMNS = torch.stack([GROUPS, GROUPS // 2], dim=1)


def graded(groups: torch.Tensor = COLUMNS, *, name: str = "h-ap", **settings: object) -> object:
    return GradedRankingLoss(name, **settings)(Z, groups)  # type: ignore[arg-type]


case(
    "give one number for each column of groups",
    lambda _: graded(weights=1.0),
    lambda _, said: graded(weights=(1.0, 0.5)),
)
case("give the columns from the finest", lambda _: graded(COLUMNS.flip(1)), lambda _, said: graded())
case(
    "weights has {} levels, groups {} columns; make them equal",
    lambda _: graded(weights=[1, 1, 1]),
    lambda _, said: graded(weights=[1] * int(named(r"groups (\d+) columns", said))),
)
case(
    "there is no graded loss {}; choose one of",
    lambda _: graded(name="x"),
    lambda _, said: [graded(name=choice) for choice in choices(said)],
)
case("a graded loss has no bank", lambda _: graded(bank=MemoryBank(4, 6)), lambda _, said: graded())
case(
    "give both the same number of columns",
    lambda _: GradedRankingLoss()(Z, COLUMNS, gallery=Z, gallery_groups=GROUPS),
    lambda _, said: GradedRankingLoss()(Z, COLUMNS, gallery=Z, gallery_groups=COLUMNS),
)
case(
    "similarities overflow; normalize embeddings first",
    lambda _: loss(Z * 1e30, GROUPS),
    lambda _, said: loss(nn.functional.normalize(Z * 1e30, dim=1), GROUPS),
)


def diverging(rate: float) -> object:
    """Ten steps of a loop; with a wild rate the weights, and so the embeddings, overflow."""
    layer, ranked = nn.Linear(6, 6), SmoothAPLoss()
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate)
    for _ in range(3):
        value = ranked(layer(Z), GROUPS)
        optimizer.zero_grad()
        (value * 1e30).backward()
        optimizer.step()
    return value


case(
    "{} are not finite in {}; look for",
    lambda _: diverging(1e30),
    lambda _, said: diverging(1e-35),
)


def swav(z: torch.Tensor) -> object:
    return SwAVLoss(6, 4)(z, GROUPS)


case(
    "embeddings are not finite, or too large to multiply",
    lambda _: swav(Z * 1e30),
    lambda _, said: swav(nn.functional.normalize(Z * 1e30, dim=1)),
)
case(
    "form is {}; choose one of",
    lambda _: NTXentLoss(form="x"),
    lambda _, said: [NTXentLoss(form=choice)(Z, GROUPS) for choice in choices(said)],
)
case(
    "no group occurs twice among {} embeddings; give each image two views",
    lambda _: NTXentLoss()(Z, ALONE),
    lambda _, said: NTXentLoss()(Z, ALONE // 2),
)
case(
    "no group occurs twice among {} embeddings; give each image at least two views",
    lambda _: smooth_ap_definition(Z, ALONE),
    lambda _, said: smooth_ap_definition(Z, ALONE // 2),
)
case(
    "or query_mask hides those that do; give each image",
    lambda _: loss(Z, ALONE),
    lambda _, said: loss(Z, ALONE // 2),
)
case(
    "or query_mask hides those that do; give a gallery with their groups",
    lambda _: loss(Z, ALONE, gallery=Z, gallery_groups=ALONE + len(Z)),
    lambda _, said: loss(Z, ALONE, gallery=Z, gallery_groups=ALONE),
)
case(
    "or let such batches count nothing: no_pairs=",
    lambda _: loss(Z, ALONE),
    lambda _, said: loss(Z, ALONE, no_pairs=named(r'no_pairs="(\w+)"', said)),
)


def in_a_group(state: State) -> None:
    dist.init_process_group("gloo", init_method=f"file://{state.tmp}/init", rank=0, world_size=1)
    try:
        loss(distributed=True)
    finally:
        dist.destroy_process_group()


case(
    "distributed is set but there is no process group",
    lambda _: loss(distributed=True),
    lambda state, said: (in_a_group(state), loss(distributed=named(r"use '(\w+)'", said))),
)


def cached(**changed: object) -> object:
    settings = {"inputs": Z, "loss_fn": lambda z: smooth_average_precision_loss(z, GROUPS), "micro_batch": 4}
    return cached_backward(LAYER, **{**settings, **changed})  # type: ignore[arg-type]


case(
    "give a number of rows above 0, or one for each",
    lambda _: cached(micro_batch=0),
    lambda _, said: (cached(micro_batch=4), cached(micro_batch=[5])),
)
case(
    "give a tensor (N, ...), or a list of them",
    lambda _: cached(inputs=Z.numpy()),
    lambda _, said: (cached(inputs=Z), cached(inputs=[Z[:4], Z[4:]])),
)
FROZEN = nn.Linear(6, 6).requires_grad_(False)


def of_frozen(learns: bool) -> object:
    FROZEN.weight.requires_grad_(learns)
    return cached_backward(FROZEN, Z, lambda z: smooth_average_precision_loss(z, GROUPS), micro_batch=4)


case("set requires_grad of those that are to learn", lambda _: of_frozen(False), lambda _, said: of_frozen(True))
case("the batch is empty; give at least two views", lambda _: cached(inputs=Z[:0]), lambda _, said: cached())
case(
    "reduce it to one number",
    lambda _: cached(loss_fn=lambda z: z.square()),
    lambda _, said: cached(loss_fn=lambda z: z.square().mean()),
)
SCALE = nn.Parameter(torch.ones(()))
case(
    "name it in loss_parameters",
    lambda _: cached(loss_fn=lambda z: z.square().mean() * SCALE),
    lambda _, said: cached(loss_fn=lambda z: z.square().mean() * SCALE, loss_parameters=[SCALE]),
)

BANK = MemoryBank(20, 6)
case(
    "groups are {} {}; give one integer per embedding",
    lambda _: BANK.add(Z, GROUPS.float()),
    lambda _, said: BANK.add(Z, GROUPS),
)
case(
    "give a MemoryBank(capacity, width), or None",
    lambda _: loss(Z, GROUPS, bank=20),
    lambda _, said: (loss(Z, GROUPS, bank=MemoryBank(20, 6)), loss(Z, GROUPS, bank=None)),
)


def of_the_size_in(said: str) -> MemoryBank:
    capacity, width = map(int, re.search(r"embeddings \((\d+), (\d+)\), here", said).groups())
    return MemoryBank(capacity, width)


case(
    "make the bank of that size",
    lambda _: MemoryBank(10, 6).load_state_dict(BANK.state_dict()),
    lambda _, said: of_the_size_in(said).load_state_dict(BANK.state_dict()),
)
case(
    "that are not finite; start with an empty one",
    lambda _: BANK.load_state_dict({**BANK.state_dict(), "embeddings": BANK.embeddings * float("nan")}),
    lambda _, said: loss(Z, GROUPS, bank=MemoryBank(20, 6)),
)


def double(differentiable: object) -> None:
    z = Z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(differentiable(z, GROUPS), z, create_graph=True)  # type: ignore[operator]
    gradient.square().sum().backward()
    assert z.grad is not None


def definition(z: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    return smooth_ap_definition(z, groups, 0.1)


case(
    "use s2r2.losses.smooth_ap_definition",
    lambda _: double(SmoothAPLoss()),
    lambda _, said: double(definition),
)
case(
    "give (N, D) with N of at least 1",
    lambda _: ranking_statistics(Z[:0], GROUPS[:0], 0.1),
    lambda _, said: ranking_statistics(Z[:2], GROUPS[:2], 0.1),
)
case(
    "outer is {}; choose",
    lambda _: create_surrogate("smooth-ap", outer="x"),
    lambda _, said: [create_surrogate("smooth-ap", outer=choice) for choice in choices(said)],
)
case(
    "there is no ranking loss {}; choose one of",
    lambda _: RankingLoss("x"),
    lambda _, said: [RankingLoss(choice)(Z, GROUPS) for choice in choices(said)],
)
