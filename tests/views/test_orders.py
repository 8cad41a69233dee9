"""Orders of an epoch: every image once, at random, and the same wherever a run is resumed."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from s2r2.errors import ArgumentError
from s2r2.views import Recipe, ViewLoader, epoch_order
from s2r2.views.orders import MOST_IN_TABLE, ComputedOrder, choose_order, usual_shuffle

IMAGES = st.integers(1, 999) | st.integers(1, 10).flatmap(lambda bits: st.sampled_from([2**bits - 1, 2**bits]))


@settings(deadline=None)
@given(IMAGES, st.integers(0, 2**63), st.integers(0, 2**31), st.integers(0, 2**63))
def test_a_computed_order_has_every_image_once_wherever_it_is_cut(images: int, seed: int, epoch: int, at: int) -> None:
    order = ComputedOrder(images, seed, epoch)
    whole = order[:]
    assert sorted(whole.tolist()) == list(range(images)) == list(range(len(order)))
    cut = at % images
    np.testing.assert_array_equal(np.concatenate([order[:cut], order[cut:]]), whole)


def test_a_computed_order_is_random() -> None:
    count, cells = 1_000_003, 50
    order, other = ComputedOrder(count, 1, 0)[:], ComputedOrder(count, 1, 1)[:]
    places = np.arange(count) * cells // count
    for numbers in (order, np.roll(order, 1), other):  # where an image comes, and which follows which, is independent
        table = np.bincount(order * cells // count * cells + places, minlength=cells**2)
        assert stats.chisquare(table).pvalue > 1e-3
        if numbers is not order:
            table = np.bincount(order * cells // count * cells + numbers * cells // count, minlength=cells**2)
            assert stats.chisquare(table).pvalue > 1e-3


def test_orders_of_any_length_cost_no_more_than_what_is_asked_for() -> None:
    places = slice(7 << 30, (7 << 30) + 10_000)
    some = ComputedOrder(10**12, 1, 0)[places]
    assert np.unique(some).size == 10_000
    assert some.max() < 10**12
    assert stats.kstest(some / 10**12, "uniform").pvalue > 1e-3


class Many:
    """More images than a table is made for, all the same."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.image_ids = Ids()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        return np.full((8, 8, 3), 100, np.uint8)


class Ids:
    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        return np.asarray(numbers, np.uint64)


def images_of(epoch: int, start: int, rank: int = 0, world: int = 1, **options: Any) -> list[list[int]]:
    loader = ViewLoader(
        Many(MOST_IN_TABLE + 1), Recipe(), view_size=8, views=2, batch_size=8, seed=3, threads=1, rank=rank,
        world_size=world, **options,
    )  # fmt: skip
    with loader:
        steps = loader.epoch(epoch, start)
        return [next(steps).images.tolist() for _ in range(2)]


def test_the_loader_takes_a_computed_order_for_many_images() -> None:
    assert [usual_shuffle(count) for count in (MOST_IN_TABLE, MOST_IN_TABLE + 1)] == ["table", "computed"]
    order = ComputedOrder(MOST_IN_TABLE + 1, 3, 1)
    assert images_of(1, 1000) == order[8000:8016].reshape(2, 8).tolist()
    halves = [images_of(1, 1000, rank, 2) for rank in range(2)]
    assert [a + b for a, b in zip(*halves, strict=True)] == images_of(1, 1000)
    # as a run that an earlier version began
    assert images_of(0, 9, shuffle="table") == epoch_order(MOST_IN_TABLE + 1, 3, 0)[72:88].reshape(2, 8).tolist()


@pytest.mark.parametrize("images", [1, 2, 3])
def test_the_shortest_orders(images: int) -> None:
    assert sorted(ComputedOrder(images, 0, 0)[:].tolist()) == list(range(images))


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(ArgumentError, match="shuffle must be table or computed, not 'tabel'"):
        choose_order(9, 0, 0, 3, shuffle="tabel", groups=None)  # type: ignore[arg-type]
