"""What a study's differences say in words: ahead, behind, or not told apart and by how much at most."""

import math
from collections.abc import Mapping

from s2r2.study.results import Comparison, Results
from s2r2.study.statistics import LEVEL, Estimate

NOT_COVERED = (
    "± is half of a 95 % interval over other seeds and other test images; it does not cover the choice of settings, "
    "other photos to train on, or other labeled images for kNN and linear to learn from"
)


def verdicts(results: Results, comparison: Comparison) -> list[str]:
    """A sentence for each pair of methods that is compared."""
    reference, kept = results.reference, results.no_chance
    pairs = {(reference, method): row for method, row in comparison.differences.items()} | comparison.pairs
    return [
        f"{first} less {second}: "
        + "; ".join(f"{title} {verdict(row[name], kept)}" for name, title in comparison.titles.items() if name in row)
        + "."
        for (first, second), row in pairs.items()
    ]


def verdict(gap: Estimate, kept: set[Estimate]) -> str:
    """What a difference says, with the size of what is excluded where it says neither.

    Args:
        gap: The difference.
        kept: Those that are no chance, all comparisons of the study considered.
    """
    if not math.isfinite(gap.value):
        return "n/a"
    if not math.isfinite(gap.half_width):
        return f"{100 * gap.value:+.1f} with one seed, of which nothing follows for others"
    figure = f"{100 * gap.value:+.1f} ±{100 * gap.half_width:.1f}"
    side = "ahead" if gap.value > 0 else "behind"
    if gap in kept:
        return f"{figure}, {side}"
    if gap.low > 0 or gap.high < 0:
        return f"{figure}, {side} by its own interval, not after correction"
    excluded = math.ceil(round(1000 * max(-gap.low, gap.high), 6)) / 10
    return f"{figure}, not told apart; differences above {excluded:.1f} are excluded"


def counted(results: Results) -> str:
    """How many comparisons there are, and what was done about it; empty without any."""
    count = len(results.differences)
    if not count:
        return ""
    return (
        f"Bold: no chance after Holm's correction for all {count:,} differences of this study, at {LEVEL:.0%} for all "
        "of them together; the intervals themselves are not corrected"
    )


def unequal_seconds(results: Results, comparison: Comparison) -> list[str]:
    """Where methods encoded the same pixels in seconds that differ by more than a tenth from the reference's."""
    costs: Mapping[str, float] = {
        method: cost.seconds
        for (data, method, budget), cost in results.costs.items()
        if (data, budget) == (comparison.data, comparison.budget) and cost.seconds > 0
    }
    own = costs.get(results.reference, 0.0)
    found = [
        f"{method} {own / seconds - 1:+.0%} ({_seconds(seconds)})"
        for method, seconds in costs.items()
        if own and method != results.reference and abs(own / seconds - 1) > 0.1
    ]
    if not found:
        return []
    return [
        f"Pixels are equal, seconds are not: in the {_seconds(own)} of {results.reference} other methods would make "
        f"more or fewer steps: {', '.join(found)}."
    ]


def _seconds(seconds: float) -> str:
    return f"{seconds:,.{0 if seconds >= 10 else 1}f} seconds"
