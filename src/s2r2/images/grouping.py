"""Which photos belong together: bursts by the time they were taken, places by their coordinates."""

from collections.abc import Sequence

import numpy as np

EARTH_RADIUS = 6_371_008.8
"""Meters, on average."""
MOST_PAUSES = 10
"""How many pauses a burst lasts at most."""
_SLACK = 2e-6
"""Seconds: times are written to the microsecond at best, and their differences are off by as much again."""


def bursts(taken: np.ndarray, cameras: Sequence[str | None], pause: float) -> np.ndarray:
    """Number of each photo's burst ``(N,)`` int64, in order of time for each camera; -1 where no time is known.

    A burst goes on as long as the same camera takes its next photo within the pause, but for ten pauses at most: else a
    long video, or a day of steady shooting, would be one.

    Args:
        taken: ``(N,)`` seconds, NaN where unknown.
        cameras: Of each photo; those of which none is known count as one.
        pause: Seconds.
    """
    numbers = np.full(len(taken), -1, np.int64)
    known = np.flatnonzero(np.isfinite(taken))
    if not len(known):
        return numbers
    _, camera = np.unique([cameras[int(i)] or "" for i in known], return_inverse=True)
    order = np.lexsort((taken[known], camera))
    time, camera = taken[known][order], camera[order]
    begins = np.ones(len(order), bool)
    begins[1:] = (camera[1:] != camera[:-1]) | (np.diff(time) > pause + _SLACK)
    run = np.cumsum(begins) - 1
    part = np.floor((time - time[begins][run] + _SLACK) / (MOST_PAUSES * pause))
    begins[1:] |= np.diff(part) != 0
    numbers[known[order]] = np.cumsum(begins) - 1
    return numbers


def places(latitudes: np.ndarray, longitudes: np.ndarray, distance: float) -> np.ndarray:
    """Number of each photo's place ``(N,)`` int64; -1 where the coordinates are not known.

    The first photo that is in no place yet begins one, which has all those left that are within the distance of it. So
    places do not grow along a walk, as they would if each photo only had to be near to the next.

    Args:
        latitudes: ``(N,)`` degrees, NaN where unknown.
        longitudes: ``(N,)`` degrees.
        distance: Meters, along a straight line.
    """
    from scipy.spatial import KDTree

    numbers = np.full(len(latitudes), -1, np.int64)
    known = np.flatnonzero(np.isfinite(latitudes) & np.isfinite(longitudes))
    if not len(known):
        return numbers
    north, east = np.deg2rad(latitudes[known]), np.deg2rad(longitudes[known])
    points = np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=1)
    tree, found = KDTree(EARTH_RADIUS * points), np.full(len(known), -1, np.int64)
    for first in range(len(known)):
        if found[first] < 0:
            near = np.array(tree.query_ball_point(tree.data[first], distance), np.int64)
            found[near[found[near] < 0]] = first
    numbers[known] = np.unique(found, return_inverse=True)[1]
    return numbers


def nested(groups: Sequence[np.ndarray]) -> np.ndarray:
    """Groups ``(N, L)`` of which each lies whole within one of the next column, from groups that need not.

    A group of the column before goes where most of its photos are (of as many, to the lower number): a photo without
    coordinates is in the place of its burst. A group of which nothing is known stays by itself.

    Args:
        groups: Numbers ``(N,)``, -1 where unknown, the finest first.
    """
    finer = np.arange(len(groups[0]))
    columns = []
    for numbers in groups:
        known = numbers >= 0
        pairs, counts = np.unique(np.stack([finer[known], numbers[known]]), axis=1, return_counts=True)
        order = np.lexsort((pairs[1], -counts, pairs[0]))
        voters, first = np.unique(pairs[0][order], return_index=True)
        chosen = int(numbers.max(initial=-1)) + 1 + np.arange(finer.max(initial=-1) + 1)
        chosen[voters] = pairs[1][order][first]
        finer = np.unique(chosen[finer], return_inverse=True)[1]
        columns.append(finer)
    return np.stack(columns, axis=1)
