"""Approximate search for large indexes: LanceDB proposes candidates, the vectors decide among them.

LanceDB's IVF index with RaBitQ codes (Gao and Long, arXiv 2405.12497) keeps about one bit a dimension, so building is
quick and the files are small; the order inside its answers is rough. Hence always more candidates than asked for,
which are ranked anew by their exact similarities. How many partitions are probed and how many candidates are taken is
chosen on the index itself, by recall against exact search.
"""

import functools
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from s2r2.errors import S2R2Error
from s2r2.search.backends.base import SearchBackend, Settings, register_backend
from s2r2.search.backends.exact import top_k

RECALL = 0.97
_QUERIES = 200
_EFFORTS = ((10, 10), (20, 10), (20, 20), (40, 20), (80, 40), (160, 80), (320, 160))
_TABLE = "vectors"
_PIECE = 8192


@register_backend
class LanceSearch(SearchBackend):
    """Approximate search whose recall@10 is measured, and at least 0.97."""

    name = "lancedb"
    extra = "search"
    automatic_from = 500_000  # below, exact search answers within some tens of milliseconds

    @classmethod
    def build(cls, vectors: np.ndarray, folder: Path) -> Settings | None:
        """Write a table of half-precision vectors with LanceDB's index, and choose settings.

        Returns:
            ``probes`` and ``factor`` (candidates for each photo asked for), with the ``recall`` that they reach and
            the ``milliseconds`` a query takes (medians). None where nothing reaches the recall.
        """
        import lancedb
        from lancedb.index import IvfRq

        schema = pa.schema([("row", pa.int64()), ("vector", pa.list_(pa.float16(), vectors.shape[1]))])
        database = lancedb.connect(os.path.abspath(folder))
        table = database.create_table(_TABLE, _batches(vectors, schema), schema=schema)
        partitions = max(1, round(math.sqrt(len(vectors)) / 2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table.create_index("vector", config=IvfRq(distance_type="cosine", num_partitions=partitions))
        return _chosen(vectors, folder)

    @functools.cached_property
    def _table(self) -> Any:
        import lancedb

        return lancedb.connect(os.path.abspath(self.folder)).open_table(_TABLE)

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest among the candidates that LanceDB proposes.

        Raises:
            S2R2Error: LanceDB cannot read its files.
        """
        try:
            rows = self._candidates(query, max(k, 10) * int(self.settings["factor"]))
        except Exception as error:  # LanceDB has no narrower class
            reason = str(error).partition("\n")[0][:200]
            raise S2R2Error(
                f"LanceDB cannot search {self.folder} ({reason}): use `backend='exact'`, or rebuild the index "
                "with s2r2 index --rebuild"
            ) from error
        return top_k(self.vectors, query, k, rows)

    def _candidates(self, query: np.ndarray, count: int) -> np.ndarray:
        search = self._table.search(query, vector_column_name="vector").distance_type("cosine")
        search = search.nprobes(int(self.settings["probes"])).limit(count)
        return np.sort(search.select(["row", "_distance"]).to_arrow()["row"].to_numpy())


def _batches(vectors: np.ndarray, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(vectors), _PIECE):
        piece = np.asarray(vectors[start : start + _PIECE], np.float16)
        columns = [
            pa.array(np.arange(start, start + len(piece))),
            pa.FixedSizeListArray.from_arrays(pa.array(piece.reshape(-1)), vectors.shape[1]),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _chosen(vectors: np.ndarray, folder: Path) -> Settings | None:
    """The settings of least effort that reach the recall@10, for photos of the index as queries."""
    count = min(_QUERIES, len(vectors))
    queries = np.sort(np.random.default_rng(0).choice(len(vectors), count, replace=False))
    exact, exact_milliseconds = _timed(lambda query, k: top_k(vectors, query, k), vectors, queries)
    for probes, factor in _EFFORTS:
        settings = {"probes": float(probes), "factor": float(factor)}
        backend = LanceSearch(vectors, folder, settings)
        found, milliseconds = _timed(backend.search, vectors, queries)
        shares = [np.isin(nearest, rows).mean() for nearest, rows in zip(exact, found, strict=True)]
        recall = round(float(np.mean(shares)), 4)
        if recall >= RECALL:
            return settings | {
                "recall": recall, "milliseconds": milliseconds, "exact_milliseconds": exact_milliseconds
            }  # fmt: skip
    return None


def _timed(
    search: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]], vectors: np.ndarray, queries: np.ndarray
) -> tuple[list[np.ndarray], float]:
    """The ten nearest of some photos, and the milliseconds that it takes to find those of one (median)."""
    found, seconds = [], []
    for query in queries:
        start = time.perf_counter()
        rows, _ = search(vectors[query], 11)
        seconds.append(time.perf_counter() - start)
        found.append(rows[rows != query][:10])
    return found, round(float(np.median(seconds)) * 1e3, 2)
