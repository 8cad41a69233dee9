"""Make a small run, index and study with the installed version, to be kept: ``python tests/kept/make.py FOLDER``.

Done once for each version whose files later versions must open; ``test_kept.py`` holds that they do. FOLDER is made;
FOLDER.tar.xz is what to commit. The place of FOLDER is written into what is kept: choose one that tells nothing.
"""

import contextlib
import os
import shutil
import signal
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import tiny_backbone
import torch
import yaml
from PIL import Image

from s2r2.cli import main as s2r2

HERE = Path(__file__).resolve().parent
STEPS, STOPPED_AFTER = 9, 4
SETTINGS = {
    "backbone": "tiny_for_tests", "image_size": 16, "batch_size": 4, "recipe": "photos", "head_hidden": 8,
    "embedding_dimensions": 6,
}  # fmt: skip
STUDY = {
    "name": "kept",
    "seeds": [0, 1],
    "views": [64],
    "config": SETTINGS,
    "data": {"photos": {"train": "photos", "tasks": {"kinds": {"train": "photos", "test": "others"}}}},
    "methods": {"S2R2": {"views": 4}, "SimCLR": {"method": "simclr"}},
}


def make_photos(folder: Path, count: int, seed: int) -> None:
    """Small pictures of three kinds: stripes, rings and slopes; ``count`` of each."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:20, 0:20] / 20
    for kind in ("stripes", "rings", "slopes"):
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            a, b, c = generator.random(3)
            gray = {
                "stripes": np.sin(2 * np.pi * (2 + 2 * a) * (x + b * y)) / 2 + 0.5,
                "rings": np.sin(2 * np.pi * 3 * np.hypot(x - a, y - b)) / 2 + 0.5,
                "slopes": (a * x + b * y) / (a + b),
            }[kind]
            pixels = np.stack([gray * 255, gray * 255 * c, 255 - gray * 200], axis=2).astype(np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{number}.png", optimize=True)


def stop_in_the_middle() -> None:
    """As Ctrl-C after the fourth step."""
    steps = iter(range(1, STEPS + 1))
    original = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *arguments: object) -> object:
        if next(steps) == STOPPED_AFTER:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments)  # type: ignore[arg-type]

    torch.optim.AdamW.step = step  # type: ignore[assignment,method-assign]


def make(out: Path) -> None:
    """All of it."""
    out.mkdir(parents=True)
    os.chdir(out)
    os.environ["S2R2_CACHE"] = tempfile.mkdtemp()
    make_photos(Path("photos"), 4, 0)
    make_photos(Path("others"), 2, 1)
    settings = [word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    train = ["train", "photos", *settings, "--views", "4", "--steps", str(STEPS), "--device", "cpu", "--threads", "1"]
    s2r2([*train, "--out", "finished"])
    s2r2(["evaluate", "finished", "--train", "photos", "--test", "others"])
    s2r2(["index", "finished", "photos", "--index", "photos.index"])
    Path("study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    with tempfile.TemporaryDirectory() as folder:  # the study's runs are processes of their own
        Path(folder, "sitecustomize.py").write_text("import tiny_backbone\n\ntiny_backbone.register()\n")
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, str(HERE), os.environ.get("PYTHONPATH", "")])
        s2r2(["compare", "study.yaml", "--out", "study", "--processes", "1"])
    stop_in_the_middle()
    with contextlib.suppress(SystemExit):
        s2r2([*train, "--out", "stopped"])
    shutil.rmtree(os.environ["S2R2_CACHE"])


def pack(folder: Path) -> Path:
    """Everything but the largest files, which the tests make again or do without."""
    left_out = (".html", "views.png", "previous.ckpt")

    def kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        in_study = member.name.startswith("study/")
        large = member.name.endswith(left_out) or (in_study and member.name.endswith((".png", ".ckpt", "tensorboard")))
        member.uid, member.gid, member.uname, member.gname = 0, 0, "", ""
        return None if large else member

    path = folder.with_name(folder.name + ".tar.xz")
    with tarfile.open(path, "w:xz", preset=9) as archive:
        for part in sorted(folder.iterdir()):
            archive.add(part, part.name, filter=kept)
    return path


if __name__ == "__main__":
    tiny_backbone.register()
    out = Path(sys.argv[1]).resolve()
    make(out)
    print(pack(out))
