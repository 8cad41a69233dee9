"""Approximate search for large indexes: faiss proposes candidates, the vectors decide among them.

Each vector is put into the list whose centroid is nearest, one byte a number (faiss's ``IVF,SQ8``); there are as many
lists as the square root of the number of vectors. A search looks into the lists whose centroids are nearest to the
query, and ranks the best candidates anew by their exact similarities. How many lists that must be is chosen on the
index itself, by recall against exact search. The lists are mapped from disk.
"""

import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from s2r2.search.backends.base import Before, SearchBackend, Settings, cannot_search, register_backend
from s2r2.search.backends.exact import top_k
from s2r2.search.backends.measuring import cheapest

_FILE = "lists.faiss"
_PROBES = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_CANDIDATES = 4
"""For each photo asked for: one byte a number orders them well enough."""

_TRAINED_ON = 64
"""Vectors for each list, of which its centroid is learned."""

_GROWN = 1.5
"""An index that has grown, or shrunk, so many times since its centroids were learned gets new ones."""

_PIECE = 16_384


@register_backend
class FaissSearch(SearchBackend):
    """Approximate search whose recall@10 is measured, and at least 0.97."""

    name = "faiss"
    extra = "faiss"
    automatic_from = 500_000  # below, exact search answers within some tens of milliseconds

    @classmethod
    def build(cls, vectors: np.ndarray, folder: Path) -> Settings | None:
        """Learn centroids, write the lists, and choose settings.

        Returns:
            ``probes`` (lists looked into) with the ``recall`` that they reach, the ``milliseconds`` a query takes
            (medians), and ``trained`` (vectors there were when the centroids were learned). None where nothing reaches
            the recall.
        """
        import faiss

        count, width = vectors.shape
        lists = max(1, round(math.sqrt(count)))
        metric = faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(width), width, lists, faiss.ScalarQuantizer.QT_8bit, metric
        )
        index.cp.min_points_per_centroid = 1  # it would warn on stderr
        sample = np.random.default_rng(0).choice(count, min(count, _TRAINED_ON * lists), replace=False)
        index.train(np.ascontiguousarray(vectors[np.sort(sample)]))
        _add(index, vectors, np.arange(count))
        return cls._written(index, vectors, folder, count)

    @classmethod
    def update(cls, vectors: np.ndarray, folder: Path, before: Before) -> Settings | None:
        """Take over the lists of vectors that were there, and put the others beside them.

        Returns:
            As :meth:`build`; None where there are many more or many fewer vectors than the centroids were learned from,
            or nothing reaches the recall any more.
        """
        import faiss

        count, trained = len(vectors), before.settings.get("trained", 0)
        if not trained / _GROWN <= count <= trained * _GROWN:
            return None
        old, index = _opened(before.folder), _opened(before.folder)
        lists = faiss.ArrayInvertedLists(index.nlist, index.code_size)
        now = np.full(old.ntotal, -1)
        known = np.flatnonzero(before.rows >= 0)
        now[before.rows[known]] = known
        for number in range(index.nlist):
            size = old.invlists.list_size(number)
            if size:
                rows = now[faiss.rev_swig_ptr(old.invlists.get_ids(number), size)]
                codes = faiss.rev_swig_ptr(old.invlists.get_codes(number), size * index.code_size)
                rows, codes = rows[rows >= 0], codes.reshape(size, -1)[rows >= 0]
                lists.add_entries(number, len(rows), faiss.swig_ptr(rows), faiss.swig_ptr(np.ascontiguousarray(codes)))
        index.replace_invlists(lists)
        index.ntotal = len(known)
        _add(index, vectors, np.flatnonzero(before.rows < 0))
        return cls._written(index, vectors, folder, int(trained))

    @classmethod
    def _written(cls, index: Any, vectors: np.ndarray, folder: Path, trained: int) -> Settings | None:
        import faiss

        try:
            faiss.write_index(index, os.fspath(folder / _FILE))
        except RuntimeError as error:  # a full disk; it says so after the place in faiss's code
            raise OSError(str(error).strip().rpartition(": ")[2]) from error
        del index  # the written one is mapped
        efforts: Iterator[FaissSearch] = (
            cls(vectors, folder, {"probes": float(probes), "trained": float(trained)}) for probes in _PROBES
        )
        return cheapest(vectors, efforts)

    @functools.cached_property
    def _index(self) -> Any:
        return _opened(self.folder)

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest among the candidates that faiss proposes.

        Raises:
            S2R2Error: faiss cannot read its file.
        """
        try:
            rows = self._candidates(query, _CANDIDATES * max(k, 10))
        except Exception as error:  # faiss has no narrower class
            raise cannot_search("faiss", self.folder, error) from error
        if len(rows) < min(k, len(self.vectors)):  # more are asked for than the lists hold
            return top_k(self.vectors, query, k)
        return top_k(self.vectors, query, k, rows)

    def _candidates(self, query: np.ndarray, count: int) -> np.ndarray:
        import faiss

        index = self._index
        enough = math.ceil(2 * count * index.nlist / max(1, len(self.vectors)))  # lists are not of the same size
        probes = min(index.nlist, max(int(self.settings["probes"]), enough))
        parameters: Any = faiss.SearchParametersIVF()
        parameters.nprobe = probes
        asked = np.ascontiguousarray(query, np.float32)[None]
        _, rows = index.search(asked, min(count, len(self.vectors)), params=parameters)
        return np.sort(rows[0][rows[0] >= 0])


def _add(index: Any, vectors: np.ndarray, rows: np.ndarray) -> None:
    for start in range(0, len(rows), _PIECE):
        piece = rows[start : start + _PIECE]
        index.add_with_ids(np.ascontiguousarray(vectors[piece], np.float32), piece)


def _opened(folder: Path) -> Any:
    """The index in a folder, its lists mapped from disk."""
    import faiss

    index: Any = faiss.read_index(os.fspath(folder / _FILE), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    lists: Any = faiss.downcast_InvertedLists(index.invlists)
    lists.prefetch_nthread = 0  # else each search starts threads that read ahead
    return index
