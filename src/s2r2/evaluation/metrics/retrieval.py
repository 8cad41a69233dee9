"""Retrieval figures over whole rankings: mAP, mAP@R, R-Precision, Recall@k and graded nDCG, exactly."""

import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.evaluation.metrics.jackknife import pseudo_values
from s2r2.evaluation.metrics.label_encoding import LabelsLike
from s2r2.evaluation.metrics.relevance import Relevance, relevance_pair
from s2r2.evaluation.metrics.vectors import inverse_lengths, similarity_rows, unit_rows

Ties = Literal["expected", "optimistic", "pessimistic"]
WithoutRelevant = Literal["skip", "zero", "error"]
LeftOut = Literal["nothing", "images", "groups"]

DEFAULT_KS = (1, 5, 10)
DEFAULT_MEMORY = 128 * 2**20
"""Bytes for similarities at a time."""


@dataclass(frozen=True)
class RetrievalResult:
    """Retrieval figures of each query; NaN where a query is not judged.

    Attributes:
        average_precision: ``(Q,)`` AP over all relevant images.
        average_precision_at_r: ``(Q,)`` AP over the first R ranks divided by R, R the number of relevant images.
        r_precision: ``(Q,)`` share of relevant images among the first R.
        recall: k to ``(Q,)``: whether a relevant image is among the first k (a chance where ties decide).
        ndcg: ``(Q,)`` normalized discounted cumulative gain over the whole ranking, the gain being the Jaccard
            overlap of labels; None when not asked for.
        relevant: ``(Q,)`` relevant gallery images of each query, 0 for a query without label.
        gallery: Gallery images that have labels.
        unlabeled_queries: Queries left out because they have no label.
        unlabeled_gallery: Gallery images left out for the same reason.
        without_relevant: Labeled queries for which nothing in the gallery is relevant (singletons).
        tie_span: ``(Q,)`` best minus worst AP over the orders of equal scores: 0 where ties do not matter.
        ties: The tie rule.
        pseudo_values: What to resample for an interval, by the names of :meth:`summary`; empty unless asked for. Each
            ``(N,)`` has the figure as its mean and tells what every image does to it, as a query and as a candidate;
            NaN for an image without label. ``(G,)`` where groups are left out.
    """

    average_precision: np.ndarray
    average_precision_at_r: np.ndarray
    r_precision: np.ndarray
    recall: dict[int, np.ndarray]
    ndcg: np.ndarray | None
    relevant: np.ndarray
    gallery: int
    unlabeled_queries: int
    unlabeled_gallery: int
    without_relevant: int
    tie_span: np.ndarray
    ties: Ties
    pseudo_values: dict[str, np.ndarray] = field(default_factory=dict)

    # Former spellings, for this version.
    unlabelled_queries = property(lambda self: self.unlabeled_queries)
    unlabelled_gallery = property(lambda self: self.unlabeled_gallery)

    @property
    def queries(self) -> int:
        """Queries that the means are over."""
        return int(np.isfinite(self.average_precision).sum())

    @property
    def mean_average_precision(self) -> float:
        """mAP: the mean AP over judged queries, in 0..1; NaN without any."""
        return mean(self.average_precision)

    def summary(self) -> dict[str, float]:
        """Means over judged queries, in 0..1, and the counts."""
        figures = {
            "mAP": self.mean_average_precision,
            "mAP@R": mean(self.average_precision_at_r),
            "R-Precision": mean(self.r_precision),
            **{f"Recall@{k}": mean(hits) for k, hits in self.recall.items()},
        }
        figures["tie_span"] = mean(self.tie_span)
        if self.ndcg is not None:
            figures["nDCG"] = mean(self.ndcg)
        counts = {
            "queries": self.queries,
            "gallery": self.gallery,
            "without_relevant": self.without_relevant,
            "unlabeled_queries": self.unlabeled_queries,
            "unlabeled_gallery": self.unlabeled_gallery,
        }
        return {**figures, **counts}


def retrieval_metrics(
    queries: np.ndarray,
    query_labels: LabelsLike,
    gallery: np.ndarray | None = None,
    gallery_labels: LabelsLike | None = None,
    *,
    unknown: int | None = None,
    exclude: np.ndarray | None = None,
    ks: Sequence[int] = DEFAULT_KS,
    ties: Ties = "expected",
    without_relevant: WithoutRelevant = "skip",
    graded: bool = False,
    leave_out: LeftOut = "nothing",
    threads: int | None = None,
    memory: int = DEFAULT_MEMORY,
) -> RetrievalResult:
    """Rank the gallery for every query by cosine similarity and measure the rankings, exactly.

    Without a gallery the queries are it, and each query is taken out of its own ranking by its index
    (leave-one-out), so that a duplicate of it still counts. An image is relevant when it has a label in common
    with the query. Images without label are neither queries nor candidates; they are counted.

    Cosines are rounded to multiples of 2^-22, because float32 products do not tell closer ones apart. Equal scores
    are worth the mean over all their orders (``"expected"``: embeddings that have collapsed to a point score as chance
    does), or the best or worst order.

    Args:
        queries: ``(Q, D)`` embeddings; any length, they are normalized here.
        query_labels: Labels or groups: ``Labels``, ``(Q,)`` integers or strings of any kind (None, NaN and ``""`` are
            unknown) or ``(Q, C)`` bool.
        gallery: ``(M, D)`` embeddings, also a memory map; None for leave-one-out.
        gallery_labels: Labels of the gallery, of the same kind.
        unknown: A number that means an unknown label, such as -1; by default every number is a label.
        exclude: ``(Q,)`` gallery index that is no candidate for a query, -1 for none; with a gallery only.
        ks: Cut-offs of Recall@k, which is 1 when at least one relevant image is among the first k.
        ties: What equal scores are worth.
        without_relevant: A query with nothing relevant in the gallery is left out of the means (``"skip"``),
            counts 0 (``"zero"``) or is refused (``"error"``). It stays a candidate.
        graded: Also compute nDCG with the Jaccard overlap of labels as gain.
        leave_out: Also find out, without a gallery, what every figure would be without each of the ``"images"``, or
            without each of the ``"groups"`` of images with one label, for ``pseudo_values``: all at once, in about
            twice the time. See :func:`~s2r2.evaluation.metrics.jackknife.pseudo_values`.
        threads: Threads of the counting; all cores by default.
        memory: Bytes for similarities at a time.

    Raises:
        S2R2Error: Shapes do not fit, an embedding is not finite or zero, or an option is not known.
    """
    tie_rule = _tie_rule(ties)
    _check_options(queries, query_labels, gallery, gallery_labels, exclude, ks, without_relevant)
    query_relevance, gallery_relevance = relevance_pair(query_labels, gallery_labels, unknown)
    _check_leave_out(leave_out, gallery, ties, query_relevance.several)
    rows = np.flatnonzero(query_relevance.known)
    columns = np.flatnonzero(gallery_relevance.known)
    out = np.full((len(queries), 6 + len(ks)), np.nan)
    out[:, 0] = 0
    changes, squares = np.zeros((len(queries), 5 + len(ks))), np.zeros(4 + len(ks))
    own = np.arange(len(queries)) if gallery is None else np.full(len(queries), -1) if exclude is None else exclude
    if len(rows) and len(columns):
        out[rows], found, squares = _measure(
            queries,
            queries if gallery is None else gallery,
            query_relevance,
            gallery_relevance,
            rows,
            columns,
            _positions(own[rows], columns, len(gallery_relevance.known)),
            np.asarray(ks, np.int64),
            tie_rule,
            graded,
            leave_out,
            threads or min(8, os.cpu_count() or 1),
            memory,
        )
        if leave_out != "nothing":
            changes[columns] = found
    lonely = query_relevance.known & (out[:, 0] == 0)
    if lonely.any() and without_relevant == "error":
        raise ArgumentError(
            f"{lonely.sum()} queries have nothing relevant in the gallery, the first is number {np.argmax(lonely)}: "
            'leave them out, or use without_relevant="skip"'
        )
    if without_relevant == "zero":
        out[lonely, 1:] = 0.0
        changes[:, -1] = 0.0
    return RetrievalResult(
        average_precision=out[:, 2],
        average_precision_at_r=out[:, 3],
        r_precision=out[:, 4],
        recall={int(k): out[:, 6 + i] for i, k in enumerate(ks)},
        ndcg=out[:, 5] if graded else None,
        relevant=out[:, 0].astype(np.int64),
        gallery=len(columns),
        unlabeled_queries=int((~query_relevance.known).sum()),
        unlabeled_gallery=int((~gallery_relevance.known).sum()),
        without_relevant=int(lonely.sum()),
        tie_span=out[:, 1],
        ties=ties,
        pseudo_values=_pseudo_values(out, changes, squares, query_relevance, ks, graded, leave_out),
    )


def _pseudo_values(
    measures: np.ndarray,
    changes: np.ndarray,
    squares: np.ndarray,
    relevance: Relevance,
    ks: Sequence[int],
    graded: bool,
    leave_out: LeftOut,
) -> dict[str, np.ndarray]:
    if leave_out == "nothing":
        return {}
    known = np.flatnonzero(relevance.known)
    units = np.full(len(measures), -1)
    groups = leave_out == "groups"
    units[known] = np.unique(relevance.words[known, 0], return_inverse=True)[1] if groups else np.arange(len(known))
    out = {}
    for column, name in enumerate(("mAP", "mAP@R", "R-Precision", "nDCG", *(f"Recall@{k}" for k in ks))):
        if name == "nDCG" and not graded:
            continue
        found = pseudo_values(measures[:, 2 + column], changes[:, column], squares[column], changes[:, -1], units)
        out[name] = found if groups else np.full(len(measures), np.nan)
        if not groups:
            out[name][known] = found
    return out


def mean(values: np.ndarray) -> float:
    """Mean of the values that are there; NaN without any."""
    valid = values[np.isfinite(values)]
    return float(valid.mean()) if len(valid) else float("nan")


def _measure(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_relevance: Relevance,
    gallery_relevance: Relevance,
    rows: np.ndarray,
    columns: np.ndarray,
    exclude: np.ndarray,
    ks: np.ndarray,
    ties: int,
    graded: bool,
    leave_out: LeftOut,
    threads: int,
    memory: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from s2r2.evaluation.metrics.ranking_kernel import measure_rows

    steps = np.arange(1, len(columns) + 1, dtype=np.float64)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / steps)])
    discounts = np.concatenate([[0.0], np.cumsum(1 / np.log2(1 + steps))]) if graded else np.empty(0)
    scales = inverse_lengths(gallery, "gallery")[columns]
    gallery_words = gallery_relevance.words[columns]
    out = np.empty((len(rows), 6 + len(ks)))
    changes = np.zeros((threads, 0 if leave_out == "nothing" else len(columns), 5 + len(ks)))
    squares = np.zeros((threads, 4 + len(ks)))
    chunk = max(2, min(len(rows), memory // (4 * len(columns))))
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(rows), chunk):
            part = rows[start : start + chunk]
            units = unit_rows(queries[part], "queries")
            similarities = similarity_rows(units, gallery, columns)
            words = query_relevance.words[part]
            edges = np.linspace(0, len(part), threads + 1, dtype=int)
            tasks = [
                pool.submit(
                    measure_rows,
                    similarities[a:b],
                    scales,
                    words[a:b],
                    gallery_words,
                    query_relevance.several,
                    exclude[start + a : start + b],
                    ks,
                    ties,
                    harmonic,
                    discounts,
                    out[start + a : start + b],
                    changes[number],
                    squares[number],
                    leave_out == "groups",
                )
                for number, (a, b) in enumerate(itertools.pairwise(edges))
                if b > a
            ]
            for task in tasks:
                task.result()
    return out, changes.sum(0), squares.sum(0)


def _positions(indices: np.ndarray, columns: np.ndarray, count: int) -> np.ndarray:
    """Gallery indices as positions among the labeled ``columns``; -1 where there is none."""
    position = np.full(count + 1, -1, np.int64)  # the last entry answers for index -1
    position[columns] = np.arange(len(columns))
    return position[np.asarray(indices, np.int64)]


def _tie_rule(ties: str) -> int:
    from s2r2.evaluation.metrics.tie_groups import EXPECTED, OPTIMISTIC, PESSIMISTIC

    rules = {"expected": EXPECTED, "optimistic": OPTIMISTIC, "pessimistic": PESSIMISTIC}
    if ties not in rules:
        raise ArgumentError(f"ties={ties!r} is not known: use {', '.join(rules)}")
    return rules[ties]


def _check_leave_out(leave_out: str, gallery: np.ndarray | None, ties: str, several: bool) -> None:
    if leave_out not in ("nothing", "images", "groups"):
        raise ArgumentError(f"leave_out={leave_out!r} is not known: use nothing, images or groups")
    if leave_out != "nothing" and gallery is not None:
        raise ArgumentError(f'leave_out="{leave_out}" is for images ranked among themselves: give no gallery')
    if leave_out != "nothing" and ties != "expected":
        raise ArgumentError(f'leave_out="{leave_out}" needs ties="expected"')
    if leave_out == "groups" and several:
        raise ArgumentError('leave_out="groups" needs one label per image: use leave_out="images"')


def _check_options(
    queries: np.ndarray,
    query_labels: LabelsLike,
    gallery: np.ndarray | None,
    gallery_labels: LabelsLike | None,
    exclude: np.ndarray | None,
    ks: Sequence[int],
    without_relevant: str,
) -> None:
    if queries.ndim != 2 or (gallery is not None and (gallery.ndim != 2 or gallery.shape[1] != queries.shape[1])):
        shapes = f"{queries.shape}" + ("" if gallery is None else f" and {gallery.shape}")
        raise ArgumentError(f"embeddings must be (N, D) with the same D, not {shapes}")
    if (gallery is None) != (gallery_labels is None):
        raise ArgumentError("a gallery needs gallery_labels, and the other way round")
    for rows, labels, what in ((queries, query_labels, "queries"), (gallery, gallery_labels, "gallery")):
        if rows is not None and labels is not None:
            count = len(labels)
            if count != len(rows):
                raise ArgumentError(f"{count} labels for {len(rows)} {what}: there must be one for each")
    if exclude is not None:
        if gallery is None:
            raise S2R2Error("exclude is for a separate gallery: without one each query is excluded already")
        if exclude.shape != (len(queries),) or exclude.max(initial=-1) >= len(gallery) or exclude.min(initial=0) < -1:
            raise S2R2Error("exclude must hold one gallery index for each query, or -1")
    if not ks or min(ks) < 1:
        raise ArgumentError(f"ks={tuple(ks)}: cut-offs of Recall@k must be 1 or more")
    if without_relevant not in ("skip", "zero", "error"):
        raise ArgumentError(f"without_relevant={without_relevant!r} is not known: use skip, zero or error")
