"""What is printed: never parsed, never folded, on any terminal."""

import csv
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from s2r2.errors import MistakesError, S2R2Error
from s2r2.system import terminal
from s2r2.system.console import PlainConsole


def terminal_stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")


def written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode(stream.encoding)


ODD = {
    "a [/b].jpg": "a [/b].jpg",
    "[red]x.jpg": "[red]x.jpg",
    ":cat:.jpg": ":cat:.jpg",
    "\x1b[31m\x07.jpg": "\\x1b[31m\\x07.jpg",
    "a\nb\rc\td": "a\\nb\\rc\\td",
    "\x9b2J": "\\x9b2J",
    "caf\udce9": "caf\\xe9",
    "\u202egpj.exe": "\\u202egpj.exe",
    "a\u2028b": "a\\u2028b",
    "Ärger 猫 👩‍🌾": "Ärger 猫 👩‍🌾",
}


@pytest.mark.parametrize("name", ODD)
def test_names_are_shown_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say(name)
    PlainConsole().say(name)
    assert capsys.readouterr().out == f"{ODD[name]}\n" * 2


@pytest.mark.parametrize("name", [name for name in ODD if "\n" not in name])
def test_cells_of_a_table_too(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(name, title=name)
    table.add_row(name)
    PlainConsole().show(table)
    assert capsys.readouterr().out.count(ODD[name]) == 3


def test_nothing_is_folded_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/a folder of mine/" * 40
    table = Table("path", "score")
    table.add_row(path, "0.5")
    PlainConsole().show(table)
    PlainConsole().say(path)
    assert [line.count(path) for line in capsys.readouterr().out.splitlines() if "folder" in line] == [1, 1]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_no_encoding_ends_it(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for speak in (terminal.say, lambda line: PlainConsole().say(line)):
        stream = terminal_stream(encoding)
        monkeypatch.setattr("sys.stdout", stream)
        speak("0.5 ± 0.1 … 猫")
        fallback = {"ascii": "0.5 +- 0.1 ... \\u732b\n", "cp1252": "0.5 ± 0.1 … \\u732b\n"}
        assert written(stream) == fallback.get(encoding, "0.5 ± 0.1 … 猫\n")


CELLS = [
    "=1+1",
    "+1 cat",
    "-cat.jpg",
    "@sum",
    "\tx",
    "\r=x",
    " =x",
    "'=x",
    "''=x",
    "'x",
    "-1.5",
    "1e-3",
    "a=b",
    "＝1",
    "",
]


def test_cells_that_a_spreadsheet_would_run(tmp_path: Path) -> None:
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerow(map(terminal.csv_safe, CELLS))
    with open(tmp_path / "a.csv", newline="") as file:
        read = next(csv.reader(file))
    assert [terminal.csv_plain(cell) for cell in read] == CELLS
    assert all(cell.lstrip()[:1] not in ("=", "+", "@", "＝") and cell[:1] not in ("\t", "\r") for cell in read)
    assert "-1.5" in read
    assert "'-cat.jpg" in read
    assert terminal.csv_safe(-1.5) == -1.5


def test_a_mistake_is_one_line_whatever_it_quotes() -> None:
    assert str(S2R2Error("no column path (it has a\nb)")) == "no column path (it has a\\nb)"
    several = MistakesError(["2 mistakes:", "a\nb", "c"])
    assert str(several) == "2 mistakes:\n  a\\nb\n  c"
    assert several.lines[1] == "a\\nb"


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_reader_that_has_seen_enough_ends_it_in_silence() -> None:
    code = "import sys, time; from s2r2.cli import main; sys.stdin.read(); main(['--help'])"
    command = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert command.stdout is not None
    command.stdout.close()
    command.stdout = None
    assert command.communicate()[1] == b""
    assert command.returncode == 141


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_an_evaluation_is_printed_on_any_terminal(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from s2r2.evaluation.result import Column, Evaluation, Interval, Row

    row = Row("[red]a\x1b猫", "feature", 8, {"map": Interval(0.5, 0.4, 0.6)}, {"warning": "[/b] collapsed"})
    evaluation = Evaluation(columns={"map": Column("mAP", "")}, rows=[row], notes=["a note [bold]"])
    stream = terminal_stream(encoding)
    monkeypatch.setattr("sys.stdout", stream)
    evaluation.print()
    said = written(stream)
    assert "[red]a\\x1b\\u732b" in said
    assert "[/b] collapsed" in said
    assert "a note [bold]" in said
    assert {"ascii": "+-10.0", "cp1252": "±10.0"}[encoding] in said


def test_nothing_else_prints() -> None:
    """What is shown goes through terminal.py: no other console, no bare print of anything but what is fixed."""
    root = Path(terminal.__file__).parents[1]
    for path in root.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name not in ("terminal.py", "console.py", "__main__.py"):
            assert not re.search(r"(?<!Plain)Console\(", text), path
            assert not re.search(r"(?<![\w.])print\((?!timm)", text.replace("def print(", "")), path
