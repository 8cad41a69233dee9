"""Groups of dozens to hundreds, whose sums go through moments, against the definition in float64."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from s2r2.losses import SmoothAPLoss
from s2r2.losses.backends import numba_moments

pytest.importorskip("numba")


def batch(sizes: list[int], noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    centres = torch.randn(len(sizes), 32, generator=generator)
    z = normalize(centres[groups] + noise * torch.randn(len(groups), 32, generator=generator), dim=1)
    order = torch.randperm(len(z), generator=generator)
    return z[order], groups[order]


def value_and_gradient(z: Tensor, groups: Tensor, temperature: float, backend: str) -> tuple[float, Tensor]:
    z = z.clone().requires_grad_()
    loss = SmoothAPLoss(temperature, backend=backend, distributed=False)(z, groups)
    loss.backward()
    assert z.grad is not None
    return loss.item(), z.grad


def agrees(z: Tensor, groups: Tensor, temperature: float, largest: float = 1.0) -> None:
    found, gradient = value_and_gradient(z, groups, temperature, "numba")
    expected, slope = value_and_gradient(z.double(), groups, temperature, "torch")
    rounding = 1e-6 + 1e-7 * largest / temperature  # float32's scores alone shift an exponent by as much
    assert abs(found - expected) <= 1e-6
    assert expected < 1e-30 or abs(found - expected) <= rounding * expected
    assert (gradient - slope).norm() <= 2 * rounding * slope.norm()


@pytest.mark.parametrize("temperature", [0.01, 0.025, 0.05, 0.1, 1.0])
@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_equals_the_definition(temperature: float, noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    count = numba_moments.count
    monkeypatch.setattr(numba_moments, "count", lambda *a: (count(*a), taken.append((a[5] > 0).any()))[0])
    agrees(*batch([64, 130, 200, 50, 49, 48, 47, 20, 5, 1], noise), temperature)
    assert any(taken) or temperature < 0.025  # there so many bins would be needed that sums one by one are faster


def test_nearly_perfect_order_keeps_its_small_loss() -> None:
    z, groups = batch([100, 100, 100, 100], 0.15)
    loss, _ = value_and_gradient(z, groups, 0.02, "numba")
    assert 0 < loss < 1e-12
    agrees(z, groups, 0.02)


def test_scores_that_are_no_cosines() -> None:
    z, groups = batch([80, 80, 80], 1.0)
    agrees(z * 20, groups, 0.05, largest=400)  # over a range of thousands of temperatures


def test_all_equal() -> None:
    z, groups = batch([60, 60, 60], 1.0)
    found, gradient = value_and_gradient(z[:1].expand_as(z).contiguous(), groups, 0.05, "numba")
    expected, _ = value_and_gradient(z[:1].expand_as(z).double().contiguous(), groups, 0.05, "torch")
    assert found == pytest.approx(expected, rel=1e-6)
    assert torch.isfinite(gradient).all()


def test_float64_stays_exact() -> None:
    z, groups = batch([100, 100], 1.0)
    found, gradient = value_and_gradient(z.double(), groups, 0.05, "numba")
    expected, slope = value_and_gradient(z.double(), groups, 0.05, "torch")
    assert found == pytest.approx(expected, rel=1e-13)
    assert (gradient - slope).norm() <= 1e-12 * slope.norm()
