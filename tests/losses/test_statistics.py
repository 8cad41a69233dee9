"""Figures for the log."""

from itertools import pairwise

import pytest
import torch
from ranking_cases import make_batch

from s2r2.errors import S2R2Error
from s2r2.losses import ranking_statistics


def test_against_loops():
    z, groups = make_batch([3, 1, 4, 2], 0.5, 0)
    found = ranking_statistics(z, groups, 0.1)
    s = z @ z.T
    pairs = [(i, j) for i in range(len(z)) for j in range(len(z)) if i != j and groups[i] == groups[j]]
    mean = torch.stack([s[i, j] for i, j in pairs]).mean()
    torch.testing.assert_close(found["positive_cosine"], mean)
    order = groups.argsort(stable=True).tolist()
    slopes = []
    for q, p in pairwise(order):
        if groups[q] == groups[p]:
            above = torch.stack([torch.sigmoid((s[q, j] - s[q, p]) / 0.1) for j in order if groups[j] != groups[q]])
            slopes += (above * (1 - above)).tolist()
    assert found["sigmoid_slope"].item() == pytest.approx(sum(slopes) / len(slopes))


def test_extremes():
    collapsed = torch.nn.functional.normalize(torch.ones(12, 4), dim=1).requires_grad_()
    found = ranking_statistics(collapsed, torch.arange(4).repeat(3), 0.05)
    assert found["sigmoid_slope"].item() == pytest.approx(0.25, abs=1e-5)
    assert found["positive_cosine"].item() == pytest.approx(1, abs=1e-5)
    assert not found["positive_cosine"].requires_grad
    apart, groups = make_batch([4] * 5, float("inf"), 1, width=64)
    assert ranking_statistics(apart, groups, 0.01)["sigmoid_slope"] < 1e-10


def test_sampled_candidates_estimate_the_slope_of_all():
    z, groups = make_batch([4] * 250, 1.0, 2, width=16)
    every, some = (ranking_statistics(z, groups, 0.1, candidates=n)["sigmoid_slope"] for n in (1000, 100))
    assert some.item() == pytest.approx(every.item(), rel=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": "x"}, "temperature is 'x'"),
        ({"candidates": 0}, "candidates is 0"),
        ({"candidates": 2.5}, "candidates is 2.5"),
        ({"groups": torch.zeros(3)}, "integers"),
        ({"groups": torch.zeros(2).long()}, "one integer per row"),
        ({"embeddings": torch.zeros(3)}, "floating point tensor"),
        ({"embeddings": [[1.0]]}, "floating point tensor"),
        ({"embeddings": torch.zeros(3, 0)}, "nothing to compare"),
        ({"embeddings": torch.zeros(0, 4), "groups": torch.zeros(0).long()}, "no embeddings"),
    ],
)
def test_bad_input_is_a_line(change, message):
    given = {"embeddings": torch.eye(3), "groups": torch.zeros(3).long(), "temperature": 0.1, **change}
    with pytest.raises(S2R2Error, match=message):
        ranking_statistics(**given)
