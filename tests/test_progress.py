"""The progress line: on terminals, and nowhere else."""

import io

import pytest

from s2r2.system.console import PlainConsole
from s2r2.system.progress import ProgressLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _ordinary_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


def test_says_on_a_terminal_what_is_done_and_how_much() -> None:
    screen = Terminal()
    with ProgressLine("reading [bold]names[/bold]", 40, done=10, console=PlainConsole(file=screen, width=120)) as line:
        line.advance(2)
        line.update(25, detail="loss 0.5000")
    assert line.shown
    assert "reading [bold]names[/bold]" in screen.getvalue()
    assert "25/40" in screen.getvalue()
    assert "loss 0.5000" in screen.getvalue()


@pytest.mark.parametrize(
    ("total", "visible", "screen"), [(40, False, Terminal()), (0, True, Terminal()), (40, True, io.StringIO())]
)
def test_is_silent_where_nobody_watches(total: int, visible: bool, screen: io.StringIO) -> None:
    with ProgressLine("reading", total, visible=visible, console=PlainConsole(file=screen)) as line:
        line.advance()
        line.update(1, "writing")
    assert not line.shown
    assert screen.getvalue() == ""
