"""Which commands there are. Only the module of the one that is called is imported, and only its options are parsed."""

import argparse
import contextlib
import difflib
import importlib
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from s2r2._version import __version__
from s2r2.errors import S2R2Error
from s2r2.settings.renamed import RENAMED, with_current_options
from s2r2.system.extras import require_extra
from s2r2.system.terminal import say

_POINTERS = ("For full helptext", "Argument helptext")
DESCRIPTION = "Train an image encoder on unlabeled photos by ranking (S2R2), evaluate it, and search photos with it."


class Options(Protocol):
    """Options of a command, as they were given."""

    def execute(self, words: Sequence[str]) -> None:
        """Do it.

        Args:
            words: The command line that the options were read from, to repeat in other processes.
        """


class Command(NamedTuple):
    """A command.

    Attributes:
        module: The module of this package that has its options.
        options: Their class there.
        extra: What has to be installed for it, as in ``pip install 's2r2[EXTRA]'``.
        summary: What it does.
        renamed: Former names of its options, and what they are called now.
    """

    module: str
    options: str
    extra: str
    summary: str
    renamed: Mapping[str, str] = MappingProxyType({})


COMMANDS = {
    "train": Command("training_commands", "Train", "train", "Train an encoder on photos, without labels.", RENAMED),
    "methods": Command(
        "training_commands",
        "Methods",
        "train",
        "List the training methods with their defaults and options.",
    ),
    "evaluate": Command(
        "evaluation_commands",
        "Evaluate",
        "train",
        "Evaluate an encoder on images it has not seen, beside raw pixels and the untrained encoder.",
    ),
    "protocols": Command(
        "evaluation_commands",
        "Protocols",
        "train",
        "List the evaluation protocols of s2r2 evaluate and of studies.",
    ),
    "compare": Command(
        "evaluation_commands",
        "Compare",
        "study",
        "Compare methods at equal budgets, with several seeds and intervals; the same command continues a study.",
    ),
    "embed": Command("embedding_commands", "Embed", "search", "Write the vectors of photos to a table."),
    "index": Command(
        "search_commands",
        "Index",
        "search",
        "Make a searchable index of photos, or update it: only new and changed photos are embedded.",
        {"store": "index"},
    ),
    "search": Command("search_commands", "Search", "search", "Find the photos that are most similar to a query photo."),
    "refine": Command(
        "search_commands",
        "Refine",
        "train",
        "Learn from results marked on the page, or from labels, to rank better: a second index, in seconds.",
    ),
    "duplicates": Command(
        "search_commands",
        "Duplicates",
        "search",
        "Find copies: photos saved twice, recompressed, resized, cropped, recolored or mirrored.",
    ),
    "serve": Command("search_commands", "Serve", "serve", "Serve a search page for the browser, until Ctrl-C."),
    "export": Command(
        "photo_commands",
        "Export",
        "encoder",
        "Export an encoder for programs without s2r2, with a model card.",
    ),
    "views": Command(
        "photo_commands",
        "Views",
        "encoder",
        "Save a picture of what the encoder will see: photos and random views of them.",
    ),
    "frames": Command(
        "photo_commands",
        "Frames",
        "video",
        "Photos from videos: a picture of every second, those of a video as one sequence.",
    ),
    "cache": Command(
        "photo_commands",
        "Cache",
        "encoder",
        "List or delete what is cached on disk, such as decoded photos.",
    ),
}


def with_current_names(words: Sequence[str]) -> list[str]:
    """The words of a command line, former names of options replaced by what they are called now."""
    command = COMMANDS.get(words[0]) if words else None
    return with_current_options(words, command.renamed) if command else list(words)


def parse(words: Sequence[str]) -> Options | None:
    """The options of the command that the words call; None if they ask for something that is printed here.

    Raises:
        S2R2Error: There is no such command, or a package that it needs is not installed.
        SystemExit: Help was printed, or an option is wrong, and the parser has said so.
    """
    name, *rest = words or ["--help"]
    if name in ("-h", "--help"):
        print_overview()
        return None
    if name == "--version":
        say(f"s2r2 {__version__}")
        return None
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose {', '.join(COMMANDS)}"
        raise S2R2Error(f"there is no command {name}: {hint}")
    command = COMMANDS[name]
    require_extra(command.extra, f"s2r2 {name}")
    return parse_options(name, command, rest)


def parse_options(name: str, command: Command, words: Sequence[str]) -> Options:
    """The options of a command, or its help."""
    import tyro

    from s2r2.cli.options import REGISTRY, required_options, with_plain_defaults

    kind: type[Options] = getattr(importlib.import_module(f"{__package__}.{command.module}"), command.options)
    helps = not {"-h", "--help"}.isdisjoint(words)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.nullcontext() if helps else _unfolded():
            made: Options = tyro.cli(
                with_plain_defaults(kind) if helps else kind,
                prog=" ".join(["s2r2", name, *(required_options(kind) if helps else ())]),
                description=command.summary,
                args=words,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
                registry=REGISTRY,
            )
    except SystemExit as ended:
        if ended.code == 0 or not said.getvalue():
            raise
        raise S2R2Error(f"{name}: {_in_one_line(said.getvalue())}; see s2r2 {name} --help") from None
    return made


@contextlib.contextmanager
def _unfolded() -> Iterator[None]:
    """A terminal so wide that tyro breaks nothing that the user wrote."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100000"
    try:
        yield
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before


def _in_one_line(box: str) -> str:
    """What tyro says in a box of several lines, less its title and its pointers to the help."""
    lines = [" ".join(part.split()) for part in re.split("[─-]{5,}", re.sub("[╭╮╰╯│]", " ", box).partition("\n")[2])]
    said = "; ".join(line.rstrip(".") for line in lines if line and not line.startswith(_POINTERS))
    start = re.match(r"Missing from s2r2 \w+: ", said)
    if start is None:
        said = re.sub(r"invalid literal for int\(\) with base 10: ('.*?')", r"\1 is no whole number", said)
        said = re.sub(r"could not convert string to float: ('.*?')", r"\1 is no number", said)
        # None stands for an option that is left out; the choices are in any order.
        return re.sub(r"Expected one of \(.*\)", lambda m: re.sub("'None', |, 'None'", "", m[0]), said)
    return f"missing {', '.join(re.findall(r'(?:^|[)] )(--[^ ]+ [^ ]+|[^ ]+)', said[start.end() :]))}"


def print_overview() -> None:
    """Help without a command: what commands there are. It needs none of the extras."""
    parser = argparse.ArgumentParser(prog="s2r2", usage="s2r2 [-h] [--version] COMMAND ...", description=DESCRIPTION)
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    commands: Any = parser.add_subparsers(title="commands (s2r2 COMMAND --help has the options)", metavar="")
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.summary)
    for line in parser.format_help().splitlines():
        say(line)
