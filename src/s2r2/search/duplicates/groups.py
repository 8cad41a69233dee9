"""Photos joined into groups, in memory that grows with the photos, never with their pairs."""

import numpy as np


class Groups:
    """A partition of N photos (union-find).

    Args:
        contents: ``(N,)``: hash of each photo's file; photos with the same one are joined from the start, and the
            first of them stands for all.
    """

    def __init__(self, contents: np.ndarray) -> None:
        _, first, of = np.unique(contents, return_index=True, return_inverse=True)
        self._parent = first[of]

    @property
    def firsts(self) -> np.ndarray:
        """Photos that stand for a content, in their order; asked for before anything is joined."""
        return np.flatnonzero(self._parent == np.arange(len(self._parent)))

    def root(self, photo: int) -> int:
        """The photo that stands for the group of a photo."""
        while (above := int(self._parent[photo])) != photo:
            self._parent[photo] = self._parent[above]
            photo = above
        return photo

    def join(self, left: int, right: int) -> None:
        """Join the groups of two photos."""
        low, high = sorted((self.root(left), self.root(right)))
        self._parent[high] = low

    def listed(self, order: np.ndarray) -> list[list[int]]:
        """Groups of two and more; ``order`` ``(N,)`` is the order of photos inside them, and of their first photos."""
        members: dict[int, list[int]] = {}
        for photo in order.tolist():
            members.setdefault(self.root(photo), []).append(photo)
        return [photos for photos in members.values() if len(photos) > 1]
