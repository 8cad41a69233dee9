"""``study.html``: the study on one self-contained page."""

import base64
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, select_autoescape

from s2r2._version import __version__
from s2r2.study.plots import curves_plot, differences_plot
from s2r2.study.results import TITLES, Comparison, Results, describe, explanation, show, show_difference
from s2r2.study.spec import FIGURES, folder_name
from s2r2.system.files import write_bytes, write_text


def write_page(results: Results, folder: Path) -> Path:
    """Write ``study.html`` and its plots, also as files of their own; returns the page's path."""
    mpl.use("Agg")
    environment = Environment(
        loader=PackageLoader("s2r2.study"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    curves = {data: _picture(curves_plot(results, data), folder, f"curves-{data}") for data in results.study.data}
    content = {
        "study": results.study,
        "results": results,
        "comparisons": [_comparison(results, c, folder) for c in results.comparisons],
        "curves": {data: address for data, address in curves.items() if address},
        "tuning": _tuning(results),
        "figure": TITLES[results.study.tuning.figure] if results.study.tuning else "",
        "written": time.strftime("%d %B %Y, %H:%M"),
        "version": __version__,
    }
    path = folder / "study.html"
    write_text(path, environment.get_template("study.html.j2").render(**content))
    return path


def _comparison(results: Results, comparison: Comparison, folder: Path) -> dict[str, Any]:
    rows = []
    for method, row in comparison.figures.items():
        gaps = comparison.differences.get(method, {})
        cost = results.costs.get((comparison.data, method, comparison.views))
        rows.append(
            {
                "method": method,
                "figures": [show(row[name]) for name in FIGURES],
                "gaps": [_gap(show_difference(gaps[name])) if name in gaps else ("", False) for name in FIGURES],
                "costs": [f"{cost.views:,.0f}", f"{cost.seconds:,.0f}", f"{cost.memory / 2**20:,.0f}"] if cost else [],
                "seeds": row["map"].seeds,
            }
        )
    name = f"differences-{comparison.data}-{comparison.task}-{comparison.views}"
    return {
        "title": f"{comparison.data}, judged on {comparison.task}",
        "about": f"{comparison.views:,} views encoded in a run; {comparison.images:,} test images; per cent. "
        f"{explanation(comparison)}.",
        "names": [TITLES[figure] for figure in FIGURES],
        "rows": rows,
        "picture": _picture(differences_plot(results, comparison), folder, name),
    }


def _gap(text: str) -> tuple[str, bool]:
    """A difference and whether its interval leaves out zero."""
    return text.strip("*"), text.startswith("**")


def _tuning(results: Results) -> list[tuple[str, str, str, str]]:
    if results.study.tuning is None:
        return []
    figure = results.study.tuning.figure
    return [
        (data, method, describe(record["chosen"]), ", ".join(f"{100 * t[figure]:.1f}" for t in record["trials"]))
        for data, methods in results.tuning.items()
        for method, record in methods.items()
    ]


def _picture(content: bytes | None, folder: Path, name: str) -> str:
    """Write a plot beside the page and give it as an address to put inside."""
    if content is None:
        return ""
    write_bytes(folder / f"{folder_name(name)}.png", content)
    return "data:image/png;base64," + base64.b64encode(content).decode()
