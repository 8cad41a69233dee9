"""Batches whose order is nearly right, down to T = 0.01: float32 on the CPU against float64."""

import pytest
import torch
from ranking_cases import value_and_gradient
from torch import Tensor
from torch.nn.functional import normalize

from s2r2.losses import SmoothAPLoss, smooth_ap_definition

CASES = [(64, 2), (96, 8), (96, 32)]


def near_perfect(count: int, views: int, intruders: int) -> tuple[Tensor, Tensor]:
    """Positives at cosines of .9 to .999, negatives low, but for views that lie among those of another group."""
    generator = torch.Generator().manual_seed(count)
    groups = torch.arange(count // views).repeat_interleave(views)
    centers = normalize(torch.randn(count // views, 128, generator=generator, dtype=torch.float64), dim=1)
    near = groups.clone()
    near[:: count // max(intruders, 1)][:intruders] += 1
    own = centers[near % len(centers)]
    noise = torch.randn(count, 128, generator=generator, dtype=torch.float64)
    noise = normalize(noise - (noise * own).sum(1, keepdim=True) * own, dim=1)
    cosine = (0.9 + 0.099 * torch.rand(count, 1, generator=generator, dtype=torch.float64)).sqrt()
    return (cosine * own + (1 - cosine**2).sqrt() * noise).float(), groups


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("temperature", [0.01, 0.025, 0.05, 0.1])
def test_right_to_one_in_a_million(temperature: float, backend: str) -> None:
    if backend == "numba":
        pytest.importorskip("numba")
    for count, views in CASES:
        for intruders in (0, 2):
            z, groups = near_perfect(count, views, intruders)
            loss = SmoothAPLoss(temperature, backend=backend, distributed=False)
            value, gradient = value_and_gradient(loss, z, groups)
            # The definition subtracts from one: of losses below 1e-10 its gradient has few digits.
            assert abs(value - smooth_ap_definition(z.double(), groups, temperature)) <= 1e-7
            reference = SmoothAPLoss(temperature, backend="torch", distributed=False)
            expected, slope = value_and_gradient(reference, z.double(), groups)
            # Below, terms leave the range of float32; torch rounds the exponents of terms that far away.
            if expected > (1e-30 if backend == "numba" else 1e-8):
                error = gradient.double() - slope
                assert error.norm() <= 1e-6 * slope.norm(), (count, views, intruders)
                assert error.abs().max() <= 1e-6 * slope.abs().max(), (count, views, intruders)
