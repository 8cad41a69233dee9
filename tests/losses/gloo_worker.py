"""One process of a gloo group; test_distributed.py starts several and reads their exit codes.

Every process also computes, alone, what one process makes of the whole batch, and compares.
"""

import os
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parent))
from ranking_cases import make_batch

from s2r2.errors import S2R2Error
from s2r2.losses import (
    FORMS,
    GRADED,
    GradedRankingLoss,
    MemoryBank,
    MVDHELLoss,
    NTXentLoss,
    RankingLoss,
    SmoothAPLoss,
    SpreadLoss,
    SwAVLoss,
    cached_backward,
)
from s2r2.losses.neighbors import with_neighbors

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
SIZES = {2: [11, 6], 4: [7, 0, 4, 6]}[WORLD]  # uneven; with four processes one has nothing
TOLERANCE = 1e-6


def whole_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """17 inputs in ragged groups, in random order: some have positives only in another process, some none."""
    inputs, groups = make_batch([5, 1, 2, 6, 1, 2], 0.7, 0)
    assert len(inputs) == sum(SIZES)
    return inputs, groups


def mine(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.split(SIZES)[RANK]


class Model(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layers = nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9), nn.Dropout(dropout), nn.Linear(9, 4)).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return normalize(self.layers(x), dim=1)


def gradient_of(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def check(name: str, found: torch.Tensor, expected: torch.Tensor) -> None:
    error = ((found - expected).norm() / expected.norm()).item()
    print(f"process {RANK}: {name}: relative error {error:.1e}", flush=True)
    assert expected.norm() > 1e-4, f"{name}: nothing to compare"
    assert error < TOLERANCE, name


def same_as_one_process(name: str, make_loss, **rows: torch.Tensor) -> None:  # type: ignore[no-untyped-def]
    inputs, groups = whole_batch()
    alone = Model()
    expected = make_loss(distributed=False)(alone(inputs), groups, **rows)
    expected.backward()
    together = DistributedDataParallel(Model())
    loss = make_loss()(together(mine(inputs)), mine(groups), **{key: mine(value) for key, value in rows.items()})
    loss.backward()
    check(name, gradient_of(together), gradient_of(alone))
    average = loss.detach().clone()
    dist.all_reduce(average)
    check(f"{name}, mean of the losses", average / WORLD, expected.detach())


def graded() -> None:
    """Groups of a level, too, are spread over processes; in slices the gradient is the same."""
    inputs, finest = whole_batch()
    coarser = torch.unique(finest, return_inverse=True)[1] // 2
    groups = torch.stack([finest, coarser, coarser // 2], dim=1)
    for name in GRADED:
        alone, together = Model(), DistributedDataParallel(Model())
        expected = GradedRankingLoss(name, temperature=0.1, distributed=False)(alone(inputs), groups)
        expected.backward()
        loss = GradedRankingLoss(name, temperature=0.1)
        average = loss(together(mine(inputs)), mine(groups))
        average.backward()
        check(f"graded {name}", gradient_of(together), gradient_of(alone))
        average = average.detach()
        dist.all_reduce(average)
        check(f"graded {name}, mean of the losses", average / WORLD, expected.detach())
        if min(SIZES) > 0:
            together = DistributedDataParallel(Model())
            cached_backward(together, mine(inputs), lambda z, loss=loss: loss(z, mine(groups)), micro_batch=2)
            check(f"graded {name}, gradient cache", gradient_of(together), gradient_of(alone))


def neighbors() -> None:
    """Neighbors join in one process; all remember the same images."""
    inputs, groups = whole_batch()
    recent = [MemoryBank(12, 4) for _ in range(2)]
    for bank in recent:
        bank.add(normalize(torch.sin(torch.arange(48.0).reshape(12, 4) ** 2), dim=1), torch.zeros(12, dtype=torch.long))
    gradients = []
    for bank, rows, distributed in zip(recent, (lambda t: t, mine), (False, "auto"), strict=True):
        model = Model() if distributed is False else DistributedDataParallel(Model())
        z, levels, queries, share = with_neighbors(model(rows(inputs)), rows(groups), bank, distributed=distributed)
        assert share > 0
        GradedRankingLoss(temperature=0.1, distributed=distributed)(z, levels, query_mask=queries).backward()
        gradients.append(gradient_of(model))
    check("neighbors", gradients[1], gradients[0])
    check("neighbors, remembered", recent[1].embeddings, recent[0].embeddings)


def galleries() -> None:
    inputs, groups = whole_batch()
    gallery, gallery_groups = make_batch([4, 2, 3, 1, 4, 3], 0.7, 0)
    sizes = {2: [5, 12], 4: [2, 9, 5, 1]}[WORLD]
    part, part_groups = gallery.split(sizes)[RANK], gallery_groups.split(sizes)[RANK]
    alone, together = Model(), DistributedDataParallel(Model())
    loss = SmoothAPLoss(0.1, distributed=False)
    loss(alone(inputs), groups, gallery=alone(gallery), gallery_groups=gallery_groups).backward()
    embedded = together(torch.cat([mine(inputs), part]))
    queries, candidates = embedded.split([SIZES[RANK], len(part)])
    SmoothAPLoss(0.1)(queries, mine(groups), gallery=candidates, gallery_groups=part_groups).backward()
    check("gallery", gradient_of(together), gradient_of(alone))


def per_query() -> None:
    inputs, groups = whole_batch()
    weights = torch.linspace(0.1, 2, len(inputs), dtype=torch.float64)
    alone, together = Model(), DistributedDataParallel(Model())
    expected = SmoothAPLoss(0.1, reduction="none", distributed=False)(alone(inputs), groups)
    (expected * weights).sum().backward()
    found = SmoothAPLoss(0.1, reduction="none")(together(mine(inputs)), mine(groups))
    assert found.shape == (SIZES[RANK],)
    (WORLD * (found * mine(weights)).sum()).backward()
    check("reduction none", gradient_of(together), gradient_of(alone))
    if len(found):
        check("reduction none, value", found.detach(), mine(expected.detach()))


def banks() -> None:
    inputs, groups = whole_batch()
    results = []
    for world, rows in ((False, slice(None)), ("auto", None)):
        bank = MemoryBank(25, 4).double()
        loss = SmoothAPLoss(0.1, bank=bank, distributed=world)
        model = Model() if rows else DistributedDataParallel(Model())
        for step in range(3):
            model.zero_grad()
            x = torch.roll(inputs, step, dims=1)
            loss(model(x if rows else mine(x)), groups if rows else mine(groups)).backward()
        results.append((gradient_of(model), bank.embeddings))
    check("memory bank", results[1][0], results[0][0])
    check("memory bank, contents", results[1][1], results[0][1])


def swav() -> None:
    """As many images in every process, a queue that fills up, small views after large ones."""
    images, views = 2 * WORLD, 3
    generator = torch.Generator().manual_seed(4)
    steps = torch.randn(4, images, views, 6, generator=generator, dtype=torch.float64)
    groups = torch.arange(images).repeat_interleave(views)
    results = []
    for world in (False, "auto"):
        torch.manual_seed(1)
        loss = SwAVLoss(4, 5, queue=2 * images, distributed=world).double()
        model: nn.Module = nn.ModuleDict({"encoder": Model(), "loss": loss})
        for batch in steps:
            model.zero_grad()
            part = batch if world is False else batch[2 * RANK : 2 * RANK + 2]
            value = loss(model["encoder"](part.flatten(0, 1)), groups[: len(part) * views])
            value.backward()
            loss.queue_active = True
        gradient = gradient_of(model)
        value = value.detach()
        if world:
            dist.all_reduce(gradient)
            dist.all_reduce(value)
            gradient, value = gradient / WORLD, value / WORLD
        results.append((gradient, value, loss.queues[1].embeddings))
    for name, found, expected in zip(("", ", value", ", queue"), results[1], results[0], strict=True):
        check(f"SwAV{name}", found, expected)


def mv_dhel() -> None:
    """As many views of each image; some images have views in several processes."""
    inputs, groups = make_batch([4] * 4, 0.7, 1)
    sizes = {2: [10, 6], 4: [5, 0, 4, 7]}[WORLD]
    alone, together = Model(), DistributedDataParallel(Model())
    expected = MVDHELLoss(0.3, distributed=False)(alone(inputs), groups)
    expected.backward()
    found = MVDHELLoss(0.3)(together(inputs.split(sizes)[RANK]), groups.split(sizes)[RANK])
    found.backward()
    check("MV-DHEL", gradient_of(together), gradient_of(alone))
    check("MV-DHEL, value", found.detach(), expected.detach())


def cached() -> None:
    """Slices of two rows: the processes have different numbers of them."""
    inputs, groups = whole_batch()
    alone, together = Model(), DistributedDataParallel(Model())
    SmoothAPLoss(0.1, distributed=False)(alone(inputs), groups).backward()
    if min(SIZES) > 0:
        cached_backward(together, mine(inputs), lambda z: SmoothAPLoss(0.1)(z, mine(groups)), micro_batch=2)
        check("gradient cache", gradient_of(together), gradient_of(alone))
        together = DistributedDataParallel(Model())
        alone.zero_grad()
        SpreadLoss(distributed=False)(alone(inputs), groups).backward()
        cached_backward(together, mine(inputs), lambda z: SpreadLoss()(z, mine(groups)), micro_batch=2)
        check("gradient cache, spread", gradient_of(together), gradient_of(alone))


def errors() -> None:
    inputs, groups = whole_batch()
    z = normalize(inputs, dim=1)
    z[8, 1] = float("nan")  # the second process that has rows
    with pytest.raises(S2R2Error, match="not finite in row"):
        SmoothAPLoss(0.1)(mine(z), mine(groups))
    with pytest.raises(S2R2Error, match=r"^embeddings are not finite in row \d+ of process"):
        SmoothAPLoss(0.1)(mine(z), mine(groups), gallery=inputs, gallery_groups=groups)  # of one process; all say so
    with pytest.raises(S2R2Error, match="no query has a positive"):
        SmoothAPLoss(0.1)(mine(inputs), mine(torch.arange(len(inputs))))
    columns = torch.stack([groups, groups // 2], dim=1)
    crossing = columns + torch.tensor([0, 99]) * (RANK == 0)  # of the queries of one process; all say so
    gallery = {"gallery": inputs, "gallery_groups": columns}
    with pytest.raises(S2R2Error, match="are in several groups"):
        GradedRankingLoss()(mine(inputs), mine(crossing), **gallery)
    with pytest.raises(S2R2Error, match="make them equal"):
        SmoothAPLoss(0.1)(mine(inputs)[:, : 6 - RANK], mine(groups))
    assert torch.isfinite(SmoothAPLoss(0.1)(mine(inputs)[:, :5], mine(groups)))  # made equal


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=os.environ["INIT"], rank=RANK, world_size=WORLD)
    for backend in ("torch", "numba"):
        same_as_one_process(backend, lambda b=backend, **o: SmoothAPLoss(0.1, backend=b, **o))
    mask = torch.arange(17) % 3 != 1
    same_as_one_process("query mask", lambda **o: SmoothAPLoss(0.1, **o), query_mask=mask)
    same_as_one_process("include self", lambda **o: SmoothAPLoss(0.1, include_self=True, **o))
    for name in ("sup-ap", "recall-at-k", "smooth-ndcg", "quantised-ap"):
        same_as_one_process(name, lambda n=name, **o: RankingLoss(n, temperature=0.1, **o))
    for form in FORMS:
        same_as_one_process(f"NT-Xent, {form}", lambda f=form, **o: NTXentLoss(0.2, form=f, **o))
    same_as_one_process("spread", SpreadLoss)
    graded()
    neighbors()
    mv_dhel()
    swav()
    galleries()
    per_query()
    banks()
    cached()
    errors()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads now and then abort the interpreter's own way out; all checks have passed here
