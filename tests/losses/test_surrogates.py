"""Each other surrogate against its own slow definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from ranking_cases import batches, make_batch, slow_ranking, value_and_gradient

from s2r2.errors import S2R2Error
from s2r2.losses import SURROGATES, QuantisedAP, RankingLoss, SupAP
from s2r2.losses.backends import histogram, torch_chunked

few = settings(max_examples=25, deadline=None)


def queries_of(groups):
    return [q for q in range(len(groups)) if (groups == groups[q]).sum() > 1]


def slow_sup_ap(z, groups, temperature, slope=100.0, margin=0.05):
    def kernel(x, positive):
        if positive:
            return (x >= 0).to(z.dtype)
        if x <= 0:
            return torch.sigmoid(x / temperature)
        if x <= margin:
            return 0.5 + torch.sigmoid(x / temperature)
        return slope * (x - margin) + 0.5 + torch.sigmoid(torch.tensor(margin / temperature, dtype=z.dtype))

    ratios = [slow_ranking(z, groups, q, kernel) for q in queries_of(groups)]
    return torch.stack([1 - (among / rank).mean() for among, rank in ratios]).mean()


def slow_recall(z, groups, temperature, k=(1, 2, 4, 8, 16), rank_temperature=1.0):
    losses = []
    for q in queries_of(groups):
        _, rank = slow_ranking(z, groups, q, lambda x, _: torch.sigmoid(x / temperature))
        recalls = []
        for cut in k:
            found = torch.sigmoid((cut - rank) / rank_temperature).sum().clamp(max=cut)
            recalls.append(found / min(cut, len(rank)))
        losses.append(1 - torch.stack(recalls).mean())
    return torch.stack(losses).mean()


def slow_quantised(z, groups, bins=25, low=-1.0, high=1.0):
    width = (high - low) / (bins - 1)
    centres = high - width * torch.arange(bins, dtype=z.dtype)
    losses = []
    for q in queries_of(groups):
        others = torch.tensor([k for k in range(len(z)) if k != q])
        s = (z[others] @ z[q]).clamp(low, high)
        membership = (1 - (s[:, None] - centres).abs() / width).clamp(min=0)
        relevant = membership[groups[others] == groups[q]]
        h, h_plus = membership.sum(0), relevant.sum(0)
        precision = h_plus.cumsum(0) / h.cumsum(0).clamp(min=1e-300)
        losses.append(1 - (h_plus * precision).sum() / len(relevant))
    return torch.stack(losses).mean()


@few
@given(case=batches())
def test_sup_ap_equals_its_definition(case):
    z, groups, temperature = case
    z = z + 1e-3 * torch.rand_like(z)  # H+ is a step: two ways of rounding an exact tie may disagree
    loss = RankingLoss("sup-ap", temperature=temperature)(z, groups)
    torch.testing.assert_close(loss, slow_sup_ap(z, groups, temperature), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("backend", ["torch", "numba"])
@few
@given(case=batches())
def test_recall_equals_its_definition(backend, case):
    z, groups, temperature = case
    loss = RankingLoss("recall-at-k", temperature=temperature, backend=backend)(z, groups)
    torch.testing.assert_close(loss, slow_recall(z, groups, temperature), rtol=1e-9, atol=1e-10)


@few
@given(case=batches())
def test_quantised_ap_equals_its_definition(case):
    z, groups, _ = case
    torch.testing.assert_close(RankingLoss("quantised-ap")(z, groups), slow_quantised(z, groups), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", SURROGATES)
def test_gradcheck(name, reduction):
    z, groups = make_batch([3, 1, 4, 2], 0.5, 3, width=4)
    loss = RankingLoss(name, temperature=0.1, reduction=reduction)
    assert torch.autograd.gradcheck(lambda x: loss(x, groups), z.requires_grad_())


@pytest.mark.parametrize("name", SURROGATES)
def test_small_chunks_change_nothing(name, monkeypatch):
    z, groups = make_batch([9, 1, 4, 2], 0.5, 4)
    loss = RankingLoss(name, temperature=0.1, backend="torch")
    expected, expected_gradient = value_and_gradient(loss, z, groups)
    for module in (torch_chunked, histogram):
        monkeypatch.setattr(module, "CPU_BUDGET", 50)
    value, gradient = value_and_gradient(loss, z, groups)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-14)


def test_sup_ap_kernel_is_continuous_and_above_the_step():
    kernel = SupAP(temperature=0.01)
    x = torch.tensor([0.05 - 1e-9, 0.05 + 1e-9], dtype=torch.float64)
    value, _ = kernel.kernel(x, 0.01, positives=False)
    assert abs(value[1] - value[0]) < 1e-6
    x = torch.linspace(-1, 1, 999, dtype=torch.float64)
    value, _ = kernel.kernel(x.clone(), 0.01, positives=False)
    assert (value >= (x > 0).double()).all()
    assert (value.diff() >= -1e-12).all()


def test_sup_ap_bounds_the_true_loss():
    z, groups = make_batch([4] * 8, 0.4, 5)
    nearly_true = RankingLoss("smooth-ap", temperature=1e-5)(z, groups)
    assert RankingLoss("sup-ap")(z, groups) >= nearly_true > 0.1


def test_recall_of_a_perfect_ranking():
    z, groups = make_batch([8] * 6, float("inf"), 6)  # each group in one point: its 7 positives tie for rank 1 to 7
    loss = RankingLoss("recall-at-k", temperature=0.001, k=(8, 16), rank_temperature=0.1)(z, groups)
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_quantised_ap_learns_from_negative_cosines_and_ignores_singletons():
    z = torch.tensor([[1.0, 0.0], [-0.6, 0.8], [-0.5, -0.866], [0.0, 1.0]], dtype=torch.float64)
    groups = torch.tensor([0, 0, 1, 2])
    loss, gradient = value_and_gradient(RankingLoss("quantised-ap"), z, groups)
    assert 0 < loss < 1
    assert gradient.isfinite().all()
    assert gradient[0].norm() > 0


def test_every_loss_falls_when_groups_separate():
    for name in SURROGATES:
        values = [RankingLoss(name)(*make_batch([6] * 8, apart, 7)) for apart in (0.0, 1.0, 20.0)]
        assert values[0] > values[1] > values[2], name


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("average-precision", {}, "no ranking loss"),
        ("sup-ap", {"k": 3}, "no option 'k'"),
        ("sup-ap", {"margin": -1.0}, "margin"),
        ("recall-at-k", {"k": ()}, "k >= 1"),
        ("quantised-ap", {"bins": 1}, "bins"),
        ("smooth-ap", {"outer": "square"}, "one-minus"),
        ("smooth-ap", {"outer": 3}, "outer: 3: must be text"),
        ("quantised-ap", {"bins": "x"}, 'bins: "x": must be a whole number'),
        ("quantised-ap", {"bins": 2.5}, "whole number"),
        ("quantised-ap", {"similarity_range": 1}, "similarity_range: 1: must be a list of 2"),
        ("recall-at-k", {"k": 3}, "k: 3: must be a list"),
        ("recall-at-k", {"k": (1, None)}, r"k\[1\]: nothing: must be a whole number"),
        ("recall-at-k", {"rank_temperature": float("nan")}, "finite"),
        ("sup-ap", {"slope": True}, "slope: true: must be a number"),
        ("sup-ap", {"margin": float("inf")}, "finite"),
    ],
)
def test_unknown_names_and_options(name, options, message):
    with pytest.raises(S2R2Error, match=message) as caught:
        RankingLoss(name, **options)
    assert "\n" not in str(caught.value)


def test_options_reach_the_loss():
    assert RankingLoss("quantised-ap", bins=np.int64(11)).surrogate == QuantisedAP(bins=11)
    assert RankingLoss("recall-at-k", k=[1, 2]).surrogate.k == (1, 2)
    assert RankingLoss("recall-at-k").temperature == 0.01
