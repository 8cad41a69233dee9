"""The order in which an epoch visits the images: a table, or where there are very many of them, computed."""

from typing import Literal, Protocol, TypeAlias, get_args

import numpy as np

from s2r2.errors import ArgumentError

Shuffle: TypeAlias = Literal["table", "computed"]

MOST_IN_TABLE = 1 << 20
"""Of more images no table is made: it takes 8 bytes an image in each process."""
_TOGETHER = 4
"""Images of a finest group side by side in an order that has groups."""
_ROUNDS = 8


class Order(Protocol):
    """Numbers of images in some order: an array, or what computes the part that is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, places: slice, /) -> np.ndarray: ...


def usual_shuffle(images: int) -> Shuffle:
    """How the order of so many images is made."""
    return "table" if images <= MOST_IN_TABLE else "computed"


def choose_order(
    images: int, seed: int, epoch: int, batch_size: int, *, shuffle: Shuffle, groups: np.ndarray | None
) -> Order:
    """The order of an epoch: that of groups if there are any, else one in which each order is as likely.

    Raises:
        ArgumentError: ``shuffle`` is neither ``table`` nor ``computed``.
    """
    if shuffle not in get_args(Shuffle):
        raise ArgumentError(f"shuffle must be {' or '.join(get_args(Shuffle))}, not {str(shuffle)[:40]!r}")
    if groups is not None:
        return together_order(groups, seed, epoch, batch_size)
    return epoch_order(images, seed, epoch) if shuffle == "table" else ComputedOrder(images, seed, epoch)


def epoch_order(images: int, seed: int, epoch: int) -> np.ndarray:
    """``(images,)`` int64: the order in which an epoch visits the images."""
    return np.random.default_rng([seed, epoch]).permutation(images)


class ComputedOrder:
    """A random order of N images that is kept nowhere: each place's image is computed, the same in every process.

    A Feistel network permutes the numbers of as many bits as N needs: in each round one half of the bits is changed by
    a hash of the other. What comes out beyond N goes in again until it is below, which leaves a permutation of 0..N-1
    (cycle walking: Black and Rogaway 2002, *Ciphers with arbitrary finite domains*); fewer than two turns on average.

    Args:
        images: N.
        seed: The run's.
        epoch: Which epoch.
    """

    def __init__(self, images: int, seed: int, epoch: int) -> None:
        self._images = images
        bits = (images - 1).bit_length()
        self._low_bits = np.uint64(bits // 2)
        self._low = np.uint64((1 << (bits // 2)) - 1)
        self._high = np.uint64((1 << (bits - bits // 2)) - 1)
        self._keys = np.random.default_rng([seed, epoch]).integers(0, 1 << 64, _ROUNDS, np.uint64, endpoint=False)

    def __len__(self) -> int:
        return self._images

    def __getitem__(self, places: slice, /) -> np.ndarray:
        """int64 numbers of the images at some places."""
        found = np.arange(*places.indices(self._images)).astype(np.uint64)
        outside = np.ones(len(found), bool)
        while outside.any():
            found[outside] = self._permuted(found[outside])
            outside = found >= self._images
        return found.astype(np.int64)

    def _permuted(self, numbers: np.ndarray) -> np.ndarray:
        low, high = numbers & self._low, numbers >> self._low_bits
        with np.errstate(over="ignore"):
            for number, key in enumerate(self._keys):
                if number % 2:
                    high = high ^ (mix(low ^ key) & self._high)
                else:
                    low = low ^ (mix(high ^ key) & self._low)
        return (high << self._low_bits) | low


def together_order(groups: np.ndarray, seed: int, epoch: int, batch_size: int) -> np.ndarray:
    """``(images,)`` int64: an order in which a few images of the same group follow each other.

    A batch of it has up to 4 images of a finest group side by side, up to 2 such bundles of the next one, and so on,
    but bundles of no more than a quarter of it; who is in a bundle changes from epoch to epoch. Every image comes once.

    Args:
        groups: ``(images, L)`` integers, the finest first, each whole within one of the next column.
        seed: The run's.
        epoch: Which epoch.
        batch_size: Images in a step.
    """
    random = np.random.default_rng([seed, epoch])
    unit, room = random.permutation(len(groups)), max(2, batch_size // 4)
    order = [unit]
    for level, column in enumerate(groups.T):
        size = min(2 if level else _TOGETHER, room)
        room //= size
        _, first, unit = np.unique(unit, return_index=True, return_inverse=True)
        by_group = np.lexsort((random.permutation(len(first)), column[first]))
        ordered = column[first][by_group]
        start = np.flatnonzero(np.diff(ordered, prepend=ordered[0] - 1))
        place = np.arange(len(ordered)) - np.repeat(start, np.diff(start, append=len(ordered)))
        bundle = np.empty(len(first), np.int64)
        bundle[by_group] = np.cumsum(place % max(1, size) == 0) - 1
        unit = random.permutation(int(bundle.max()) + 1)[bundle][unit]
        order.append(unit)
    return np.lexsort(order)


def mix(z: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: every bit of the input changes about half of the output's."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
