"""Extras: what pyproject.toml says, what the code knows of it, and the line that names what is missing."""

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest

import s2r2
from s2r2.cli import main
from s2r2.cli.commands import COMMANDS
from s2r2.system.extras import EXTRA_OF_ROOM, EXTRAS, MissingExtraError, require_extra

PYPROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
DECLARED: dict[str, list[str]] = PYPROJECT["project"]["optional-dependencies"]


def distributions(extra: str) -> set[str]:
    """Names of what an extra installs, those of the extras in it too."""
    found: set[str] = set()
    for requirement in DECLARED[extra]:
        others = re.fullmatch(r"s2r2\[(.+)\]", requirement)
        if others:
            found.update(*(distributions(name) for name in others[1].split(",")))
        else:
            found.add(re.match(r"[\w-]+", requirement)[0].lower())  # type: ignore[index]
    return found


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_code_knows_what_an_extra_installs(extra: str) -> None:
    names = importlib.metadata.packages_distributions()
    known = [{name.lower().replace("_", "-") for name in names[module]} for module in EXTRAS[extra]]
    declared = distributions(extra)
    assert all(found & declared for found in known)
    assert len(known) == len(declared)


def test_all_is_every_extra_of_a_user() -> None:
    assert distributions("all") == set().union(*(distributions(extra) for extra in EXTRAS))
    assert {command.extra for command in COMMANDS.values()} <= set(EXTRAS)
    assert set(EXTRA_OF_ROOM.values()) <= set(EXTRAS)


def test_the_core_is_torch_numpy_and_numba() -> None:
    core = {re.match(r"\w+", requirement)[0] for requirement in PYPROJECT["project"]["dependencies"]}  # type: ignore[index]
    assert core == {"torch", "numpy", "numba"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_names_the_extra_it_misses(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = COMMANDS[command].extra
    monkeypatch.setitem(sys.modules, EXTRAS[extra][-1], None)
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 2
    expected = f"s2r2: s2r2 {command} needs {EXTRAS[extra][-1]}: pip install 's2r2[{extra}]'\n"
    assert capsys.readouterr().err == expected


def test_several_missing_packages_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        MissingExtraError, match=r"^it needs onnx, onnxruntime and onnxscript: pip install 's2r2\[export\]'$"
    ):
        require_extra("export", "it")


def test_the_library_names_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(s2r2, "load", raising=False)
    for name in [name for name in sys.modules if name == "s2r2.encoder" or name.startswith("s2r2.encoder.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"s2r2\.load needs timm: pip install 's2r2\[encoder\]'"):
        s2r2.load  # noqa: B018
