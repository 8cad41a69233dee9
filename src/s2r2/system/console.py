"""Tables, colors and bars on a terminal, by rich: for text that may come from strangers, as in ``terminal``."""

from typing import IO, Any

from rich.console import Console, RenderableType
from rich.text import Text

from s2r2.system.terminal import fitting, visible

NEVER_FOLDED = 1 << 14
"""Columns of what is no terminal: a path in a pipe or a file stays on one line."""


class _Stream:
    """A stream that no character ends."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._stream.write(fitting(text, getattr(self._stream, "encoding", None)))


class PlainConsole(Console):
    """A console for text that is not ours: no markup, no emoji codes, no guessed colors; control characters shown.

    Args:
        stderr: Speak there instead of stdout.
        quiet: Say nothing.
        file: Speak there instead.
        width: Columns; by default the terminal's, and without one so many that nothing is folded.
    """

    def __init__(
        self, *, stderr: bool = False, quiet: bool = False, file: IO[str] | None = None, width: int | None = None
    ) -> None:
        super().__init__(stderr=stderr, quiet=quiet, file=file, width=width, markup=False, emoji=False, highlight=False)
        if width is None and not self.is_terminal:
            self.width = NEVER_FOLDED

    @property
    def file(self) -> IO[str]:
        """Where it speaks."""
        return _Stream(super().file)  # type: ignore[return-value]

    @file.setter
    def file(self, new: IO[str]) -> None:
        self._file = new

    def render_str(self, text: str, **options: Any) -> Text:
        """The text of a line, a cell or a title."""
        return super().render_str(visible(text, kept="\n"), **options)

    def say(self, line: object, style: str = "") -> None:
        """Print one line, not folded."""
        self.print(Text(visible(line)), style=style or None, soft_wrap=True)

    def show(self, table: RenderableType) -> None:
        """Print a table, without the blanks at the ends of its lines where it goes into a file."""
        if self.is_terminal:
            self.print(table)
            return
        with self.capture() as captured:
            self.print(table)
        for line in captured.get().splitlines():
            self.print(Text(line.rstrip()), soft_wrap=True)
