"""NT-Xent in all its forms against loops over the formula, and against lightly's."""

import math

import pytest
import torch
from hypothesis import given, settings
from ranking_cases import batches, make_batch, value_and_gradient
from torch import Tensor
from torch.nn.functional import normalize

from s2r2.errors import S2R2Error
from s2r2.losses import FORMS, MemoryBank, NTXentLoss


def slow_nt_xent(z: Tensor, groups: Tensor, temperature: float, form: str) -> Tensor:
    """The formulas of the module, term by term."""
    losses = []
    for q in range(len(z)):
        positives = [j for j in range(len(z)) if groups[j] == groups[q] and j != q]
        negatives = [j for j in range(len(z)) if groups[j] != groups[q]]
        if not positives:
            continue
        e = torch.exp(z @ z[q] / temperature)
        everything = sum(e[j] for j in positives + negatives)
        against = sum((e[n] for n in negatives), start=z.new_zeros(()))
        if form == "outside":
            loss = sum(-torch.log(e[p] / everything) for p in positives) / len(positives)
        elif form == "inside":
            loss = -torch.log(sum(e[p] for p in positives) / everything)
        elif form == "geometric":
            loss = sum(-torch.log(e[p] / (e[p] + against)) for p in positives) / len(positives)
        elif form == "arithmetic":
            loss = -torch.log(sum(e[p] / (e[p] + against) for p in positives) / len(positives))
        else:
            mean = sum(z[p] for p in positives) / len(positives)
            hit = torch.exp(mean @ z[q] / temperature)
            loss = -torch.log(hit / (hit + sum(torch.exp(mean @ z[n] / temperature) for n in negatives)))
        losses.append(loss)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("form", FORMS)
@given(case=batches())
@settings(max_examples=25, deadline=None)
def test_is_its_definition(form: str, case: tuple[Tensor, Tensor, float]) -> None:
    embeddings, groups, temperature = case
    temperature = max(temperature, 0.02)  # the loops have no protection against overflow
    expected, expected_gradient = value_and_gradient(slow_nt_xent, embeddings, groups, temperature, form)
    found, gradient = value_and_gradient(NTXentLoss(temperature, form=form), embeddings, groups)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_two_views_make_every_form_nt_xent_as_lightly_has_it(form: str) -> None:
    lightly = pytest.importorskip("lightly.loss")
    embeddings, groups = make_batch([2] * 12, 1.0, 3, width=8, dtype=torch.float32)
    order = torch.argsort(groups, stable=True)
    embeddings, groups = embeddings[order], groups[order]

    def peer(z: Tensor) -> Tensor:
        return lightly.NTXentLoss(temperature=0.2)(z[::2], z[1::2])

    expected, expected_gradient = value_and_gradient(peer, embeddings)

    def ours(z: Tensor) -> Tensor:  # lightly's normalizes too, which its gradient shows
        return NTXentLoss(0.2, form=form)(normalize(z, dim=1), groups)

    found, gradient = value_and_gradient(ours, embeddings)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_low_temperatures_stay_finite(form: str) -> None:
    embeddings, groups = make_batch([4] * 5, 1.0, 0, dtype=torch.float32)
    loss, gradient = value_and_gradient(NTXentLoss(1e-3, form=form), embeddings, groups)
    assert math.isfinite(loss)
    assert bool(torch.isfinite(gradient).all())


def test_gradcheck() -> None:
    embeddings, groups = make_batch([3, 2, 4, 1], 1.0, 0)
    for form in FORMS:
        loss = NTXentLoss(0.3, form=form)
        assert torch.autograd.gradcheck(lambda z, loss=loss: loss(z, groups), embeddings.requires_grad_())


def test_a_bank_holds_negatives() -> None:
    embeddings, groups = make_batch([3, 3], 0.5, 0)
    old, _ = make_batch([5], 0.5, 1)
    bank = MemoryBank(8, 6).double()
    bank.add(old, torch.zeros(5, dtype=torch.int64))
    found = NTXentLoss(0.2, bank=bank)(embeddings.requires_grad_(), groups)
    everything = torch.cat([embeddings, old])
    singles = torch.arange(5) + 10_000  # a group each: candidates, but no queries
    expected = slow_nt_xent(everything.detach(), torch.cat([groups, singles]), 0.2, "outside")
    torch.testing.assert_close(found.detach(), expected)
    assert len(bank) == 8


def test_bad_arguments_are_named() -> None:
    with pytest.raises(S2R2Error, match="form is 'mean'; choose one of outside"):
        NTXentLoss(form="mean")
    with pytest.raises(S2R2Error, match="temperature is 0"):
        NTXentLoss(0)
    with pytest.raises(S2R2Error, match="no group occurs twice"):
        NTXentLoss()(torch.eye(4), torch.arange(4))
