"""What an evaluation found, as plain data: for JSON, for a terminal, for the report."""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from s2r2.errors import S2R2Error
from s2r2.evaluation.metrics.bootstrap import Interval
from s2r2.runs import EVALUATION_VERSION, RunFolder, current_evaluation
from s2r2.system.console import PlainConsole
from s2r2.system.terminal import visible
from s2r2.system.wording import worded


@dataclass(frozen=True)
class Column:
    """A figure that rows have.

    Attributes:
        title: Heading, short.
        explanation: What it means, for a person.
        main: Whether a narrow table shows it as well.
        asked_for: Whether it is only there because somebody asked for it: a narrow page gives it a table of its own.
    """

    title: str
    explanation: str
    main: bool = True
    asked_for: bool = False


def asked_for(title: str, explanation: str) -> Column:
    """A column that is only there because somebody asked for it."""
    return Column(title, explanation, main=False, asked_for=True)


class RowKind(StrEnum):
    """What made the vectors of a row."""

    PIXELS = "pixels"
    UNTRAINED = "untrained"
    TRAINED = "trained"


@dataclass
class Row:
    """One embedding space and its figures.

    Attributes:
        encoder: Name of the encoder, for people.
        output: ``pixels``, ``feature`` (backbone) or ``embedding`` (after the projection head).
        dimensions: Length of a vector.
        figures: By column name.
        health: What :class:`~s2r2.evaluation.metrics.health.Health` says.
        details: Settings that the protocols chose, such as the probe's strength.
        kind: Whether they are the pixels themselves, of an encoder with random weights, or of one that was trained.
    """

    encoder: str
    output: str
    dimensions: int
    figures: dict[str, Interval] = field(default_factory=dict)
    health: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    kind: RowKind = RowKind.TRAINED

    @property
    def title(self) -> str:
        """Name of the encoder; its embeddings, from behind the projection head, are told apart by ``, head``."""
        return f"{self.encoder}, head" if self.output == "embedding" else self.encoder


@dataclass
class Evaluation:
    """Figures of several embedding spaces on the same images.

    Attributes:
        about: What was evaluated on what.
        columns: The figures by name, in the order in which they are shown.
        rows: The embedding spaces.
        notes: What a reader must know to judge the figures, one sentence each.
        pictures: For the report: rankings and maps, as plain data whose pictures lie beside ``evaluation.json``.
    """

    about: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, Column] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pictures: dict[str, Any] = field(default_factory=dict)

    def row(self, encoder: str, output: str | None = None) -> Row:
        """The row of an encoder; of its backbone where it has two.

        Raises:
            S2R2Error: There is none.
        """
        found = [r for r in self.rows if r.encoder == encoder and output in (None, r.output)]
        if not found:
            raise S2R2Error(f"no row for {encoder!r}: there are {', '.join(r.title for r in self.rows)}")
        return found[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a figure is ``[value, low, high, count]``."""
        rows = [
            {**vars(row), "figures": {name: figure.to_list() for name, figure in row.figures.items()}}
            for row in self.rows
        ]
        columns = {name: vars(column) for name, column in self.columns.items()}
        content = {"version": EVALUATION_VERSION, "about": self.about, "columns": columns, "rows": rows}
        return _finite({**content, "notes": self.notes, "pictures": self.pictures})

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Evaluation":
        """What :meth:`to_dict` described, in this version or an earlier one.

        Raises:
            S2R2Error: A newer version described it.
        """
        content = current_evaluation(content)
        rows = [
            Row(**{**row, "kind": RowKind(row["kind"]), "figures": _intervals(row["figures"])})
            for row in content["rows"]
        ]
        columns = {name: Column(**column) for name, column in content["columns"].items()}
        return cls(content["about"], columns, rows, content["notes"], content["pictures"])

    def save(self, folder: str | Path) -> Path:
        """Write ``evaluation.json`` into the folder; returns its path."""
        run = RunFolder(folder)
        run.write_evaluation(self.to_dict())
        return run.evaluation_file

    @classmethod
    def load(cls, folder: str | Path) -> "Evaluation":
        """Read ``evaluation.json`` from the folder; earlier versions' too.

        Raises:
            S2R2Error: There is none, it cannot be read, or a newer version wrote it.
        """
        run = RunFolder(folder)
        content = run.read_evaluation()
        try:
            return cls.from_dict(content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise S2R2Error(f"cannot read {run.evaluation_file}: run s2r2 evaluate again") from error

    def print(self, console: PlainConsole | None = None) -> None:
        """Show the table in per cent, half the width of the 95 % interval beside each figure."""
        console = console or PlainConsole()
        first = self.about.get("verdict")
        if first:
            console.print(worded(first), style="bold")
        names = [name for name in self.columns if any(name in row.figures for row in self.rows)]
        if console.width >= 34 + 9 * len(names):
            self._print_table(console, names)
        else:
            self._print_table(console, [name for name in names if self.columns[name].main])
            if asked_for := [name for name in names if self.columns[name].asked_for]:
                self._print_table(console, asked_for)
        for row in self.rows:
            if row.health.get("warning"):
                console.print(worded(f"{row.title}: {row.health['warning']}"), style="bold red")
        for note in self.notes:
            if note == first:
                continue
            console.print(worded(note), style="dim")

    def _print_table(self, console: PlainConsole, names: list[str]) -> None:
        apart = " " if console.width >= 30 + 13 * len(names) else "\n"
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("", min_width=10)
        for name in names:
            table.add_column(Text(visible(self.columns[name].title, kept="\n")), justify="right", no_wrap=True)
        for row in self.rows:
            cells = (_cell(row.figures.get(name), apart) for name in names)
            table.add_row(Text(visible(row.title)), *cells)
        console.show(table)


def _intervals(figures: dict[str, Any]) -> dict[str, Interval]:
    return {name: Interval.from_list(values) for name, values in figures.items()}


def _cell(figure: Interval | None, apart: str) -> Text:
    if figure is None:
        return Text("-")
    if not math.isfinite(figure.value):
        return Text("n/a")
    if not math.isfinite(figure.half_width):
        return Text(f"{100 * figure.value:.1f}")
    return Text.assemble(f"{100 * figure.value:.1f}{apart}", (f"±{100 * figure.half_width:.1f}", "dim"))


def _finite(value: Any) -> Any:
    """The same plain data with None for every number that JSON cannot say."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
