"""A case: the state that makes a message, and the remedy that the message names, performed there."""

import contextlib
import functools
import io
import re
import shlex
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from s2r2.cli import main
from s2r2.encoder import Encoder, load
from s2r2.errors import S2R2Error
from s2r2.search import update_index
from s2r2.training import TrainConfig, train

SETTINGS: dict[str, Any] = {
    "backbone": "test_resnet", "image_size": 32, "views": 2, "batch_size": 8, "epochs": 1, "recipe": "photos",
    "head_hidden": 16, "embedding_dimensions": 8, "threads": 1, "device": "cpu", "check_every": 0,
}  # fmt: skip


class Case(NamedTuple):
    """What :func:`case` enters."""

    piece: str
    wrong: Callable[["State"], Any]
    right: Callable[["State", str], Any]
    slow: bool


CASES: list[Case] = []


def case(
    piece: str, wrong: Callable[["State"], Any], right: Callable[["State", str], Any], *, slow: bool = False
) -> None:
    """Enter a case.

    Args:
        piece: A distinctive piece of the message as it stands in the source, ``{}`` for what is filled in.
        wrong: Makes the state, and the message: raises it, prints it, warns, or returns it.
        right: Performs the remedy in the same state, with the message at hand, and fails if that does not help.
        slow: It takes seconds.
    """
    CASES.append(Case(piece, wrong, right, slow))


class Shared:
    """What the cases start from, made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @functools.cached_property
    def photos(self) -> Path:
        """Sixteen small photos in two folders, ``a`` and ``b``."""
        for number in range(16):
            name = self.folder / "photos" / "ab"[number % 2] / f"{number:02d}.png"
            name.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise(number)).save(name)
        return self.folder / "photos"

    @functools.cached_property
    def run(self) -> Path:
        """A finished run of two steps."""
        train(self.photos, TrainConfig(**SETTINGS), out=self.folder / "run", quiet=True)
        return self.folder / "run"

    @functools.cached_property
    def encoder(self) -> Encoder:
        return load("untrained:test_resnet", device="cpu")

    @functools.cached_property
    def index(self) -> Path:
        from s2r2.images import open_source

        update_index(self.encoder, open_source(str(self.photos)), self.folder / "index", progress=False)
        return self.folder / "index"


@dataclass
class State:
    """A place of one case's own.

    Attributes:
        shared: Must be left as it is.
        tmp: An empty folder.
        patch: Undone at the end of the case.
        kept: What the first half leaves for the second.
    """

    shared: Shared
    tmp: Path
    patch: pytest.MonkeyPatch
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def photos(self) -> Path:
        """A copy of the photos, to be spoiled."""
        return self._copy(self.shared.photos)

    @property
    def run(self) -> Path:
        return self._copy(self.shared.run)

    @property
    def index(self) -> Path:
        return self._copy(self.shared.index)

    def _copy(self, folder: Path) -> Path:
        copy = self.tmp / folder.name
        if not copy.exists():
            shutil.copytree(folder, copy, symlinks=True)
        return copy

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file into the empty folder."""
        path = self.tmp / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def said(self, wrong: Callable[["State"], Any]) -> str:
        """All that is raised, returned, warned of and printed."""
        out, parts = io.StringIO(), []
        with (
            warnings.catch_warnings(record=True) as warned,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(out),
        ):
            warnings.simplefilter("always")
            try:
                parts.append(wrong(self))
            except S2R2Error as error:
                parts.append(error)
        return "\n".join([*map(str, parts), *(str(warning.message) for warning in warned), out.getvalue()])


def noise(seed: int, side: int = 40) -> np.ndarray:
    """Pixels ``(side, side, 3)`` of coarse noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(pixels).resize((side, side)))


def command(*words: object) -> str:
    """Run the command line in this process; what it prints. A refusal is raised as the line that it is."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in words])
        except SystemExit as left:
            if left.code == 2:
                raise S2R2Error(err.getvalue().strip()) from None
            if left.code:
                raise
    return out.getvalue() + err.getvalue()


def small(data: object, *words: object) -> list[object]:
    """Words of a training of one step."""
    options = (f"--{name.replace('_', '-')}" for name in SETTINGS)
    settings = [word for pair in zip(options, SETTINGS.values(), strict=True) for word in pair]
    return ["train", data, *settings, "--steps", 1, *words]


def named(pattern: str, said: str) -> str:
    """What a message names: the group of the pattern in it."""
    found = re.search(pattern, said, re.MULTILINE)
    assert found is not None, said
    return found[1]


def choices(said: str) -> list[str]:
    """What a message offers in a list behind ``use``, ``choose`` or ``one of``."""
    listed = re.split(r"\b(?:use|choose one of|choose|one of)\b", said)[-1].split("\n")[0]
    return [word.strip(" '\"=.") for word in re.split(r",|\bor\b|\band\b", listed) if word.strip(" '\".")]


def named_command(said: str) -> list[str]:
    """The words of the ``s2r2`` command in a message, without ``s2r2``."""
    found = re.search(r"(?:^|(?<=[\s(:]))s2r2 ((?!:)[a-z]+ .*|[a-z]+)$", said, re.MULTILINE)
    assert found is not None, said
    return shlex.split(found[1].strip())
