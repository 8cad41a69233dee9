"""A study's tables, for ``table.md``, for the page, and for ``docs``."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s2r2.study.results import TITLES, Comparison, Results
from s2r2.study.spec import UNTRAINED
from s2r2.study.statistics import Estimate
from s2r2.study.verdicts import NOT_COVERED, counted, unequal_seconds, verdicts
from s2r2.system.markdown import markdown_table
from s2r2.system.wording import amount

COST_TITLES = ("views", "seconds", "MiB", "seeds")
MISSING = "missing"


@dataclass(frozen=True)
class TableRow:
    """One method's row as text.

    Attributes:
        method: Its name.
        figures: In the order of the comparison's titles.
        leads: Of the reference over the method, likewise; empty for the reference.
        certain: Whether a lead is no chance, all comparisons of the study considered.
        costs: Views, seconds, MiB; and the number of seeds.
    """

    method: str
    figures: list[str]
    leads: list[str]
    certain: list[bool]
    costs: list[str]


def table_rows(results: Results, comparison: Comparison) -> list[TableRow]:
    """The rows of a comparison; of a method without a run ``missing``, and of how many seeds runs are missing."""
    rows, kept, planned = [], results.no_chance, len(results.study.seeds)
    for method in (UNTRAINED, *results.study.methods):
        figures, gaps = comparison.figures.get(method, {}), comparison.differences.get(method, {})
        seeds = next(iter(figures.values())).seeds if figures else 0
        cost = results.costs.get((comparison.data, method, comparison.budget))
        spent = [f"{cost.views:,.0f}", f"{cost.seconds:,.0f}", f"{cost.memory / 2**20:,.0f}"] if cost else ["0", "", ""]
        spent = spent if figures else ["", "", ""]
        rows.append(
            TableRow(
                method,
                [show(figures[name]) if figures else MISSING for name in comparison.titles],
                [show_lead(gaps[name]) if name in gaps else "" for name in comparison.titles],
                [gaps.get(name) in kept for name in comparison.titles],
                [*spent, str(seeds) if seeds == planned else f"{seeds} of {planned}"],
            )
        )
    return rows


def explanation(results: Results, comparison: Comparison) -> str:
    """What the columns of a comparison are, in a sentence."""
    if comparison.several:
        text = "mAP: retrieval, a label in common is right; kNN and linear: mean AP over labels"
    else:
        text = "mAP: retrieval, same class is right; kNN and linear: accuracy"
    others = [name for name in comparison.titles if name not in TITLES and name in comparison.explanations]
    text += "".join(f"; {comparison.titles[n]}: {comparison.explanations[n].rstrip('.')}" for n in others)
    text += f"; lead: {results.reference} minus the row, paired by seed and test image; {NOT_COVERED}"
    if any(figure.seeds == 1 for row in comparison.figures.values() for figure in row.values()):
        text += "; (±) of a single seed covers other test images only"
    return text


def notes(results: Results, comparison: Comparison) -> list[str]:
    """What stands below a comparison: verdicts, what a reader must know, seconds."""
    return [*verdicts(results, comparison), *comparison.notes, *unequal_seconds(results, comparison)]


def show(figure: Estimate) -> str:
    """A figure in per cent."""
    if not math.isfinite(figure.value):
        return "n/a"
    if math.isfinite(figure.half_width):
        return f"{100 * figure.value:.1f} ±{100 * figure.half_width:.1f}"
    return f"{100 * figure.value:.1f} (±{100 * figure.images:.1f})"


def show_lead(gap: Estimate) -> str:
    """A difference in points."""
    if not math.isfinite(gap.value):
        return "n/a"
    spread = f" ±{100 * gap.half_width:.1f}" if math.isfinite(gap.half_width) else ""
    return f"{100 * gap.value:+.1f}{spread}"


def describe(settings: Mapping[str, Any]) -> str:
    """Settings on one line."""
    flat = {**{k: v for k, v in settings.items() if k != "options"}, **settings.get("options", {})}
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in flat.items()
    )


def tuning_rows(results: Results) -> list[tuple[str, str, str, str, str]]:
    """For each data set and method the chosen settings, which of them lie at an edge, and the figures of all trials.

    Of settings that the study was given the last two are empty.
    """
    if results.study.tuning is None:
        given = results.study.settings.items()
        return [(data, method, describe(row), "", "") for data, rows in given for method, row in rows.items()]
    figure = results.study.tuning.figure
    return [
        (
            data,
            method,
            "none: all diverged" if record["chosen"] is None else describe(record["chosen"]),
            _edges(record),
            ", ".join("diverged" if t[figure] is None else f"{100 * t[figure]:.1f}" for t in record["trials"]),
        )
        for data, methods in results.tuning.items()
        for method, record in methods.items()
    ]


def _edges(record: Mapping[str, Any]) -> str:
    names = [name.removeprefix("options.") for name in record.get("edges", [])]
    return f"best at the edge: {', '.join(names)}" if names else ""


def tuning_explanation(results: Results) -> str:
    """How settings were chosen; empty where they were not."""
    tuning = results.study.tuning
    if tuning is None:
        given = "Given by the study for each data set; nothing was chosen by these runs."
        return given if results.study.settings else ""
    seeds = f", the mean over {len(tuning.seeds)} seeds" if len(tuning.seeds) > 1 else ""
    wider = ", and one more a step beyond each edge at which the best of them lay" if tuning.widen else ""
    return (
        f"{amount(tuning.trials, 'trial')} for each method and data set with {tuning.budget:,} encoded views each"
        f"{seeds}{wider}, evaluated by {TITLES.get(tuning.figure, tuning.figure)} on {tuning.held_out:.0%} of the "
        f"training labels. The test images had no part in it.{_diverged(results, tuning.figure)}"
    )


def _diverged(results: Results, figure: str) -> str:
    """How trials that diverged were counted; empty where there is none."""
    trials = (t for methods in results.tuning.values() for record in methods.values() for t in record["trials"])
    if all(trial[figure] is not None for trial in trials):
        return ""
    return " A trial diverged where its loss was no number in one of its runs: it counts as the worst."


def to_markdown(results: Results) -> str:
    """All tables."""
    parts = [f"# {results.study.name}", ""]
    if results.study.about:
        parts += [results.study.about.strip(), ""]
    if results.done < results.cells:
        parts += [f"**Not finished: {results.done} of {results.cells} runs.**", ""]
    if results.failures:
        parts += [f"**{failures_title(results)}**", "", *(f"- {line}" for line in failure_lines(results)), ""]
    if count := counted(results):
        parts += [f"{count}.", ""]
    for comparison in results.comparisons:
        title = f"{comparison.data}, evaluated on {comparison.task}: {comparison.budget:,} views encoded"
        about = f"Per cent; {explanation(results, comparison)}; {comparison.images:,} test images."
        titles = list(comparison.titles.values())
        header = ["", *titles, *(f"lead of {results.reference}: {title}" for title in titles), *COST_TITLES]
        parts += [f"## {title}", "", about, "", *markdown_table(header, _cells(results, comparison)), ""]
        below = notes(results, comparison)
        parts += [*(f"- {note}" for note in below), ""] if below else []
    if results.tuning or results.study.settings:
        width = 5 if results.tuning else 3
        header = ["data", "method", "chosen", "", "figures of the trials"][:width]
        table = markdown_table(header, [row[:width] for row in tuning_rows(results)])
        parts += ["## Settings chosen", "", tuning_explanation(results), "", *table, ""]
    return "\n".join(parts)


def failures_title(results: Results) -> str:
    """How many runs have failed, and what becomes of them."""
    return f"Failed runs: {len(results.failures)}. The next call tries again."


def failure_lines(results: Results) -> list[str]:
    """Each run that has failed, with the last line of its error."""
    return [f"{failure.title}: {failure.reason}" for failure in results.failures]


def _cells(results: Results, comparison: Comparison) -> list[list[str]]:
    """Text of the cells; a lead that is no chance is bold."""
    return [
        [
            row.method,
            *row.figures,
            *(f"**{lead}**" if sure else lead for lead, sure in zip(row.leads, row.certain, strict=True)),
            *row.costs,
        ]
        for row in table_rows(results, comparison)
    ]
