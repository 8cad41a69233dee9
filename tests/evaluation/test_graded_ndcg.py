"""nDCG by grades: against a slow definition, every order of ties, and figures with each photo truly left out."""

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from s2r2.evaluation.metrics.graded_ndcg import graded_ndcg
from s2r2.evaluation.metrics.jackknife import pseudo_values
from s2r2.images.grouping import nested


def album(count: int, dimensions: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    places = random.integers(0, 4, count)
    bursts = places * 10 + random.integers(0, 3, count)
    bursts[:2] = [100, 101]  # alone
    return random.normal(size=(count, dimensions)), nested([bursts, places])


def gains(groups: np.ndarray) -> np.ndarray:
    shared = (groups[:, None] == groups[None]).sum(2)
    np.fill_diagonal(shared, 0)
    return shared


def test_it_is_scikit_learns() -> None:
    vectors, groups = album(40, 5, 0)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    shared, found = gains(groups), graded_ndcg(vectors, groups, memory=8 * 40 * 7).ndcg
    for query in range(40):
        others = np.delete(np.arange(40), query)
        if not shared[query].any():
            assert math.isnan(found[query])
            continue
        expected = ndcg_score(shared[query, others][None], (units[others] @ units[query])[None])
        assert found[query] == pytest.approx(expected, abs=1e-9)


def test_ties_are_worth_the_mean_over_their_orders() -> None:
    groups = np.array([[0, 0], [0, 0], [1, 0], [2, 1], [3, 1]])
    found = graded_ndcg(np.ones((5, 3)), groups).ndcg
    shared = gains(groups)
    for query in range(5):
        orders = itertools.permutations(np.delete(shared[query], query))
        worth = [sum(gain / math.log2(2 + place) for place, gain in enumerate(order)) for order in orders]
        assert found[query] == pytest.approx(np.mean(worth) / max(worth), abs=1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_what_a_photo_does_is_what_leaving_it_out_does(tied: bool) -> None:
    vectors, groups = album(24, 3, 1)
    if tied:
        vectors = np.round(vectors)
        vectors[(vectors == 0).all(1)] = 1
    found = graded_ndcg(vectors, groups)
    changes, squares, lost = np.zeros(24), 0.0, np.zeros(24)
    for out in range(24):
        rest = np.delete(np.arange(24), out)
        before, after = found.ndcg[rest], graded_ndcg(vectors[rest], groups[rest]).ndcg
        lost[out] = (np.isfinite(before) & np.isnan(after)).sum()
        change = np.nan_to_num(after) - np.nan_to_num(before)
        changes[out] = change.sum()
        squares += (change**2).sum()
    expected = pseudo_values(found.ndcg, changes, squares, lost)
    np.testing.assert_allclose(found.pseudo_values, expected, atol=1e-9)
    assert np.isfinite(found.pseudo_values).all()
