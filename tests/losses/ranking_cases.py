"""Batches and slow definitions that the tests of the losses share."""

import math

import torch
from hypothesis import strategies as st
from torch import Tensor


def make_batch(
    sizes: list[int], separation: float, seed: int, width: int = 6, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Unit embeddings around one center a group, in random order: separation 0 mixes the groups, inf collapses each."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randperm(1000, generator=generator)[: len(sizes)] - 300
    groups = numbers.repeat_interleave(torch.tensor(sizes))
    groups = groups[torch.randperm(len(groups), generator=generator)]
    centres = torch.randn(len(sizes), width, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(groups), width, generator=generator, dtype=torch.float64)
    own = centres[(groups[:, None] == numbers).int().argmax(1)]
    mixed = own if math.isinf(separation) else noise + separation * own
    return torch.nn.functional.normalize(mixed, dim=1).to(dtype), groups


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, float]:
    """Embeddings, groups (ragged, shuffled, at least one with two members) and a temperature."""
    sizes = [*draw(st.lists(st.integers(1, 7), min_size=1, max_size=7)), draw(st.integers(2, 9))]
    separation = draw(st.sampled_from([0.0, 0.5, 2.0, 10.0, math.inf]))
    temperature = draw(st.sampled_from([0.005, 0.01, 0.05]) | st.floats(0.005, 1))
    embeddings, groups = make_batch(sizes, separation, draw(st.integers(0, 10_000)))
    return embeddings, groups, temperature


def value_and_gradient(loss_fn, embeddings: Tensor, *arguments, **options) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    """Loss and its gradient with respect to the embeddings."""
    leaf = embeddings.detach().clone().requires_grad_()
    loss = loss_fn(leaf, *arguments, **options)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), gradient


def slow_ranking(embeddings: Tensor, groups: Tensor, query: int, kernel, *, include_self: bool = False):  # type: ignore[no-untyped-def]
    """R+ and R of each positive of one query, by loops over the formula; kernel(difference, positive) gives H."""
    same = [k for k in range(len(groups)) if groups[k] == groups[query]]
    positives = [k for k in same if include_self or k != query]
    candidates = [k for k in range(len(groups)) if include_self or k != query]
    s = embeddings @ embeddings[query]
    among, rank = [], []
    for i in positives:
        above = {j: kernel(s[j] - s[i], j in positives) for j in candidates if j != i}
        among.append(1 + sum(above[j] for j in positives if j != i))
        rank.append(1 + sum(above.values()))
    return torch.stack([torch.as_tensor(x, dtype=s.dtype) for x in among]), torch.stack(
        [torch.as_tensor(x, dtype=s.dtype) for x in rank]
    )
