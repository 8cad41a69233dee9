"""How far something is: one line on a terminal, for everything that takes longer than a moment."""

from types import TracebackType
from typing import TYPE_CHECKING, Any

from s2r2.system.console import PlainConsole

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class ProgressLine:
    """A bar with the number of things done and the time left; nothing where nobody watches.

    Args:
        what: What is being done, such as ``decoding``.
        total: How many things there are to do.
        done: How many are done already.
        visible: Whether it is wanted. It is shown on terminals only.
        console: Where it is shown; by default standard error, so that output can be piped.
        kept: Whether it stays on the screen afterwards.
    """

    def __init__(
        self,
        what: str,
        total: int,
        *,
        done: int = 0,
        visible: bool = True,
        console: PlainConsole | None = None,
        kept: bool = False,
    ) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if visible and total > done:
            console = console or PlainConsole(stderr=True)
            if console.is_terminal and not console.quiet:
                self._bar, self._task = _bar(what, total, done, console, kept)

    @property
    def shown(self) -> bool:
        """Whether anybody sees it."""
        return self._bar is not None

    def __enter__(self) -> "ProgressLine":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int = 1) -> None:
        """So many more things are done."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, count)

    def update(self, done: int, what: str | None = None, detail: str | None = None) -> None:
        """Show the state.

        Args:
            done: How many things are done.
            what: What is being done now; by default as before.
            detail: Figures to show beside the bar; by default as before.
        """
        if self._bar is not None and self._task is not None:
            changes: dict[str, Any] = {} if detail is None else {"detail": detail}
            self._bar.update(self._task, completed=done, description=what, **changes)


def _bar(what: str, total: int, done: int, console: PlainConsole, kept: bool) -> "tuple[Progress, TaskID]":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, transient=not kept)
    return bar, bar.add_task(what, total=total, completed=done, detail="")


def format_seconds(seconds: float) -> str:
    """A duration for people: ``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
