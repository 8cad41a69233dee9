"""SwAV's loss and its codes against loops over the formula, and against lightly's."""

import math

import pytest
import torch
from ranking_cases import value_and_gradient
from torch import Tensor
from torch.nn.functional import normalize

from s2r2.errors import S2R2Error
from s2r2.losses import SwAVLoss, sinkhorn


def unit_rows(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def slow_codes(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Sinkhorn as Caron et al. write it: prototypes share 1/K each, images 1/B each; then rows of sum 1."""
    images, prototypes = scores.shape
    q = torch.exp(scores / epsilon).T
    q = q / q.sum()
    for _ in range(iterations):
        for k in range(prototypes):
            q[k] = q[k] / q[k].sum() / prototypes
        for b in range(images):
            q[:, b] = q[:, b] / q[:, b].sum() / images
    return q.T * images


def slow_swav(views: Tensor, prototypes: Tensor, temperature: float, epsilon: float, iterations: int) -> Tensor:
    """``views`` are (B, V, D); codes of views 0 and 1."""
    scores = views @ normalize(prototypes, dim=1).T
    terms = []
    for coded in (0, 1):
        codes = slow_codes(scores[:, coded].detach().clone(), epsilon, iterations)
        for view in range(views.shape[1]):
            if view != coded:
                for image in range(len(views)):
                    p = torch.softmax(scores[image, view] / temperature, dim=0)
                    terms.append(-(codes[image] * torch.log(p)).sum())
    return torch.stack(terms).mean()


def test_codes_are_their_definition_and_lightlys() -> None:
    scores = unit_rows(24, 8) @ unit_rows(10, 8, seed=1).T
    for epsilon, iterations in ((0.05, 3), (0.3, 1), (0.03, 20)):
        codes = sinkhorn(scores, epsilon=epsilon, iterations=iterations)
        torch.testing.assert_close(codes, slow_codes(scores, epsilon, iterations))
        torch.testing.assert_close(codes.sum(1), torch.ones(24, dtype=torch.float64))
    assert (codes.sum(0) - 2.4).abs().max() < 0.2, "twenty iterations use all prototypes about equally"
    lightly = pytest.importorskip("lightly.loss.swav_loss")
    peer = lightly.sinkhorn(scores.float(), iterations=3, epsilon=0.05)
    torch.testing.assert_close(sinkhorn(scores.float()), peer, rtol=1e-4, atol=1e-5)


def test_codes_neither_overflow_nor_lose_their_type() -> None:
    codes = sinkhorn(torch.tensor([[1.0, -1.0], [0.9, 1.0]], dtype=torch.float16), epsilon=0.002)
    assert codes.dtype == torch.float32
    assert bool(torch.isfinite(codes).all())


@pytest.mark.parametrize("count", [2, 5])
def test_loss_is_its_definition(count: int) -> None:
    views = unit_rows(9, count, 6)
    loss = SwAVLoss(6, 7, temperature=0.2, epsilon=0.08).double()
    groups = torch.arange(9).repeat_interleave(count)
    shuffled = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    for order in (torch.arange(9), shuffled):
        found, gradient = value_and_gradient(
            lambda z, o=order: loss(z.flatten(0, 1), o.repeat_interleave(count)), views
        )
        expected, expected_gradient = value_and_gradient(slow_swav, views, loss.prototypes.detach(), 0.2, 0.08, 3)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(gradient, expected_gradient)
    loss(views.flatten(0, 1), groups).backward()
    _, by_prototypes = value_and_gradient(lambda w: slow_swav(views, w, 0.2, 0.08, 3), loss.prototypes)
    torch.testing.assert_close(loss.prototypes.grad, by_prototypes)


def test_views_of_two_sizes_come_as_the_loader_gives_them() -> None:
    """First two large views of every image, then the small ones."""
    views, loss = unit_rows(6, 5, 4), SwAVLoss(4, 3).double()
    image = torch.arange(6)
    whole = loss(views.flatten(0, 1), image.repeat_interleave(5))
    parts = torch.cat([views[:, :2].flatten(0, 1), views[:, 2:].flatten(0, 1)])
    torch.testing.assert_close(loss(parts, torch.cat([image.repeat_interleave(2), image.repeat_interleave(3)])), whole)


def test_equals_lightly() -> None:
    lightly = pytest.importorskip("lightly.loss")
    views = unit_rows(16, 6, 8).float()
    loss = SwAVLoss(8, 5, temperature=0.1, epsilon=0.05)
    prototypes = normalize(loss.prototypes.detach(), dim=1)

    def peer(z: Tensor) -> Tensor:
        scores = z @ prototypes.T
        large, small = [scores[:, v] for v in (0, 1)], [scores[:, v] for v in range(2, 6)]
        return lightly.SwaVLoss(temperature=0.1, sinkhorn_epsilon=0.05, sinkhorn_iterations=3)(large, small).squeeze()

    expected, expected_gradient = value_and_gradient(peer, views)
    groups = torch.arange(16).repeat_interleave(6)
    found, gradient = value_and_gradient(lambda z: loss(z.flatten(0, 1), groups), views)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_the_queue_makes_codes_once_full_and_survives_a_resume() -> None:
    loss, groups = SwAVLoss(4, 6, queue=16).double(), torch.arange(8).repeat_interleave(2)
    batches = [unit_rows(8, 2, 4, seed=seed).flatten(0, 1) for seed in range(4)]
    alone = SwAVLoss(4, 6).double()
    alone.load_state_dict({"prototypes": loss.prototypes.detach()})
    loss(batches[0], groups)
    assert len(loss.queues[0]) == 0, "the queue is off until it is switched on"
    loss.queue_active = True
    for batch in batches[1:3]:
        torch.testing.assert_close(loss(batch, groups), alone(batch, groups))
    assert len(loss.queues[0]) == 16
    resumed = SwAVLoss(4, 6, queue=16).double()
    resumed.load_state_dict(loss.state_dict())
    resumed.queue_active = True
    with_queue = loss(batches[3], groups)
    torch.testing.assert_close(resumed(batches[3], groups), with_queue)
    assert abs(float((with_queue - alone(batches[3], groups)).detach())) > 1e-6
    everything = torch.cat([batches[3].unflatten(0, (8, 2)), *(b.unflatten(0, (8, 2)) for b in batches[1:3])])
    scores = everything @ normalize(loss.prototypes.detach(), dim=1).T
    expected = 0.0
    for coded in (0, 1):
        codes = slow_codes(scores[:, coded].clone(), 0.05, 3)[:8]
        expected -= float((codes * torch.log_softmax(scores[:8, 1 - coded] / 0.1, dim=1)).sum(1).mean()) / 2
    assert math.isclose(float(with_queue.detach()), expected, rel_tol=1e-9)


def test_bad_arguments_are_named() -> None:
    loss = SwAVLoss(4, 3)
    with pytest.raises(S2R2Error, match="same number of views"):
        loss(torch.eye(4)[:3], torch.tensor([0, 0, 1]))
    with pytest.raises(S2R2Error, match="not finite"):
        loss(torch.full((4, 4), torch.nan), torch.tensor([0, 0, 1, 1]))
    with pytest.raises(S2R2Error, match="prototypes is 1"):
        SwAVLoss(4, 1)
