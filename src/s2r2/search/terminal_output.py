"""Near-duplicates as a person sees them on a terminal."""

import csv
import os
from pathlib import Path

from s2r2.search.duplicates import find_duplicates
from s2r2.search.index import ImageIndex
from s2r2.system.console import PlainConsole
from s2r2.system.files import atomic_write
from s2r2.system.terminal import csv_safe
from s2r2.system.wording import worded


def duplicates_and_show(folder: str | Path, threshold: float | None, out: Path | None, console: PlainConsole) -> None:
    """Print groups of near-duplicates, most similar first; write all of them as CSV if a file is asked for.

    Args:
        folder: Of the index.
        threshold: Cosine from which on two photos count as near-duplicates; None to choose it from the scores.
        out: CSV with the columns ``group``, ``score`` and ``path``.
        console: Where to print.

    Raises:
        S2R2Error: There is no index, the threshold is not within 0 and 1, or the file cannot be written.
    """
    index = ImageIndex.open(folder)
    found = find_duplicates(index, threshold)
    photos = sum(len(group.rows) for group in found.groups)
    how = f"the scores suggest {found.suggested:.4f}"
    if threshold is None:
        how = "chosen from the scores"
    for number, group in enumerate(found.groups, start=1):
        console.say(f"{number}  similarity {group.score:.4f}", style="bold")
        for row in group.rows:
            console.say(f"   {as_seen_from_here(index.location(row))}")
    console.say(f"{len(found.groups)} groups, {photos} photos; threshold {found.threshold:.4f} ({how})")
    if not found.groups and found.threshold > 0:
        console.say(worded(f"to find more, lower the threshold: `threshold={_lower(found.threshold)}`"))
    if found.groups and max(len(group.rows) for group in found.groups) > max(10, len(index) // 2):
        console.say(
            worded(
                "warning   most photos are in one group: this encoder hardly tells them apart (has it collapsed, or "
                "barely been trained?); use another one, or a higher `threshold`"
            )
        )
    if out is not None:
        with atomic_write(out, "w") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("group", "score", "path"))
            for number, group in enumerate(found.groups, start=1):
                paths = (csv_safe(index.location(row)) for row in group.rows)
                writer.writerows((number, f"{group.score:.6f}", path) for path in paths)
        console.say(f"list      {out}")


def as_seen_from_here(location: str) -> str:
    """A photo's place, without the working folder where it is inside of it."""
    here = os.getcwd() + os.sep
    return location.removeprefix(here) if location != here else location


def _lower(threshold: float) -> str:
    """A threshold that is a clear step below one that found nothing."""
    return f"{max(0.0, 1 - max(2 * (1 - threshold), 0.001)):.3f}"
