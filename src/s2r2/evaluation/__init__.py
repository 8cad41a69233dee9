"""Embeddings to figures: retrieval, nearest neighbours, linear probes, S2R2's own task, and the report."""

from s2r2.evaluation.bootstrap import Interval, bootstrap_interval
from s2r2.evaluation.evaluate import EvaluationTable, evaluate
from s2r2.evaluation.linear_probe import LinearProbe, fit_linear_probe
from s2r2.evaluation.neighbours import knn_predictions
from s2r2.evaluation.retrieval import RetrievalResult, retrieval_metrics
from s2r2.evaluation.views_task import held_out_views, view_retrieval

__all__ = [
    "EvaluationTable",
    "Interval",
    "LinearProbe",
    "RetrievalResult",
    "bootstrap_interval",
    "evaluate",
    "fit_linear_probe",
    "held_out_views",
    "knn_predictions",
    "retrieval_metrics",
    "view_retrieval",
]
