"""Embeddings to figures: retrieval, nearest neighbours, probes, S2R2's own task, health, and the report."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2r2.evaluation.evaluating import evaluate
    from s2r2.evaluation.metrics.bootstrap import Interval, bootstrap_interval, mean_average_precision_interval
    from s2r2.evaluation.metrics.health import (
        Duplicate,
        Health,
        alignment,
        duplicates,
        effective_rank,
        health,
        uniformity,
    )
    from s2r2.evaluation.metrics.neighbours import knn_accuracy, knn_predictions, knn_scores, nearest
    from s2r2.evaluation.metrics.retrieval import RetrievalResult, retrieval_metrics
    from s2r2.evaluation.protocols.fine_tuning import FineTuningPlan, fine_tune
    from s2r2.evaluation.protocols.held_out_views import (
        HeldOutViews,
        embed_views,
        held_out_views,
        rank_views,
        view_average_precision,
        view_retrieval,
    )
    from s2r2.evaluation.protocols.linear_probe import LinearProbe, fit_linear_probe
    from s2r2.evaluation.protocols.low_shot import LowShot, low_shot, probe_subsets
    from s2r2.evaluation.protocols.voc07 import Voc07, voc07_svm
    from s2r2.evaluation.report import write_report
    from s2r2.evaluation.result import Evaluation, Row

# Reports and rankings need no torch, so nothing is imported before it is asked for.
_PLACES = {
    "metrics.bootstrap": ("Interval", "bootstrap_interval", "mean_average_precision_interval"),
    "evaluating": ("evaluate",),
    "protocols.fine_tuning": ("FineTuningPlan", "fine_tune"),
    "metrics.health": ("Duplicate", "Health", "alignment", "duplicates", "effective_rank", "health", "uniformity"),
    "protocols.linear_probe": ("LinearProbe", "fit_linear_probe"),
    "protocols.low_shot": ("LowShot", "low_shot", "probe_subsets"),
    "metrics.neighbours": ("knn_accuracy", "knn_predictions", "knn_scores", "nearest"),
    "report": ("write_report",),
    "result": ("Evaluation", "Row"),
    "metrics.retrieval": ("RetrievalResult", "retrieval_metrics"),
    "protocols.held_out_views": (
        "HeldOutViews",
        "embed_views",
        "held_out_views",
        "rank_views",
        "view_average_precision",
        "view_retrieval",
    ),
    "protocols.voc07": ("Voc07", "voc07_svm"),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}

__all__ = [
    "Duplicate",
    "Evaluation",
    "FineTuningPlan",
    "Health",
    "HeldOutViews",
    "Interval",
    "LinearProbe",
    "LowShot",
    "RetrievalResult",
    "Row",
    "Voc07",
    "alignment",
    "bootstrap_interval",
    "duplicates",
    "effective_rank",
    "embed_views",
    "evaluate",
    "fine_tune",
    "fit_linear_probe",
    "health",
    "held_out_views",
    "knn_accuracy",
    "knn_predictions",
    "knn_scores",
    "low_shot",
    "mean_average_precision_interval",
    "nearest",
    "probe_subsets",
    "rank_views",
    "retrieval_metrics",
    "uniformity",
    "view_average_precision",
    "view_retrieval",
    "voc07_svm",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = getattr(importlib.import_module(f"s2r2.evaluation.{_MODULES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 's2r2.evaluation' has no attribute {name!r}")
