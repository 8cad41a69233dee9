"""Graded losses against loops over their formulas, the authors' values of H-AP, and their own special cases."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from ranking_cases import batches, make_batch, value_and_gradient
from torch import Tensor
from torch.nn.functional import normalize

from s2r2.errors import S2R2Error
from s2r2.losses import GRADED, GradedRankingLoss, RankingLoss, SmoothAPLoss


def nested(finest: Tensor, *sizes: int) -> Tensor:
    """Columns of groups, each group of one being some of the column before."""
    columns = [finest]
    for size in sizes:
        columns.append(torch.unique(columns[-1], return_inverse=True)[1] // size + 17)
    return torch.stack(columns, dim=1)


def slow(name: str, z: Tensor, groups: Tensor, weights: list[float], temperature: float) -> Tensor:
    """The formulas of ``s2r2.losses.graded``, not their decomposition: with min(rel, rel), and gains."""
    others = ~torch.eye(len(z), dtype=torch.bool)
    positive = (groups[:, None] == groups) & others[..., None]  # (q, k, level)
    weight = torch.tensor(weights, dtype=z.dtype)
    s = z @ z.T
    above = torch.sigmoid((s[:, None, :] - s[:, :, None]) / temperature)  # (q, k, j)
    above = above * others[:, None, :] * others
    rank = 1 + above.sum(2)
    valid = positive[..., -1].any(1)
    if name == "h-ap":
        rel = (positive * weight / positive.sum(1, keepdim=True).clamp(min=1)).sum(2)
        h_rank = rel + (torch.minimum(rel[:, :, None], rel[:, None, :]) * above).sum(2)
        return (1 - (h_rank / rank).sum(1)[valid] / rel.sum(1)[valid]).mean()
    gain = (positive * weight).sum(2)
    ideal = gain.sort(1, descending=True).values / torch.log2(torch.arange(2, len(z) + 2, dtype=z.dtype))
    return (1 - (gain / torch.log2(1 + rank)).sum(1)[valid] / ideal.sum(1)[valid]).mean()


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("name", GRADED)
@given(case=batches(), sizes=st.lists(st.integers(1, 3), max_size=2), weights=st.lists(st.floats(0.1, 3), min_size=3))
@settings(max_examples=15, deadline=None)
def test_equals_the_definition(
    name: str, backend: str, case: tuple[Tensor, Tensor, float], sizes: list[int], weights: list[float]
) -> None:
    z, finest, temperature = case
    groups, weights = nested(finest, *sizes), weights[: 1 + len(sizes)]
    expected, expected_gradient = value_and_gradient(lambda z: slow(name, z, groups, weights, temperature), z)
    loss = GradedRankingLoss(name, temperature=temperature, weights=weights, backend=backend)
    found, gradient = value_and_gradient(loss, z, groups)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12 / temperature)
    single, single_gradient = value_and_gradient(loss, z.float(), groups)
    assert single.dtype == torch.float32
    assert abs(single - expected) < 3e-5
    assert (single_gradient - expected_gradient).norm() <= 3e-4 * expected_gradient.norm() + 3e-7 / temperature


def authors_case(sizes: tuple[int, ...], count: int, width: int) -> tuple[Tensor, Tensor]:
    number = torch.arange(count * width, dtype=torch.float64)
    z = normalize(torch.sin(number * number * 0.37 + number).reshape(count, width), dim=1)
    return z, torch.stack([torch.arange(count) // size for size in sizes], dim=1)


@pytest.mark.parametrize(
    ("sizes", "count", "width", "temperature", "weights", "smooth", "exact", "ndcg"),
    [
        ((2, 4), 12, 6, 0.1, (1, 1), 0.350845375522703, 0.33679014850889855, 0.16478991508483887),
        ((2, 6, 12), 24, 5, 0.05, (1, 0.5, 0.25), 0.4949613947676147, 0.4530805456292887, 0.2273232340812683),
        ((3, 15), 30, 8, 0.02, (1, 0.5), 0.4941097618789744, 0.4870262876216762, 0.21215951442718506),
    ],
)
def test_authors_values(
    sizes: tuple[int, ...], count: int, width: int, temperature: float, weights: tuple[float, ...],
    smooth: float, exact: float, ndcg: float,
) -> None:  # fmt: skip
    """From the published code of H-AP: its loss with sigmoids, its H-AP and its nDCG; the query ranks itself there."""
    z, groups = authors_case(sizes, count, width)
    loss = GradedRankingLoss(weights=weights, temperature=temperature, include_self=True)
    assert loss(z, groups).item() == pytest.approx(smooth, abs=2e-7)  # theirs has float32 relevances
    loss.temperature = 1e-7
    assert loss(z, groups).item() == pytest.approx(exact, abs=2e-7)
    halves = GradedRankingLoss("ndcg", temperature=1e-7, include_self=True)  # the usual gains, 2^level - 1
    assert halves(z, groups).item() == pytest.approx(ndcg, abs=2e-7)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", GRADED)
def test_gradcheck(name: str, reduction: str) -> None:
    z, finest = make_batch([2, 1, 3, 2, 1], 0.5, 3)
    loss = GradedRankingLoss(name, temperature=0.2, reduction=reduction)
    assert torch.autograd.gradcheck(lambda z: loss(z, nested(finest, 2, 2)), z.requires_grad_())


def test_one_level_is_the_ungraded_loss() -> None:
    z, groups = make_batch([4, 2, 1, 5], 0.5, 0, dtype=torch.float32)
    for graded, plain in (
        (GradedRankingLoss(), SmoothAPLoss()),
        (GradedRankingLoss("ndcg", weights=[3]), RankingLoss("smooth-ndcg")),
    ):
        expected = value_and_gradient(plain, z, groups)
        for columns in (groups, groups[:, None]):
            assert all(map(torch.equal, value_and_gradient(graded, z, columns), expected))


def test_a_gallery_and_masked_queries_are_graded() -> None:
    z, finest = make_batch([3, 2, 4, 2], 0.5, 0)
    groups = nested(finest, 2)
    apart, among = torch.arange(len(z)) < 4, torch.arange(len(z)) >= 4
    loss = GradedRankingLoss(temperature=0.1)
    found = loss(z[apart], groups[apart], gallery=z[among], gallery_groups=groups[among])
    levels = [
        SmoothAPLoss(0.1, reduction="none", no_pairs="zero")(
            z[apart], groups[apart, c], gallery=z[among], gallery_groups=groups[among, c]
        )
        for c in (0, 1)
    ]
    positive = torch.stack([(groups[apart, None, c] == groups[among, c]).any(1) for c in (0, 1)])
    weight = positive * torch.tensor([[1.0], [0.5]], dtype=z.dtype)
    expected = ((torch.stack(levels) * weight).sum(0) / weight.sum(0))[positive[1]].mean()
    torch.testing.assert_close(found, expected)
    masked = loss(z, groups, query_mask=apart)
    each = GradedRankingLoss(temperature=0.1, reduction="none")(z, groups)
    torch.testing.assert_close(masked, each[apart].mean())


def test_ranking_of_levels_has_less_loss_than_any_other_order() -> None:
    """Own view at the top, then the burst, then the rest; what ungraded AP cannot tell apart."""
    groups = torch.tensor([[0, 0], [0, 0], [1, 0], [2, 1], [3, 2]])
    query = torch.tensor([True, False, False, False, False])

    def at(*cosines: float, **how: object) -> float:
        c = torch.tensor([1.0, *cosines], dtype=torch.float64)
        z = torch.stack([c, (1 - c * c).sqrt()], dim=1)
        return GradedRankingLoss(temperature=0.001, **how)(z, groups, query_mask=query).item()  # type: ignore[arg-type]

    for name in GRADED:
        right, swapped, worse = at(0.9, 0.8, 0.2, 0.1, name=name), at(0.8, 0.9, 0.2, 0.1, name=name), at(
            0.9, 0.1, 0.8, 0.2, name=name
        )  # fmt: skip
        assert right == pytest.approx(0, abs=1e-9)
        assert min(swapped, worse) > 0.05


def test_wrong_arguments_are_said_in_one_line() -> None:
    z, finest = make_batch([2, 2, 2, 2], 0.5, 0)
    groups = nested(finest, 2)
    for loss, columns, said in (
        (GradedRankingLoss(), groups.flip(1), "column 0 are in several groups of column 1; give the columns"),
        (GradedRankingLoss(weights=[1, 1, 1]), groups, "weights has 3 levels, groups 2 columns"),
        (GradedRankingLoss(weights=[]), groups, "weights has 0 levels, groups 2 columns"),
        (GradedRankingLoss(), groups[:, :0], "or a row of them"),
        (SmoothAPLoss(), groups, r"give one integer per row: \(8,\)$"),
    ):
        with pytest.raises(S2R2Error, match=said) as caught:
            loss(z, columns)
        assert "\n" not in str(caught.value)
    with pytest.raises(S2R2Error, match=r"weights\[1\] is 0; it must be a number above 0"):
        GradedRankingLoss(weights=[1, 0])
    with pytest.raises(S2R2Error, match="choose one of h-ap, ndcg"):
        GradedRankingLoss("map")
