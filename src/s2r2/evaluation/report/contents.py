"""What of a run a report shows, read leniently: whatever is missing or torn is simply not there."""

import base64
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from s2r2.errors import S2R2Error
from s2r2.evaluation.result import Evaluation
from s2r2.images import UnreadableImage, decode_expendable
from s2r2.images.decoding.pool import size_expendable
from s2r2.images.places import FilePlace
from s2r2.runs import RunFolder
from s2r2.system.thumbnails import jpeg

LARGEST_PNG = 700_000
SHEET_WIDTH = 1600
SHOWN = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg"}
"""Pictures that s2r2 writes, and how they begin."""


@dataclass
class Contents:
    """The parts of a run that a report shows.

    Attributes:
        folder: The run folder.
        settings: Of training.
        about: What was found and used: data, counts, versions.
        steps: Lines of ``metrics.jsonl`` about a training step.
        checks: Lines about an online check.
        skipped: ``(key, reason)`` of images that could not be read.
        evaluation: What ``s2r2 evaluate`` found, or None.
        views: ``views.png`` as a data address, or None.
    """

    folder: Path
    settings: dict[str, Any]
    about: dict[str, Any]
    steps: list[dict[str, Any]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    evaluation: Evaluation | None = None
    views: str | None = None

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """Why images were skipped, the most frequent reason first."""
        return Counter(reason for _, reason in self.skipped).most_common()

    def picture(self, relative: str) -> str | None:
        """A picture beside ``evaluation.json`` as a data address; None if it is gone, lies elsewhere, or is none."""
        path = (self.folder / relative).resolve()
        if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
            return None
        try:
            content = FilePlace(str(path)).read()
            size_expendable(content)
        except UnreadableImage:
            return None
        kind = next((kind for begin, kind in SHOWN.items() if content.startswith(begin)), None)
        return None if kind is None else data_address(content, kind)


def read_contents(folder: Path) -> Contents:
    """Read what there is.

    Raises:
        S2R2Error: The folder is not there or holds nothing of a run.
    """
    if not folder.is_dir():
        raise S2R2Error(f"no run folder at {folder}: give the folder that s2r2 train wrote")
    run = RunFolder(folder)
    config = run.read_whatever_config()
    found = Contents(folder, config.settings, config.about, skipped=run.read_skipped(), views=_sheet(run.views_file))
    for line in run.read_metrics():
        (found.checks if isinstance(line.get("check"), dict) else found.steps).append(line)
    if run.evaluation_file.is_file():
        found.evaluation = Evaluation.load(folder)
    if not config.settings and not config.about and not found.steps and found.evaluation is None:
        names = f"{run.config_file.name}, {run.metrics_file.name} or {run.evaluation_file.name}"
        raise S2R2Error(f"{folder} holds no run (no {names}): give a run folder")
    return found


def data_address(content: bytes, kind: str) -> str:
    """A picture as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _sheet(path: Path) -> str | None:
    """The sheet of sample views; a large one becomes a JPEG of at most 1,600 px."""
    try:
        content = FilePlace(str(path)).read()
        sheet = Image.fromarray(decode_expendable(content))
    except UnreadableImage:
        return None
    if sheet.width < 8:
        return None
    if len(content) <= LARGEST_PNG and sheet.width <= SHEET_WIDTH and content.startswith(b"\x89PNG"):
        return data_address(content, "png")
    sheet.thumbnail((SHEET_WIDTH, 10 * SHEET_WIDTH), Image.Resampling.LANCZOS)
    return data_address(jpeg(sheet, quality=86), "jpeg")
