"""``study.html``: the study on one self-contained page."""

import time
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from s2r2._version import __version__
from s2r2.evaluation.charts import standalone
from s2r2.study.plots import curves_chart, differences_chart
from s2r2.study.results import Comparison, Results
from s2r2.study.spec import folder_name
from s2r2.study.tables import (
    COST_TITLES,
    explanation,
    failure_lines,
    failures_title,
    notes,
    table_rows,
    tuning_explanation,
    tuning_rows,
)
from s2r2.study.verdicts import counted
from s2r2.system.files import fitting_name, write_text


def write_page(results: Results, folder: Path) -> Path:
    """Write ``study.html`` and its charts, also as files of their own; returns the page's path."""
    environment = Environment(
        loader=PackageLoader("s2r2.study"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    charts = {
        data: _chart(curves_chart(results, data), folder, fitting_name(f"curves-{folder_name(data)}"))
        for data in results.study.data
    }
    content = {
        "study": results.study,
        "results": results,
        "comparisons": [_comparison(results, c, folder) for c in results.comparisons],
        "curves": {data: chart for data, chart in charts.items() if chart},
        "failures_title": failures_title(results),
        "failures": failure_lines(results),
        "counted": counted(results),
        "cost_titles": COST_TITLES,
        "tuning": tuning_rows(results),
        "tuning_explanation": tuning_explanation(results),
        "written": time.strftime("%d %B %Y, %H:%M"),
        "version": __version__,
    }
    path = folder / "study.html"
    write_text(path, environment.get_template("study.html.j2").render(**content))
    return path


def _comparison(results: Results, comparison: Comparison, folder: Path) -> dict[str, Any]:
    # Commas, which no folder's name has, between the parts: a-b of c is another picture than b-c of a.
    parts = [folder_name(comparison.data), folder_name(comparison.task), str(comparison.budget)]
    name = fitting_name(f"differences-{','.join(parts)}")
    return {
        "title": f"{comparison.data}, evaluated on {comparison.task}",
        "about": f"{comparison.budget:,} views encoded in a run; {comparison.images:,} test images; per cent. "
        f"{explanation(results, comparison)}.",
        "titles": list(comparison.titles.values()),
        "rows": table_rows(results, comparison),
        "notes": notes(results, comparison),
        "chart": _chart(differences_chart(results, comparison), folder, name),
    }


def _chart(drawing: str, folder: Path, name: str) -> Markup:
    """Write a chart beside the page, and give it to be put inside; every text in it is escaped where it is made."""
    if drawing:
        write_text(folder / f"{name}.svg", standalone(drawing))
    return Markup(drawing)
