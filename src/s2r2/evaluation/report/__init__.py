"""A run on one page that can be sent to anybody: ``report.html``, self-contained."""

from s2r2.evaluation.report.writing import write_report

__all__ = ["write_report"]
