"""Arguments in messages: in backticks for those who program, as options for those who type commands."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import s2r2
from s2r2.cli.commands import COMMANDS
from s2r2.cli.options import option_names
from s2r2.cli.running import main
from s2r2.errors import ArgumentError
from s2r2.settings.values import Mistakes
from s2r2.system.wording import amount, arguments_shown_as, worded

SOURCE = Path(s2r2.__file__).parent
LIBRARY = [path for path in sorted(SOURCE.rglob("*.py")) if "cli" not in path.relative_to(SOURCE).parts]
ARGUMENT = re.compile(r"`([a-z][a-z0-9_]*)(?:=[^`]*)?`")
COMMAND = re.compile(r"\bs2r2 [a-z]+[^:;,]*")


def test_one_of_a_thing_is_singular() -> None:
    said = [amount(0, "photo"), amount(1, "photo"), amount(1234, "photo"), amount(1.0, "minute"), amount(0.5, "minute")]
    assert said == ["0 photos", "1 photo", "1,234 photos", "1 minute", "0.5 minutes"]
    assert (amount(1, "copy", "copies"), amount(2, "copy", "copies")) == ("1 copy", "2 copies")


def messages(path: Path) -> list[tuple[int, str]]:
    """Line and text of every string of a module that is no docstring; ``{}`` for what is filled in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            found.append((node.lineno, "".join(map(str, parts))))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation | inside:
            found.append((node.lineno, node.value))
    return found


def option_tables() -> dict[str, dict[str, str]]:
    """What each command calls the arguments of the library."""
    modules = {name: __import__(f"s2r2.cli.{command.module}", fromlist=["_"]) for name, command in COMMANDS.items()}
    return {name: option_names(getattr(modules[name], command.options)) for name, command in COMMANDS.items()}


def test_the_library_names_options_only_in_whole_commands() -> None:
    for path in LIBRARY:
        for line, text in messages(path):
            without = COMMAND.sub("", text).replace("without --sparse", "")  # an option of tar
            assert not re.search(r"(?<![\w-])--[a-z][a-z-]+", without), f"{path.relative_to(SOURCE)}:{line}: {text!r}"


def test_every_argument_that_a_message_names_exists() -> None:
    options = set().union(*option_tables().values())
    for path in LIBRARY:
        for line, text in messages(path):
            for name in ARGUMENT.findall(text):
                assert name in options, f"{path.relative_to(SOURCE)}:{line}: no command has an option for {name!r}"


def test_an_argument_is_shown_as_it_is_given() -> None:
    said = "`batch_size=64` is larger; use `recipe='my photos.yaml'` or `rebuild=True`, or leave out `data`"
    assert worded(said) == said
    with arguments_shown_as(option_tables()["train"] | {"rebuild": "--rebuild"}):
        assert (
            worded(said) == "--batch-size 64 is larger; use --recipe 'my photos.yaml' or --rebuild, or leave out DATA"
        )
        assert worded("a file called `nobody` and `ls -l`") == "a file called `nobody` and `ls -l`"
    assert worded(said) == said


def test_a_command_and_python_name_the_same_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from s2r2.training import TrainConfig, train

    with pytest.raises(ValueError, match=r"^`image_size` is 4: use at least 8 pixels") as raised:
        train(tmp_path, TrainConfig(image_size=4))
    assert isinstance(raised.value, ArgumentError)
    with pytest.raises(SystemExit):
        main(["train", str(tmp_path), "--image-size", "4", "--views", "1"])
    first, *each = capsys.readouterr().err.splitlines()
    assert first == "s2r2: 2 mistakes:"
    assert {line.split(" is ")[0] for line in each} == {"  --image-size", "  --views"}
    assert worded("`views`") == "`views`"


def test_a_file_of_settings_has_keys() -> None:
    mistakes = Mistakes("study.yaml")
    mistakes.add_error(("methods", "a"), ArgumentError("`batch_size=64` and `options` do not fit"))
    assert mistakes.found == ["study.yaml: methods.a: batch_size: 64 and options do not fit"]


def test_arguments_of_other_names_have_an_option() -> None:
    from s2r2.search import serve, update_index
    from s2r2.study import compare

    names = option_tables()
    assert names["index"]["folder"] == "--index"
    assert names["serve"]["allow_hosts"] == "--allow-host"
    assert names["compare"]["trust_methods"] == "--trust-method"
    for function, argument in ((update_index, "folder"), (serve, "allow_hosts"), (compare, "trust_methods")):
        assert argument in inspect.signature(function).parameters
