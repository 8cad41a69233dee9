"""Neighbors among recent images against loops over the definition; what is remembered, and when."""

import pytest
import torch
from ranking_cases import make_batch, value_and_gradient
from torch import Tensor
from torch.nn.functional import normalize

from s2r2.errors import S2R2Error
from s2r2.losses import GradedRankingLoss, MemoryBank
from s2r2.losses.neighbors import mutual_nearest, with_neighbors
from s2r2.losses.spread import group_means
from s2r2.training import TrainConfig
from s2r2.training.methods import build_method, resolve

WIDTH = 6


def remembering(count: int, capacity: int = 20) -> MemoryBank:
    torch.manual_seed(count)
    bank = MemoryBank(capacity, WIDTH)
    bank.add(normalize(torch.randn(count, WIDTH), dim=1), torch.zeros(count, dtype=torch.int64))
    return bank


def batch() -> tuple[Tensor, Tensor]:
    inputs, groups = make_batch([3, 4, 2, 5, 1], 0.7, 0)
    return normalize(inputs[:, :WIDTH], dim=1), groups


def pairs(means: Tensor, others: Tensor) -> list[tuple[int, int]]:
    s = means @ others.T
    return [
        (i, j)
        for i in range(len(means))
        for j in range(len(others))
        if all(s[i, j] >= s[i, k] for k in range(len(others))) and all(s[i, j] >= s[k, j] for k in range(len(means)))
    ]


def slow(z: Tensor, groups: Tensor, others: Tensor, near: list[tuple[int, int]], weight: float, t: float) -> Tensor:
    """1 - H-AP of each view with a positive: its image's other views count fully, its image's neighbor ``weight``."""
    images = torch.unique(groups).tolist()
    losses = []
    joined = torch.cat([z, others[[j for _, j in near]].to(z)]) if near else z
    for q in range(len(z)):
        own = [k for k in range(len(z)) if k != q and groups[k] == groups[q]]
        also = own + [len(z) + n for n, (i, _) in enumerate(near) if images[i] == groups[q]]
        if not also:
            continue
        rel = [1 / len(own) * (k in own) + weight / len(also) if own else weight / len(also) for k in also]
        s = joined @ z[q]
        total = torch.zeros((), dtype=z.dtype)
        for k, mine in zip(also, rel, strict=True):
            rank, hierarchical = torch.ones(()).double(), torch.tensor(mine).double()
            for j in range(len(joined)):
                if j not in (k, q):
                    above = torch.sigmoid((s[j] - s[k]) / t)
                    rank = rank + above
                    hierarchical = hierarchical + min(mine, dict(zip(also, rel, strict=True)).get(j, 0.0)) * above
            total = total + hierarchical / rank
        losses.append(1 - total / sum(rel))
    return torch.stack(losses).mean()


def test_pairs_are_each_others_nearest() -> None:
    torch.manual_seed(0)
    rows, others = torch.randn(9, WIDTH), torch.randn(14, WIDTH)
    found = list(zip(*(t.tolist() for t in mutual_nearest(rows, others)), strict=True))
    assert found == pairs(rows, others)
    assert 0 < len(found) < 9


@pytest.mark.parametrize("remembered", [0, 3, 20])
def test_equals_the_definition(remembered: int) -> None:
    z, groups = batch()
    bank = remembering(remembered)
    others = bank.embeddings[:remembered].double().clone()
    near = pairs(normalize(group_means(z.detach(), groups), dim=1), others)
    assert bool(near) == bool(remembered)
    expected, expected_gradient = value_and_gradient(lambda z: slow(z, groups, others, near, 0.3, 0.1), z)

    def loss(z: Tensor) -> Tensor:
        rows, levels, queries, share = with_neighbors(z, groups, bank)
        assert share == pytest.approx(len(near) / 5)
        return GradedRankingLoss(temperature=0.1, weights=[1, 0.3])(rows, levels, query_mask=queries)

    found, gradient = value_and_gradient(loss, z)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-6)


def test_images_are_remembered_after_they_were_ranked_and_only_in_training() -> None:
    z, groups = batch()
    bank = remembering(20)
    before = bank.embeddings.clone()
    with torch.no_grad():
        assert with_neighbors(z, groups, bank).share > 0
    torch.testing.assert_close(bank.embeddings, before)
    step = with_neighbors(z.requires_grad_(), groups, bank)
    joined = step.embeddings[~step.queries].detach().float()
    assert all((before == row).all(1).any() for row in joined)  # as they were, though the oldest made room
    torch.testing.assert_close(bank.embeddings[:5], normalize(group_means(z.detach(), groups), dim=1).float())


def method(images: int, **options: object) -> torch.nn.Module:
    return build_method(resolve(TrainConfig(embedding_dimensions=WIDTH, options=options)), images)  # type: ignore[arg-type]


def test_s2r2_has_neighbors_from_the_second_step_on() -> None:
    z, groups = batch()
    torch.manual_seed(1)
    ranks, plain = method(400, neighbors=0.3), method(400)
    first = ranks(z, groups)
    torch.testing.assert_close(first, plain(z, groups))
    near = normalize(z + 0.1 * torch.randn_like(z), dim=1).requires_grad_()
    assert ranks(near, groups).item() != pytest.approx(plain(near, groups).item())
    assert ranks.statistics(z, groups)["neighbor_share"] == 1
    assert "neighbor_share" not in plain.statistics(z, groups)


def test_a_photo_is_hardly_ever_its_own_neighbor() -> None:
    """Of a quarter of the photos at most, few are back in the next epoch's order that soon."""
    assert len(method(40, neighbors=0.3).recent.embeddings) == 10
    assert len(method(100_000, neighbors=0.3, recent=2048).recent.embeddings) == 2048
    with pytest.raises(S2R2Error, match="needs neighbors"):
        method(40, recent=5)
