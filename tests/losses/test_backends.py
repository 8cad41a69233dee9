"""Which backend is taken, and what is said when it cannot be."""

import warnings

import pytest
import torch
from ranking_cases import make_batch

from s2r2.errors import S2R2Error
from s2r2.losses import QuantisedAP, RankingLoss, SmoothAP, SmoothAPLoss, SupAP, backends as room
from s2r2.losses.backends import choose_backend


@pytest.fixture
def _nothing_installed(monkeypatch):
    monkeypatch.setattr(room.importlib.util, "find_spec", lambda name: None)
    room._installed.cache_clear()
    yield
    room._installed.cache_clear()


def test_automatic_choice():
    z = torch.zeros(2, 3)
    assert choose_backend("auto", SmoothAP(), z) == "numba"
    assert choose_backend("auto", SmoothAP(), z.to("meta")) == "torch"
    assert choose_backend("auto", SupAP(), z) == "torch"
    assert choose_backend("auto", QuantisedAP(), z) == "histogram"


@pytest.mark.parametrize(
    ("name", "surrogate", "message"),
    [
        ("cuda", SmoothAP(), "choose one of"),
        ("triton", SmoothAP(), "works on CUDA"),
        ("numba", SupAP(), "sigmoid kernel"),
        ("numba", QuantisedAP(), "sigmoid kernel"),
    ],
)
def test_impossible_choice_is_refused(name, surrogate, message, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(S2R2Error, match=message):
        choose_backend(name, surrogate, torch.zeros(2, 3))


def test_numba_is_refused_off_the_cpu():
    with pytest.raises(S2R2Error, match="works on the CPU"):
        choose_backend("numba", SmoothAP(), torch.zeros(2, 3, device="meta"))


@pytest.mark.usefixtures("_nothing_installed")
@pytest.mark.parametrize("name", ["auto", "numba"])
def test_missing_backend_falls_back_with_one_warning(name):
    z, groups = make_batch([3, 4], 0.5, 0)
    loss = SmoothAPLoss(0.1, backend=name)
    with pytest.warns(UserWarning, match="numba is not installed"):
        found = loss(z, groups)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(z, groups)
    assert torch.equal(found, SmoothAPLoss(0.1, backend="torch")(z, groups))


def test_description_names_loss_and_temperature():
    assert "SupAP" in repr(RankingLoss("sup-ap", temperature=0.02))
    assert "0.02" in repr(RankingLoss("sup-ap", temperature=0.02))
