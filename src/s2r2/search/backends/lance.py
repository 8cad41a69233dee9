"""Approximate search by LanceDB, which proposes candidates; the vectors decide among them.

It searches large indexes where faiss is not installed.

LanceDB's IVF index with RaBitQ codes (Gao and Long, arXiv 2405.12497) keeps about one bit a dimension, so building is
quick and the files are small; the order inside its answers is rough. Hence always more candidates than asked for,
which are ranked anew by their exact similarities. How many partitions are probed and how many candidates are taken is
chosen on the index itself, by recall against exact search.
"""

import functools
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from s2r2.search.backends.base import SearchBackend, Settings, cannot_search, register_backend
from s2r2.search.backends.exact import top_k
from s2r2.search.backends.measuring import cheapest

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
        efforts = ({"probes": float(probes), "factor": float(factor)} for probes, factor in _EFFORTS)
        return cheapest(vectors, (cls(vectors, folder, settings) for settings in efforts))

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
            raise cannot_search("LanceDB", self.folder, error) from error
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
