"""The image of the Dockerfile: photos are indexed and the page is served until the image's health check is content.

Where nothing builds images, the same with the packages and commands that the Dockerfile names, in an empty environment.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
INDEX = ["index", "untrained:test_resnet", "/photos", "--index", "photos.index"]
SECONDS_TO_HEALTH = 240


def words(instruction: str) -> list[str]:
    """The words of an instruction that is a list of them."""
    found = re.search(rf"^{instruction} (?:.*CMD )?(\[.*\])$", DOCKERFILE.replace("\\\n", ""), re.MULTILINE)
    assert found, instruction
    return json.loads(found[1])  # type: ignore[no-any-return]


def draw(folder: Path) -> None:
    """Photos of noise."""
    from PIL import Image

    folder.mkdir()
    for number in range(6):
        Image.effect_noise((96, 64), 40 + 20 * number).convert("RGB").save(folder / f"{number}.jpg")


def wait_for_health(healthy: Callable[[], bool], ended: Callable[[], bool]) -> None:
    """Come back when a server is healthy; exit with a line if it has ended, or is not in time."""
    until = time.monotonic() + SECONDS_TO_HEALTH
    while not healthy():
        if ended() or time.monotonic() > until:
            sys.exit("the server ended or did not become healthy")
        time.sleep(1)


def can_build() -> bool:
    """Whether images are built here: a Docker that answers, and has or can get the image that ours begins with."""
    base = re.search(r"^FROM (\S+)$", DOCKERFILE, re.MULTILINE)
    assert base
    try:
        return all(
            subprocess.run(["docker", *words], capture_output=True, timeout=120).returncode == 0
            for words in (["info"], ["pull", base[1]])
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


def in_a_container(place: Path) -> None:
    """Build the image, and run it as docs/search.md does."""

    def docker(*given: str) -> str:
        return subprocess.run(["docker", *given], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    docker("build", "--quiet", "--tag", "s2r2-check", str(ROOT))
    run = ["run", "--init", "--read-only", "--tmpfs", "/tmp", "--volume", f"{place}/photos:/photos:ro"]
    run += ["--volume", "s2r2-check:/data"]
    docker(*run, "--rm", "s2r2-check", *INDEX)
    server = docker(*run, "--detach", "s2r2-check")
    try:
        state = ["inspect", "--format", "{{.State.Health.Status}} {{.State.Status}}", server]
        wait_for_health(lambda: docker(*state).startswith("healthy"), lambda: docker(*state).endswith("exited"))
    finally:
        docker("rm", "--force", server)
        docker("volume", "rm", "s2r2-check")


def in_an_environment(place: Path) -> None:
    """The same without an image."""
    uv = str(ROOT / ".venv/bin/uv")
    packages = re.search(r"'/src(\[[a-z,]+\])'", DOCKERFILE)
    assert packages
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(place / "venv")], check=True)
    # Whichever build of torch is at hand, not the one without CUDA: this is about the rest.
    install = [uv, "pip", "install", "--quiet", "--python", str(place / "venv/bin/python"), f"{ROOT}{packages[1]}"]
    subprocess.run(install, check=True)
    (place / "data").mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XDG_CACHE_HOME")}
    here = {
        "cwd": place / "data",
        "env": {**kept, "HOME": str(place / "data"), "PATH": f"{place / 'venv/bin'}{os.pathsep}{os.environ['PATH']}"},
    }
    entry = [str(place / "venv/bin" / words("ENTRYPOINT")[0])]
    index = [str(place / "photos") if word == "/photos" else word for word in INDEX]
    subprocess.run([*entry, *index], check=True, **here)  # type: ignore[call-overload]
    server = subprocess.Popen([*entry, *words("CMD")], **here)  # type: ignore[call-overload]
    try:
        check = [str(place / "venv/bin/python"), *words("HEALTHCHECK")[1:]]
        wait_for_health(
            lambda: subprocess.run(check, stderr=subprocess.DEVNULL).returncode == 0,
            lambda: server.poll() is not None,
        )
    finally:
        server.terminate()
        server.wait(60)


def main() -> None:
    """Check the image, or what it would be made of."""
    (ROOT / "build").mkdir(exist_ok=True)  # beside .venv, so that packages are linked and not copied
    with tempfile.TemporaryDirectory(prefix="home-server-", dir=ROOT / "build") as name:
        place = Path(name)
        place.chmod(0o755)  # the container's user is another
        draw(place / "photos")
        builds = can_build()
        print("the image" if builds else "no images are built here: its steps in an empty environment", flush=True)
        (in_a_container if builds else in_an_environment)(place)


if __name__ == "__main__":
    main()
