"""Spread (MMCR) and MV-DHEL against loops over their formulas, their authors' values, and lightly."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from ranking_cases import batches, make_batch, value_and_gradient
from torch import Tensor
from torch.nn.functional import normalize

from s2r2.errors import S2R2Error
from s2r2.losses import MVDHELLoss, SpreadLoss


def slow_spread(z: Tensor, groups: Tensor) -> Tensor:
    """The formula of the module by torch's own singular values."""
    means = torch.stack([z[groups == g].mean(0) for g in groups.unique()])
    return 1 - torch.linalg.svdvals(means).sum() / (len(means) * min(means.shape)) ** 0.5


def slow_mv_dhel(z: Tensor, groups: Tensor, temperature: float) -> Tensor:
    """The formula of the module, term by term."""
    images = [z[groups == g] for g in groups.unique()]
    total = z.new_zeros(())
    for i, image in enumerate(images):
        views = range(len(image))
        total = total - torch.log(
            sum(torch.exp(image[a] @ image[b] / temperature) for a in views for b in views if a != b)
        )
        for v in views:
            others = [torch.exp(image[v] @ other[v] / temperature) for j, other in enumerate(images) if j != i]
            total = total + torch.log(sum(others))
    return total / len(images)


@given(case=batches())
@settings(max_examples=40, deadline=None)
def test_spread_is_its_definition(case: tuple[Tensor, Tensor, float]) -> None:
    embeddings, groups, _ = case
    found, gradient = value_and_gradient(SpreadLoss(), embeddings, groups)
    expected, expected_gradient = value_and_gradient(slow_spread, embeddings, groups)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)
    means = torch.stack([embeddings[groups == g].mean(0) for g in groups.unique()])
    smallest = torch.linalg.svdvals(means).min()
    if smallest > 1e-4:  # else torch's gradient has a direction that rounding chose
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sizes", [[3, 3, 3], [2, 1, 4, 3, 2, 2, 3]])  # fewer and more images than dimensions
def test_spread_has_the_gradient_of_its_value(sizes: list[int]) -> None:
    embeddings, groups = make_batch(sizes, 0.5, 1, width=5)
    assert torch.autograd.gradcheck(lambda z: SpreadLoss()(z, groups), embeddings.requires_grad_())


def test_spread_where_singular_values_vanish_or_meet() -> None:
    """Collapsed embeddings, images at right angles, an image that cancels itself: the smallest subgradient."""
    groups = torch.arange(4).repeat_interleave(2)
    collapsed = normalize(torch.ones(8, 6), dim=1)
    value, gradient = value_and_gradient(SpreadLoss(), collapsed, groups)
    assert value == pytest.approx(1 - 2 / 4)  # one singular value: sqrt(B) of a possible B
    torch.testing.assert_close(gradient, gradient[:1].expand(8, 6))  # nothing but the common direction
    perfect = torch.eye(6)[:4].repeat_interleave(2, dim=0)
    value, gradient = value_and_gradient(SpreadLoss(), perfect, groups)
    assert value == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(gradient, -perfect / 8)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    value, gradient = value_and_gradient(SpreadLoss(), opposite, torch.tensor([0, 0]))
    assert value == 1
    assert not gradient.any()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_spread_is_between_0_and_1(images: int, width: int, seed: int) -> None:
    embeddings, groups = make_batch([2] * images, 1.0, seed, width=width, dtype=torch.float32)
    assert -1e-5 <= SpreadLoss()(embeddings, groups) <= 1


def test_spread_is_mmcr_as_lightly_has_it() -> None:
    lightly = pytest.importorskip("lightly.loss")
    embeddings = normalize(torch.randn(12, 4, 8, generator=torch.Generator().manual_seed(2)), dim=2)
    theirs = lightly.MMCRLoss(lmda=0.0)(embeddings[:, :2], embeddings[:, 2:])
    ours = SpreadLoss()(embeddings.flatten(0, 1), torch.arange(12).repeat_interleave(4))
    assert ours == pytest.approx(1 + theirs.item() / (12 * 8) ** 0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("views", "images", "width", "temperature", "theirs"),
    [(2, 5, 6, 0.2, 4.234814200089292), (4, 7, 6, 0.5, 5.38034694269911), (8, 16, 12, 0.1, 33.93523487697084)],
)
def test_mv_dhel_has_its_authors_values(views: int, images: int, width: int, temperature: float, theirs: float) -> None:
    """From their published code, which counts each pair of views once where their equation counts it twice."""
    number = torch.arange(views * images * width, dtype=torch.float64)
    embeddings = normalize(torch.sin(number * number * 0.37 + number).reshape(views * images, width), dim=1)
    found = MVDHELLoss(temperature)(embeddings, torch.arange(images).repeat(views))
    assert found.item() == pytest.approx(theirs - math.log(2), rel=1e-9)


@given(st.integers(2, 5), st.integers(2, 6), st.floats(0.05, 1.0), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_mv_dhel_is_its_definition(views: int, images: int, temperature: float, seed: int) -> None:
    embeddings, groups = make_batch([views] * images, 0.5, seed)
    found = value_and_gradient(MVDHELLoss(temperature), embeddings, groups)
    expected = value_and_gradient(slow_mv_dhel, embeddings, groups, temperature)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-7, atol=1e-9)


def test_mv_dhel_at_a_small_temperature_is_finite() -> None:
    embeddings, groups = make_batch([4] * 6, 3.0, 0, dtype=torch.float32)
    value, gradient = value_and_gradient(MVDHELLoss(0.005), embeddings, groups)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("groups", [[0, 0, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1], [0, 1, 2, 3]])
def test_mv_dhel_refuses_what_has_no_kinds_of_views(groups: list[int]) -> None:
    with pytest.raises(S2R2Error, match="the same number of views, at least 2"):
        MVDHELLoss()(torch.eye(4), torch.tensor(groups))


@pytest.mark.parametrize("loss", [SpreadLoss(), MVDHELLoss()])
def test_low_precision_is_computed_in_float32(loss: torch.nn.Module) -> None:
    embeddings, groups = make_batch([4] * 6, 1.0, 0, dtype=torch.float32)
    half = embeddings.bfloat16()
    assert loss(half, groups).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(embeddings, groups), loss(half.float(), groups), rtol=0.01, atol=0.01)
