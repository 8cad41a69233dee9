"""While mkdocs builds the site: the pages of the reference, from the code; links that lead out of docs become text."""

import contextlib
import importlib
import io
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from s2r2.cli import main
from s2r2.cli.commands import COMMANDS

REPOSITORY = Path(__file__).resolve().parent.parent
ROOMS = ("encoder", "evaluation", "images", "losses", "search", "study", "training", "views")


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    files.append(File.generated(config, "reference/commands.md", content=commands_page()))
    for room in ROOMS:
        files.append(File.generated(config, f"reference/{room}.md", content=room_page(room)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Print the examples that a page includes. The site holds no source files: a link to one becomes its text."""
    markdown = re.sub(r"<!-- include (\S+\.py) -->", lambda found: f"```python\n{_example(found[1])}```", markdown)
    return re.sub(r"\[([^\]]*)\]\(\.\./[^)]*\)", r"\1", markdown)


def _example(path: str) -> str:
    return (REPOSITORY / path).read_text(encoding="utf-8")


def commands_page() -> str:
    """What ``s2r2 COMMAND --help`` prints, for every command."""
    sections = [f"## s2r2 {name}\n\n```text\n{help_text(name)}```\n" for name in COMMANDS]
    return "# Commands\n\n" + "\n".join(sections)


def help_text(command: str) -> str:
    """The help of one command at a fixed width, without colours."""
    output = io.StringIO()
    before = {name: os.environ.get(name) for name in ("COLUMNS", "NO_COLOR")}
    os.environ.update(COLUMNS="100", NO_COLOR="1")
    try:
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            main([command, "--help"])
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    return output.getvalue().strip("\n") + "\n"


def room_page(room: str) -> str:
    """One entry for each name that a room offers."""
    module = importlib.import_module(f"s2r2.{room}")
    entries = [f"::: s2r2.{room}.{name}\n" for name in module.__all__]
    return f"# s2r2.{room}\n\n{module.__doc__}\n\n" + "\n".join(entries)
