"""Embeddings of earlier steps as candidates."""

import pytest
import torch
from ranking_cases import make_batch, value_and_gradient

from s2r2.errors import S2R2Error
from s2r2.losses import MemoryBank, NTXentLoss, SmoothAPLoss


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("positives", [False, True])
def test_stored_embeddings_are_candidates_without_gradient(backend, positives):
    z, groups = make_batch([3, 1, 2], 0.5, 0)
    stored, stored_groups = make_batch([3, 2, 4], 0.5, 0)
    bank = MemoryBank(20, 6, positives=positives).double()
    bank.add(stored, stored_groups)
    found, gradient = value_and_gradient(SmoothAPLoss(0.1, bank=bank, backend=backend), z, groups)
    # The same by hand: one batch of both, queries only from the first, groups of the bank foreign unless positives.
    joined = torch.cat([z, stored]).requires_grad_()
    labels = torch.cat([groups, stored_groups if positives else torch.arange(len(stored)) + 10_000])
    mask = torch.arange(len(joined)) < len(z)
    expected = SmoothAPLoss(0.1, backend="torch")(joined, labels, query_mask=mask)
    expected.backward()
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, joined.grad[: len(z)], rtol=1e-10, atol=1e-13)


def test_batch_is_stored_after_use_and_the_oldest_leaves():
    bank = MemoryBank(10, 6).double()
    loss = SmoothAPLoss(0.1, bank=bank)
    first, groups = make_batch([3, 3], 0.5, 1)
    second, _ = make_batch([3, 3], 0.5, 2)
    loss(first, groups)
    assert len(bank) == 6
    loss(second, groups)
    assert len(bank) == 10
    kept = bank.contents(like=first)[0]
    expected = torch.cat([second[4:], first[2:], second[:4]])  # written round: 4 at the end, 2 over the oldest
    torch.testing.assert_close(kept, expected)


def test_evaluation_stores_nothing():
    bank = MemoryBank(10, 6).double()
    with torch.no_grad():
        SmoothAPLoss(0.1, bank=bank)(*make_batch([3, 3], 0.5, 1))
    assert len(bank) == 0


def test_state_survives():
    bank = MemoryBank(10, 6).double()
    loss = SmoothAPLoss(0.1, bank=bank)
    for seed in range(2):
        loss(*make_batch([3, 3], 0.5, seed))
    other = SmoothAPLoss(0.1, bank=MemoryBank(10, 6).double())
    other.load_state_dict(loss.state_dict())
    batch = make_batch([3, 3], 0.5, 9)
    assert torch.equal(other(*batch), loss(*batch))
    assert torch.equal(other(*batch), loss(*batch))  # the next one is written to the same place
    bank.clear()
    assert len(bank) == 0


def test_batch_larger_than_the_bank():
    bank = MemoryBank(4, 6).double()
    z, groups = make_batch([3, 3], 0.5, 1)
    bank.add(z, groups)
    assert {tuple(row.tolist()) for row in bank.contents(like=z)[0]} == {tuple(row.tolist()) for row in z[2:]}


def test_wrong_width_is_refused():
    with pytest.raises(S2R2Error, match="width"):
        SmoothAPLoss(0.1, bank=MemoryBank(4, 5))(*make_batch([3, 3], 0.5, 1))
    with pytest.raises(S2R2Error, match="at least 1"):
        MemoryBank(0, 5)
    for settings in ({"capacity": "x"}, {"capacity": 2.5}, {"width": True}, {"width": -3}, {"positives": "no"}):
        with pytest.raises(S2R2Error, match=next(iter(settings))):
            MemoryBank(**{"capacity": 4, "width": 5, **settings})
    z, groups = make_batch([3, 3], 0.5, 1)
    for made in (SmoothAPLoss(bank=3), NTXentLoss(bank=[])):
        with pytest.raises(S2R2Error, match="give a MemoryBank"):
            made(z, groups)
    with pytest.raises(S2R2Error, match="gallery excludes"):
        SmoothAPLoss(bank=MemoryBank(4, 6))(z, groups, gallery=z, gallery_groups=groups)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": torch.zeros(5, 6)}, r"embeddings \(5, 6\), here they are \(4, 6\)"),
        ({"embeddings": torch.full((4, 6), torch.nan)}, "not finite"),
        ({"_extra_state": {"filled": 5, "next": 0}}, "as it was saved"),
        ({"_extra_state": {"filled": 4, "next": 4}}, "as it was saved"),
        ({"_extra_state": {"filled": -1, "next": 0}}, "as it was saved"),
        ({"_extra_state": {"filled": "4", "next": 0}}, "as it was saved"),
        ({"_extra_state": {}}, "as it was saved"),
        ({"_extra_state": 7}, "as it was saved"),
    ],
)
def test_states_that_do_not_fit_are_a_line(change, message):
    bank = MemoryBank(4, 6)
    with pytest.raises(S2R2Error, match=message) as caught:
        bank.load_state_dict({**bank.state_dict(), **change})
    assert "\n" not in str(caught.value)


def test_what_is_added_must_fit():
    bank = MemoryBank(4, 6)
    for z, groups in ((torch.zeros(6), torch.zeros(1).long()), (torch.zeros(2, 6), torch.zeros(3).long())):
        with pytest.raises(S2R2Error):
            bank.add(z, groups)
    assert len(bank) == 0
