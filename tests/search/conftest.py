"""A small index of colored, striped photos, a server of it, and a disk that forgets what was not synced."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import preloaded


def striped(label: int, number: int) -> np.ndarray:
    """A photo whose class is its color and the direction of its stripes."""
    generator = np.random.default_rng(100 * label + number)
    rows, columns = np.mgrid[0:60, 0:80] / 6
    wave = np.sin(rows if label % 2 else columns + generator.uniform(0, 6))
    tint = np.array([(220, 60, 50), (50, 180, 70), (60, 80, 220)][label % 3])
    pixels = tint * (0.7 + 0.25 * wave[..., None]) + generator.normal(0, 8, (60, 80, 3))
    return pixels.clip(0, 255).astype(np.uint8)


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """Three folders of eight photos."""
    folder = tmp_path / "photos"
    for label, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for number in range(8):
            Image.fromarray(striped(label, number)).save(folder / name / f"{number}.jpg", quality=92)
    return folder


@pytest.fixture(scope="session")
def encoder_name() -> str:
    return "untrained:test_resnet"


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address of a server, and the folder of its index; a second index of another encoder is compared."""
    from s2r2.cli import main

    root = tmp_path_factory.mktemp("served")
    for label, name in enumerate(("red", "green", "blue")):
        (root / "photos" / name).mkdir(parents=True)
        for number in range(8):
            Image.fromarray(striped(label, number)).save(root / "photos" / name / f"{number}.jpg", quality=92)
    Image.fromarray(striped(0, 0)).save(root / "photos" / "red" / "again.jpg", quality=92)
    (root / "secret.txt").write_text("not for the page")
    main(["index", "untrained:test_resnet", str(root / "photos"), "--index", str(root / "index")])
    main(["index", "untrained:test_vit", str(root / "photos"), "--index", str(root / "other")])
    with running(root, "--compare", str(root / "other")) as address:
        yield address, root


@pytest.fixture(scope="session")
def behind(served: tuple[str, Path]) -> Iterator[str]:
    """Address of a server that stands behind a proxy, which shows it under /photos."""
    with running(served[1], "--root-path", "/photos", "--allow-host", "photos.localhost") as address:
        yield address


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that signs itself, and its key."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("certificate")
    made = folder / "certificate.pem", folder / "key.pem"
    options = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=photos.localhost"]
    command = [openssl, "req", *options, "-keyout", str(made[1]), "-out", str(made[0])]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return made


@pytest.fixture(scope="session", name="running")
def _running() -> Callable[..., contextlib.AbstractContextManager[str]]:
    return running


@contextlib.contextmanager
def running(root: Path, *options: str) -> Iterator[str]:
    """Address of a server of ``root / "index"``, while it runs."""
    with open(root / "server.log", "a") as log:
        words = ("-m", "s2r2", "serve", root / "index", "--port", "0", *options)
        process = preloaded.start(*words, live=True, stderr=log)
    address = re.search(r"http://\S+?(?=/ )", process.stdout.readline())
    assert address is not None
    try:
        yield address[0]
    finally:
        process.terminate()
        assert process.wait(20) in (0, -15)


class ForgetfulDisk:
    """Remembers what was synced below a folder of this process, and cuts the power at a moment.

    A file's content is what it was at its last fsync, and empty if there was none; a folder's names are what they were
    at its last fsync. That is the worst a journalling file system may do.

    Args:
        folder: All that is on the disk; what is there now is durable.
        monkeypatch: Replaces ``os.fsync``.
        cut: The power fails in place of the sync with this number.
    """

    class PowerCut(BaseException):
        """Nothing runs any more."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, cut: int = -1) -> None:
        self.folder = folder
        self.syncs: list[Path] = []
        self._cut = cut
        self._content: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._held: list[int] = []
        for path in (folder, *folder.rglob("*")):
            self._remember(path)
        self._sync = os.fsync
        monkeypatch.setattr(os, "fsync", self._synced)

    def after_the_cut(self, place: Path) -> None:
        """Put what is left into a new folder."""
        self._restore(os.stat(self.folder).st_ino, place)
        for descriptor in self._held:
            os.close(descriptor)

    def _synced(self, descriptor: int) -> None:
        if len(self.syncs) == self._cut:
            raise self.PowerCut
        self._sync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self.syncs.append(path)
        if self.folder in (path, *path.parents):
            self._remember(path)

    def _remember(self, path: Path) -> None:
        self._held.append(os.open(path, os.O_RDONLY))  # so that its number is not given to another file
        number = os.stat(path).st_ino
        if path.is_dir():
            self._names[number] = {entry.name: self._number(entry.path) for entry in os.scandir(path)}
        else:
            self._content[number] = path.read_bytes()

    def _number(self, path: str) -> int:
        self._held.append(os.open(path, os.O_RDONLY))
        return os.fstat(self._held[-1]).st_ino

    def _restore(self, folder: int, place: Path) -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for name, number in self._names[folder].items():
            if number in self._names:
                self._restore(number, place / name)
            else:  # a folder that was not synced itself would be a file here: worse than empty
                (place / name).write_bytes(self._content.get(number, b""))


@pytest.fixture(scope="session")
def forgetful_disk() -> type[ForgetfulDisk]:
    return ForgetfulDisk
