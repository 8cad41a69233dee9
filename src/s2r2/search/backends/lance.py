"""Approximate search for large indexes: LanceDB proposes candidates, the mapped matrix decides among them.

LanceDB's IVF index with RaBitQ codes (Gao and Long, arXiv 2405.12497) keeps about one bit a dimension, so building is
quick and the files are small; the order inside its answers is rough. Hence always more candidates than asked for,
which are ranked anew by their exact similarities. How many partitions are probed and how many candidates are taken is
chosen on the index itself, by recall against exact search.
"""

import functools
import math
import time
from collections.abc import Sequence

import numpy as np

from s2r2.search.backends.base import Built, Search, SearchBackend, SearchPlace, Settings
from s2r2.search.backends.exact import top_k
from s2r2.search.storage.rows import Rows

RECALL = 0.97
_SAMPLE = 200
_SETTINGS = ((10, 10), (20, 10), (20, 20), (40, 20), (80, 40), (160, 80), (320, 160))
_NEEDED = ("probes", "factor", "recall", "milliseconds", "exact_milliseconds", "trained_on")
_REBUILD_FACTOR = 2.0


class LanceDB(SearchBackend):
    """LanceDB's IVF index with RaBitQ codes, kept with the rows."""

    title = "approximate, recall@10 of at least 0.97 as measured when it is made"

    def prepare(self, rows: Rows, before: Settings | None) -> None:
        """Make LanceDB's index if there is none, or anew when there are twice as many rows as it was made for.

        Other rows that came since are taken in by :meth:`Rows.tidy`.
        """
        count = len(rows)
        if rows.indexed() is not None and before is not None and count < before.get("trained_on", 0) * _REBUILD_FACTOR:
            return
        rows.build_vector_index(partitions=max(1, round(math.sqrt(count) / 2)))

    def build(self, place: SearchPlace, before: Settings | None) -> Built | None:
        """Choose settings by recall@10 against exact search, for photos of the index as queries.

        Returns:
            ``recall``, ``probes``, ``factor`` (candidates for each photo asked for), ``milliseconds`` and
            ``exact_milliseconds`` a query (medians), ``trained_on``. None when LanceDB has left rows out of its index,
            or when nothing reaches the recall.
        """
        vectors = place.catalogue.vectors
        if place.rows().indexed() != len(vectors):
            return None
        generator = np.random.default_rng(0)
        queries = np.sort(generator.choice(len(vectors), min(_SAMPLE, len(vectors)), replace=False))
        exact, exact_milliseconds = _answers(lambda query, k: top_k(vectors, query, k), vectors, queries)
        for probes, factor in _SETTINGS:
            search = functools.partial(_search, place, probes, factor)
            found, milliseconds = _answers(search, vectors, queries)
            others = [rows[rows != query][:10] for query, rows in zip(queries, exact, strict=True)]
            recall = float(np.mean([np.isin(wanted, rows).mean() for wanted, rows in zip(others, found, strict=True)]))
            if recall >= RECALL:
                return Built(
                    {
                        "probes": float(probes),
                        "factor": float(factor),
                        "recall": round(recall, 4),
                        "milliseconds": milliseconds,
                        "exact_milliseconds": exact_milliseconds,
                        "trained_on": before.get("trained_on", 0.0) if before else float(len(vectors)),
                    }
                )
        return None

    def open(self, place: SearchPlace, settings: Settings) -> Search:
        """Search by the settings that :meth:`build` has chosen."""
        numbers = {name: float(settings[name]) for name in _NEEDED}
        return functools.partial(_search, place, int(numbers["probes"]), int(numbers["factor"]))


def _answers(search: Search, vectors: np.ndarray, queries: np.ndarray) -> tuple[Sequence[np.ndarray], float]:
    """Rows that are found for each query and, itself included, ten others; median of the milliseconds."""
    found, seconds = [], []
    for query in queries:
        began = time.perf_counter()
        found.append(search(vectors[query], 11)[0])
        seconds.append(time.perf_counter() - began)
    return found, round(float(np.median(seconds)) * 1e3, 2)


def _search(place: SearchPlace, probes: int, factor: int, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`s2r2.search.backends.exact.top_k`, among the candidates that LanceDB proposes."""
    row_ids = place.rows().nearest_row_ids(query, probes, max(k, 10) * factor)
    found = place.catalogue.rows_of_row_ids(row_ids)
    found = np.sort(found[found >= 0])
    best, scores = top_k(np.ascontiguousarray(place.catalogue.vectors[found]), query, k)
    return found[best], scores
