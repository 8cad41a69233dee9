"""How far the ranking loss in float32 is from float64 where a batch is nearly in order, T = 0.01 to 0.1.

    python benchmarks/near_perfect.py                    the backend of this processor, N = 256 and 1,024 (a minute)
    python benchmarks/near_perfect.py --backend torch    another one

Positives lie at cosines of .9 to .999, negatives low; in the second kind of batch one view in eight groups lies among
the views of another group. D = 128. The loss's error is absolute; the gradient's is its norm over the gradient's, and
its largest entry over the largest of the gradient. Reference: the same vectors in float64.
"""

import argparse

import torch
from torch import Tensor
from torch.nn.functional import normalize

from s2r2.losses import SmoothAPLoss

CASES = [(256, 2), (256, 8), (256, 32), (512, 64), (512, 128), (1024, 8)]
TEMPERATURES = (0.01, 0.02, 0.025, 0.05, 0.1)
WIDTH = 128


def make_batch(kind: str, count: int, views: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(count // views).repeat_interleave(views)
    centers = normalize(torch.randn(count // views, WIDTH, generator=generator, dtype=torch.float64), dim=1)
    near = groups.clone()
    if kind == "intruders":
        near[:: 8 * views] += 1
    own = centers[near % len(centers)]
    noise = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    noise = normalize(noise - (noise * own).sum(1, keepdim=True) * own, dim=1)
    cosine = (0.9 + 0.099 * torch.rand(count, 1, generator=generator, dtype=torch.float64)).sqrt()
    return (cosine * own + (1 - cosine**2).sqrt() * noise).float(), groups


def value_and_gradient(z: Tensor, groups: Tensor, temperature: float, backend: str) -> tuple[float, Tensor]:
    z = z.clone().requires_grad_()
    loss = SmoothAPLoss(temperature, backend=backend, distributed=False)(z, groups)
    loss.backward()
    return loss.item(), z.grad.double()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="auto")
    backend = parser.parse_args().backend
    print(f"{'batch':10s} {'N':>5s} {'V':>4s} {'T':>6s} {'loss':>8s} {'error':>8s} {'gradient':>9s} {'largest':>8s}")
    for kind in ("perfect", "intruders"):
        for count, views in CASES:
            z, groups = make_batch(kind, count, views)
            for temperature in TEMPERATURES:
                expected, slope = value_and_gradient(z.double(), groups, temperature, "torch")
                value, gradient = value_and_gradient(z, groups, temperature, backend)
                error = gradient - slope
                norm, largest = error.norm() / slope.norm(), error.abs().max() / slope.abs().max()
                print(
                    f"{kind:10s} {count:5d} {views:4d} {temperature:6} {expected:8.0e} {abs(value - expected):8.0e}"
                    f" {norm:9.0e} {largest:8.0e}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
