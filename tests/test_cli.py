"""The command line as a user meets it: wrong use, one clear line; in processes of their own where that is the point."""

import dataclasses
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import s2r2 as s2r2_package
from s2r2.cli import main
from s2r2.cli.commands import COMMANDS
from s2r2.errors import SharedError
from s2r2.training import TrainConfig


def s2r2(
    *arguments: str | Path, cwd: Path | None = None, timeout: float = 240, largest_file: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the real command; no file may grow beyond ``largest_file`` bytes, as on a disk that fills up."""

    def limited() -> None:
        if largest_file is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    command = [sys.executable, "-m", "s2r2", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, timeout=timeout, check=False, preexec_fn=limited
    )


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """The single line of an expected refusal; fails on a traceback or another exit code."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    return lines[0]


Refuse = Callable[..., str]


@pytest.fixture
def refuse(capfd: pytest.CaptureFixture[str]) -> Refuse:
    """Run the command in this process, which spares the start of Python, and return the line of its refusal."""

    def run(*arguments: str | Path) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main([*map(str, arguments)])
        code = left.value.code
        assert isinstance(code, int)
        return one_line(subprocess.CompletedProcess(arguments, code, *capfd.readouterr()))

    return run


@pytest.fixture
def photos_of_noise(tmp_path: Path) -> Path:
    """A folder of twelve small images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("arguments", [[], ["--help"], ["index", "--help"], ["serve", "--help"]])
def test_help_is_quick_because_it_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys\nfrom s2r2.cli import main\ntry: main({arguments})\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'lancedb', 'timm', 'sklearn', 'matplotlib', 'numba', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        f"assert {'index' in arguments or 'serve' in arguments} or 'tyro' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert all(word in result.stdout for word in (["usage"] if arguments[1:] else COMMANDS))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert not left.value.code
    said = capsys.readouterr().out
    assert f"usage: s2r2 {command}" in said
    assert COMMANDS[command].summary[:30] in said
    assert not re.search(r"\(default:\s+(None|''|False|)\)", said)  # what happens then is said in words
    shown = {"train": "(default: resnet18)", "search": "(default: 10)", "embed": "(default: 64)"}
    assert shown.get(command, "") in said


def test_required_options_stand_in_the_line_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for command, words in (("index", "--index DIR"), ("evaluate", "--test DATA"), ("export", "--out PATH")):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert words in capsys.readouterr().out.splitlines()[0]


def test_settings_of_training_are_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = capsys.readouterr().out
    assert re.findall(r"(\w+) options +[─\n]", said) == [
        "data",
        "views",
        "method",
        "optimization",
        "device",
        "output",
    ]
    for setting in dataclasses.fields(TrainConfig):
        assert f"--{setting.name.replace('_', '-')} " in said


def test_an_unknown_command(refuse: Refuse) -> None:
    assert refuse("trian") == "s2r2: there is no command trian: did you mean train?"
    assert "choose train, methods" in refuse("xyz")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"s2r2 {s2r2_package.__version__}\n"


def test_missing_folder(tmp_path: Path) -> None:
    assert "nowhere" in one_line(s2r2("train", tmp_path / "nowhere", "--out", tmp_path / "run"))


def test_empty_folder(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in refuse("train", tmp_path / "empty", "--out", tmp_path / "run")


def test_one_view(refuse: Refuse, photos_of_noise: Path, tmp_path: Path) -> None:
    assert "--views" in refuse("train", photos_of_noise, "--views", "1", "--out", tmp_path / "run")


def test_unknown_backbone_suggests_near_matches(refuse: Refuse, photos_of_noise: Path, tmp_path: Path) -> None:
    line = refuse("train", photos_of_noise, "--backbone", "resnet81", "--out", tmp_path / "run")
    assert "resnet18" in line


def test_unknown_recipe(refuse: Refuse, photos_of_noise: Path, tmp_path: Path) -> None:
    assert "documents" in refuse("train", photos_of_noise, "--recipe", "document", "--out", tmp_path / "run")


def test_batch_larger_than_the_data(refuse: Refuse, photos_of_noise: Path, tmp_path: Path) -> None:
    line = refuse("train", photos_of_noise, "--batch-size", "13", "--out", tmp_path / "run")
    assert "12" in line
    assert "--batch-size" in line


def test_run_folder_that_exists(refuse: Refuse, photos_of_noise: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "something").write_text("kept")
    line = refuse("train", photos_of_noise, "--batch-size", 4, "--out", run)
    assert "not empty (something)" in line
    assert (run / "something").read_text() == "kept"


def test_resume_without_a_run(refuse: Refuse, photos_of_noise: Path, tmp_path: Path) -> None:
    assert "config.yaml" in refuse("train", photos_of_noise, "--resume", "--out", tmp_path / "none")


def test_run_folder_that_cannot_be_made(refuse: Refuse, photos_of_noise: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert "file" in refuse("train", photos_of_noise, "--batch-size", 4, "--out", tmp_path / "file" / "run")


@pytest.mark.slow
def test_a_disk_that_fills_up_while_training(photos_of_noise: Path, tmp_path: Path) -> None:
    small = ("--backbone", "test_resnet", "--image-size", "32", "--views", "2", "--batch-size", "4", "--epochs", "1")
    result = s2r2("train", photos_of_noise, *small, "--out", tmp_path / "run", largest_file=1 << 20)
    line = one_line(result)
    assert "cannot write" in line
    assert "free space" in line
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_a_read_only_folder(refuse: Refuse, photos_of_noise: Path) -> None:
    assert "cannot write to run folder" in refuse("train", photos_of_noise, "--batch-size", "4", "--out", "/proc/run")


def test_no_cuda_device_here(refuse: Refuse, photos_of_noise: Path, tmp_path: Path) -> None:
    line = refuse("train", photos_of_noise, "--device", "cuda:99", "--out", tmp_path / "run")
    assert "--device" in line


def test_export_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", "untrained:test_resnet", "--out", str(tmp_path / "x.safetensors")])
    assert (tmp_path / "x.safetensors").is_file()
    assert (tmp_path / "x.safetensors.README.md").is_file()
    assert "differs from the original by" in capsys.readouterr().out


def test_export_under_a_wrong_name(refuse: Refuse, tmp_path: Path) -> None:
    line = refuse("export", "untrained:test_resnet", "--format", "onnx", "--out", tmp_path / "x.bin")
    assert ".onnx" in line


def test_what_another_process_says_is_not_said_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shared(_: object) -> None:
        raise SharedError("the disk is full")

    monkeypatch.setattr("s2r2.cli.running.LAST_WORDS", 0.0)
    monkeypatch.setattr("s2r2.cli.running.parse", shared)
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 2
    assert not capsys.readouterr().err


def test_methods_without_docstrings(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``python -OO`` has them."""
    from s2r2.training.methods import describe_methods, registry

    with monkeypatch.context() as patch:
        patch.setattr(registry.inspect.getmodule(registry.METHODS["simclr"]), "__doc__", None)
        patch.setattr(registry.inspect, "getdoc", lambda _: None)
        assert "simclr\n" in describe_methods()


def test_a_full_disk_behind_what_is_printed_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("s2r2.cli.running.parse", full)
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert capsys.readouterr().err.startswith("s2r2: what is printed: No space left on device")


def test_a_program_that_calls_main_starts_s2r2_with_its_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with those of the program."""
    given: list[list[str]] = []
    monkeypatch.setattr("sys.argv", ["program", "--its-own"])
    monkeypatch.setattr(
        "s2r2.cli.training_commands.launch_if_wanted", lambda arguments, *_: given.append(list(arguments))
    )
    monkeypatch.setattr("s2r2.training.train", lambda *_, **__: sys.exit(0))
    arguments = ["train", "photos", "--devices", "2"]
    with pytest.raises(SystemExit):
        main(arguments)
    assert given == [arguments]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["search", "x", "y", "--kk", "3"], "Unrecognized options: --kk, 3; Perhaps you meant: -k, --k INT"),
        (["search", "x", "y", "--kk", "long/" * 40], f"Unrecognized options: --kk, {'long/' * 40}"),
        (["search"], "s2r2: search: missing INDEX; see s2r2 search --help"),
        (
            ["index", "a", "b", "--index", "c", "--precision", "half"],
            "s2r2: index: invalid choice 'half' for argument '--precision'. Expected one of (",
        ),
        (
            ["search", "x", "y", "-k", "three"],
            "'three' is no whole number; see s2r2 search --help",
        ),
        (["search", "x", "y", "--megapixels-from", "a few"], "'a few' is no number; see"),
        (["search", "x", "y", "-k"], "Missing value for argument '-k/--k'"),
    ],
)
def test_wrong_options_are_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    line = capsys.readouterr().err
    assert ended.value.code == 2
    assert line.startswith(f"s2r2: {words[0]}: ")
    assert line.count("\n") == 1
    assert said in line
    assert "None" not in line
