"""The register of sources: a kind of data is one file, and whatever lists the kinds lists it."""

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s2r2.cli import main
from s2r2.errors import S2R2Error
from s2r2.images import ArraySource, Data, ImageSource, PixelStore, open_source, register_source, source_kinds
from s2r2.images.sources import kinds, register

ROOT = Path(__file__).parents[2]
NEW_KIND = '''
"""Photos that a text file lists, a path in each line."""

from s2r2.errors import S2R2Error
from s2r2.images.sources.source import FileSource
from s2r2.images.sources.register import Data, register_source


@register_source("a list of files (.txt)", "photos.txt, a path in each line", parts="odd, even")
def open_list(data: Data):
    if data.path.suffix != ".txt" or not data.path.is_file():
        return None
    names = data.path.read_text().split()
    if data.part:
        if data.part not in ("odd", "even"):
            raise S2R2Error(f"{data.place} has no part {data.part}: use odd or even")
        names = names[data.part == "odd" :: 2]
    paths = [str(data.path.parent / name) for name in names]
    return FileSource(data.path.name, names, paths, None, identity=str(data.path.resolve()))
'''


@pytest.fixture
def _own_register(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is forgotten after it."""
    source_kinds()
    monkeypatch.setattr(register, "_registered", dict(register._registered))
    register.load_plugins.cache_clear()
    yield
    register.load_plugins.cache_clear()


@pytest.mark.usefixtures("_own_register")
def test_a_new_kind_is_one_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds" / "list_of_files.py").write_text(NEW_KIND)
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(tmp_path / "kinds")])
    for number in range(3):
        Image.new("RGB", (8, 8), (100 * number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "photos.txt").write_text("0.png\n1.png\n2.png\n")

    source = open_source(tmp_path / "photos.txt")
    assert list(source.keys) == ["0.png", "1.png", "2.png"]
    assert PixelStore.build(source, None, tmp_path / "stores", progress=False)[1][0, 0].tolist() == [100, 0, 0]
    assert list(open_source(f"{tmp_path}/photos.txt:odd").keys) == ["1.png"]
    with pytest.raises(S2R2Error, match="no part third: use odd or even"):
        open_source(f"{tmp_path}/photos.txt:third")

    with pytest.raises(S2R2Error, match=r"give .*, a list of files \(\.txt\), .*STL-10"):
        open_source(tmp_path / "nothing")
    with pytest.raises(S2R2Error, match=r"a list of files \(\.txt\): odd, even"):
        open_source(f"{tmp_path}:odd")
    monkeypatch.delitem(sys.modules, "s2r2.cli.training_commands", raising=False)  # its help was made when it came
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert (
        "The photos: a .tar, a folder of photos, a folder or manifest at an address, a list of files (.txt)," in shown
    )


@pytest.mark.usefixtures("_own_register")
def test_a_program_registers_a_kind_of_its_own() -> None:
    @register_source("noise", "noise", built_in=["noise"])
    def open_noise(data: Data) -> ImageSource | None:
        return ArraySource("noise", np.zeros((3, 8, 8), np.uint8), None) if data.name == "noise" else None

    assert len(open_source("noise")) == 3
    with pytest.raises(S2R2Error, match="did you mean noise"):
        open_source("noize")


@pytest.mark.usefixtures("_own_register")
def test_installed_packages_add_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an entry point of the group ``s2r2.sources``; one that cannot be loaded is named."""
    (tmp_path / "lists_for_s2r2.py").write_text(NEW_KIND)
    monkeypatch.syspath_prepend(tmp_path)
    found = [importlib.metadata.EntryPoint("lists", "lists_for_s2r2", register.ENTRY_POINTS)]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found if group == "s2r2.sources" else [])
    assert "a list of files (.txt)" in [kind.name for kind in source_kinds()]
    register.load_plugins.cache_clear()
    found.append(importlib.metadata.EntryPoint("gone", "no_such_module", register.ENTRY_POINTS))
    with pytest.raises(S2R2Error, match=r"the plugin no_such_module cannot be loaded .*: update or uninstall it"):
        open_source("digits")


def test_the_docs_list_every_kind() -> None:
    """And how each is written, and its parts, as it says itself."""
    text = (ROOT / "docs" / "training.md").read_text()
    for kind in source_kinds():
        assert f"| {kind.name} | {kind.written} | {kind.parts} |" in text


def test_kinds_are_registered_without_heavy_imports() -> None:
    """Help that lists them must not wait for torch, scikit-learn or pyarrow."""
    program = (
        "import sys; from s2r2.images.sources.register import source_kinds; source_kinds();"
        "print([name for name in ('torch', 'sklearn', 'pyarrow', 'torchvision', 'fsspec') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
