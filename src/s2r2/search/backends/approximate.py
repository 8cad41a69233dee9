"""Approximate search for large indexes: LanceDB proposes candidates, the mapped matrix decides among them.

LanceDB's IVF index with RaBitQ codes (Gao and Long, arXiv 2405.12497) keeps about one bit a dimension, so building is
quick and the files are small; the order inside its answers is rough. Hence always more candidates than asked for,
which are ranked anew by their exact similarities. How many partitions are probed and how many candidates are taken is
chosen on the index itself, by recall against exact search.
"""

import math
import time
import warnings
from typing import Any

import numpy as np

from s2r2.search.backends.exact import top_k
from s2r2.search.storage.catalog import Catalogue
from s2r2.search.storage.rows import Rows

APPROXIMATE_FROM = 500_000
"""Photos from which on it is built by default: below, exact search answers within some tens of milliseconds."""

RECALL = 0.97
_SAMPLE = 200
_SETTINGS = ((10, 10), (20, 10), (20, 20), (40, 20), (80, 40), (160, 80), (320, 160))
_NAME = "vector_idx"
_REBUILD_FACTOR = 2.0


def ensure_index(rows: Rows, before: dict[str, float] | None, start: int) -> None:
    """Make LanceDB's index if there are ``start`` rows or more, remove it if not.

    Rows that came since are taken in by :meth:`Rows.tidy`; when there are twice as many as it was made for, its
    partitions are made anew.
    """
    count = len(rows)
    present = any(index.name == _NAME for index in rows.table.list_indices())
    if count < start:
        if present:
            rows.table.drop_index(_NAME)
        return
    if present and before is not None and count < before["trained_on"] * _REBUILD_FACTOR:
        return
    from lancedb.index import IvfRq

    partitions = max(1, round(math.sqrt(count) / 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows.table.create_index("vector", config=IvfRq(distance_type="cosine", num_partitions=partitions), replace=True)


def calibrate(rows: Rows, catalogue: Catalogue, before: dict[str, float] | None) -> dict[str, float] | None:
    """Choose settings by recall@10 against exact search, for photos of the index as queries.

    Args:
        rows: The rows, with their index.
        catalogue: The same photos, for exact search.
        before: The settings that were in force.

    Returns:
        ``recall``, ``probes``, ``factor`` (candidates for each photo asked for), ``milliseconds`` and
        ``exact_milliseconds`` a query (medians), ``trained_on``. None when there is no index, when LanceDB has left
        rows out of it, or when nothing reaches the recall.
    """
    statistics = next((rows.table.index_stats(i.name) for i in rows.table.list_indices() if i.name == _NAME), None)
    if statistics is None or statistics.num_unindexed_rows > 0 or statistics.num_indexed_rows < len(catalogue):
        return None
    generator = np.random.default_rng(0)
    queries = np.sort(generator.choice(len(catalogue), min(_SAMPLE, len(catalogue)), replace=False))
    truth, exact_seconds = [], []
    for query in queries:
        began = time.perf_counter()
        truth.append(top_k(catalogue.vectors, catalogue.vectors[query], 11)[0])
        exact_seconds.append(time.perf_counter() - began)
    for probes, factor in _SETTINGS:
        settings = {"probes": float(probes), "factor": float(factor)}
        found, seconds = [], []
        for query, wanted in zip(queries, truth, strict=True):
            began = time.perf_counter()
            best = search_approximately(rows, catalogue, settings, catalogue.vectors[query], 11)
            seconds.append(time.perf_counter() - began)
            others = wanted[wanted != query][:10]
            found.append(np.isin(others, best[0]).mean())
        if np.mean(found) >= RECALL:
            return settings | {
                "recall": round(float(np.mean(found)), 4),
                "milliseconds": round(float(np.median(seconds)) * 1e3, 2),
                "exact_milliseconds": round(float(np.median(exact_seconds)) * 1e3, 2),
                "trained_on": before["trained_on"] if before else float(len(catalogue)),
            }
    return None


def search_approximately(
    rows: Rows, catalogue: Catalogue, settings: dict[str, float], query: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`s2r2.search.backends.exact.top_k`, among the candidates that LanceDB proposes.

    Raises:
        Exception: Whatever LanceDB raises when its files were replaced by an update; search exactly then.
    """
    wanted = max(k, 10) * int(settings["factor"])
    search: Any = rows.table.search(query, vector_column_name="vector")
    search = (
        search.distance_type("cosine")
        .nprobes(int(settings["probes"]))
        .limit(wanted)
        .select(["_distance"])
        .with_row_id(True)
    )
    found = catalogue.rows_of_row_ids(search.to_arrow()["_rowid"].to_numpy())
    found = np.sort(found[found >= 0])
    best, scores = top_k(np.ascontiguousarray(catalogue.vectors[found]), query, k)
    return found[best], scores
