"""Copies as a person sees them on a terminal, and what is done with them."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from s2r2.errors import ArgumentError
from s2r2.search.duplicates.acting import move_copies, trash_copies, write_script
from s2r2.search.duplicates.finding import ORIGINAL, Duplicates, Group, find_duplicates
from s2r2.search.duplicates.planning import Copy, Plan, check_keep, plan
from s2r2.search.index import ImageIndex
from s2r2.search.terminal_output import as_seen_from_here
from s2r2.system.console import PlainConsole
from s2r2.system.files import atomic_write
from s2r2.system.terminal import csv_safe
from s2r2.system.wording import amount, worded


@dataclass(frozen=True)
class PutAway:
    """What to do with copies; nothing unless one of these is chosen.

    Attributes:
        move_to: Move them into this folder.
        trash: Put them into the trash of the system.
        script: Write a shell script that removes them into this file.
    """

    move_to: Path | None = None
    trash: bool = False
    script: Path | None = None


def duplicates_and_show(
    folder: str | Path,
    threshold: float | None,
    out: Path | None,
    console: PlainConsole,
    keep: str | None = None,
    put_away: PutAway = PutAway(),
) -> None:
    """Print groups of copies; write them as CSV, and put copies away, if that is asked for.

    Args:
        folder: Of the index.
        threshold: Cosine of vectors from which on pixels are compared; None to choose it from the vectors.
        out: CSV with the columns ``group``, ``kind`` and ``path``.
        console: Where to print.
        keep: Which photo of a group stays, as in :func:`s2r2.search.duplicates.planning.plan`; None to list only.
        put_away: What to do with the others.

    Raises:
        S2R2Error: There is no index, an argument is wrong, or a file cannot be written.
    """
    _check(keep, put_away)
    index = ImageIndex.open(folder)
    for argument, file in (("out", out), ("script", put_away.script)):
        if file is not None:
            index.catalogue.refuse_overwriting(file, argument)
    found = find_duplicates(index, threshold)
    for number, group in enumerate(found.groups, start=1):
        console.say(f"{number}  {len(group.rows)} photos", style="bold")
        for row in group.rows:
            console.say(f"   {_kind(group, row):<14}  {as_seen_from_here(index.location(row))}")
    photos = sum(len(group.rows) for group in found.groups)
    console.say(f"{amount(len(found.groups), 'group')}, {photos:,} of {amount(len(index), 'photo')}")
    if out is not None:
        _write_list(index, found, out)
        console.say(f"list      {out}")
    if keep is not None:
        _put_away(index, plan(index, found, keep), put_away, console)


def _check(keep: str | None, put_away: PutAway) -> None:
    """Refuse what does not fit together, before the work.

    Raises:
        ArgumentError: It does not.
    """
    if keep is not None:
        check_keep(keep)
    chosen = [put_away.move_to is not None, put_away.trash, put_away.script is not None]
    if sum(chosen) > 1:
        raise ArgumentError("give one of `move_to`, `trash` and `script`")
    if any(chosen) and keep is None:
        raise ArgumentError("which photo of each group stays? Add `keep='largest'`, oldest, newest or path=GLOB")


def _kind(group: Group, row: int) -> str:
    return ORIGINAL if row == group.original else ", ".join(group.kinds[row]) or "related"


def _write_list(index: ImageIndex, found: Duplicates, out: Path) -> None:
    with atomic_write(out, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("group", "kind", "path"))
        for number, group in enumerate(found.groups, start=1):
            writer.writerows((number, _kind(group, row), csv_safe(index.location(row))) for row in group.rows)


def _put_away(index: ImageIndex, planned: Plan, put_away: PutAway, console: PlainConsole) -> None:
    for location, why in planned.left:
        console.say(f"left      {as_seen_from_here(location)}: {why}")
    count, size = len(planned.copies), sum(copy.bytes for copy in planned.copies) / 1e6
    if put_away.script is not None:
        write_script(index, planned, put_away.script)
        console.say(f"script    {put_away.script}: removes {amount(count, 'photo')} ({size:,.1f} MB) when sh runs it")
        return
    done = _done(index, planned, put_away)
    for copy, what in done:
        beside = f"{', '.join(copy.kinds)}; kept: {as_seen_from_here(copy.kept_path)}"
        console.say(f"photo     {as_seen_from_here(copy.path)}: {what} ({beside})")
    if put_away == PutAway():
        console.say(
            worded(
                f"{amount(count, 'copy', 'copies')} ({size:,.1f} MB) could go; nothing was changed: add "
                "`move_to=DIR`, `trash` or `script=FILE`"
            )
        )


def _done(index: ImageIndex, planned: Plan, put_away: PutAway) -> Iterator[tuple[Copy, str]]:
    if put_away.move_to is not None:
        return move_copies(index, planned, put_away.move_to)
    if put_away.trash:
        return trash_copies(index, planned)
    return ((copy, "would go") for copy in planned.copies)
