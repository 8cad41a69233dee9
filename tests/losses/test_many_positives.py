"""Groups of dozens to hundreds, whose sums go through moments, against the definition in float64."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from s2r2.losses import MemoryBank, SmoothAPLoss, cached_backward
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
    monkeypatch.setattr(numba_moments, "count", lambda *a: (count(*a), taken.append((a[6] > 0).any()))[0])
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


def part_of_all(z: Tensor, groups: Tensor, loss: SmoothAPLoss) -> Tensor:
    """As a process among several has it: its own queries among all embeddings."""
    return loss(z, groups, query_mask=torch.arange(len(z)) % 3 > 0)


def with_gallery(z: Tensor, groups: Tensor, loss: SmoothAPLoss) -> Tensor:
    return loss(z[:40], groups[:40], gallery=z[40:], gallery_groups=groups[40:])


def with_bank(z: Tensor, groups: Tensor, loss: SmoothAPLoss) -> Tensor:
    loss.bank = MemoryBank(300, z.shape[1])
    loss.bank.add(z[200:].detach().float(), groups[200:])
    return loss(z[:200], groups[:200])


def per_query(z: Tensor, groups: Tensor, loss: SmoothAPLoss) -> Tensor:
    loss.reduction = "none"
    return (loss(z, groups) * torch.linspace(0.5, 2, len(z))).mean()


def with_self(z: Tensor, groups: Tensor, loss: SmoothAPLoss) -> Tensor:
    loss.include_self = True
    return loss(z, groups)


@pytest.mark.parametrize("use", [part_of_all, with_gallery, with_bank, per_query, with_self])
def test_every_use_is_right_with_large_groups(use, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    taken = []
    count = numba_moments.count
    monkeypatch.setattr(numba_moments, "count", lambda *a: (count(*a), taken.append((a[6] > 0).any()))[0])
    z, groups = batch([200, 130, 70, 49, 20, 3, 1], 1.0)
    found, expected = z.clone().requires_grad_(), z.double().requires_grad_()
    values = [use(found, groups, SmoothAPLoss(0.05, backend="numba", distributed=False))]
    values += [use(expected, groups, SmoothAPLoss(0.05, backend="torch", distributed=False))]
    assert any(taken)
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-6)
    for value in values:
        value.backward()
    assert (found.grad - expected.grad).norm() <= 2e-6 * expected.grad.norm()


def test_gradient_cache_with_large_groups() -> None:
    pixels, groups = batch([150, 100, 60, 5], 1.0)
    weights = []
    for kind in (torch.float32, torch.float64):
        torch.manual_seed(0)
        model = torch.nn.Linear(32, 16).to(kind)
        loss = SmoothAPLoss(0.05, distributed=False)
        cached_backward(model, pixels.to(kind), lambda z, loss=loss: loss(normalize(z, dim=1), groups), micro_batch=64)
        weights.append(model.weight.grad.double())
    assert (weights[0] - weights[1]).norm() <= 1e-5 * weights[1].norm()
