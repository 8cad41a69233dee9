"""What a run folder holds, read leniently: whatever is missing or torn is simply not there."""

import base64
import csv
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from s2r2.errors import S2R2Error
from s2r2.evaluation.result import FILE_NAME, Evaluation
from s2r2.images import UnreadableImage, decode_expendable
from s2r2.images.decoding.pool import size_expendable
from s2r2.images.places import FilePlace
from s2r2.settings.yaml_documents import read_yaml
from s2r2.system.terminal import csv_plain
from s2r2.system.thumbnails import jpeg

LARGEST_PNG = 700_000
SHEET_WIDTH = 1600
SHOWN = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg"}
"""Pictures that s2r2 writes, and how they begin."""


@dataclass
class RunFolder:
    """The parts of a run that a report shows.

    Attributes:
        folder: Where it is.
        settings: ``config`` of ``config.yaml``.
        run: ``run`` of ``config.yaml``: data, counts, versions.
        steps: Lines of ``metrics.jsonl`` about a training step.
        checks: Lines about an online check.
        skipped: ``(key, reason)`` of images that could not be read.
        evaluation: What ``s2r2 evaluate`` found, or None.
        views: ``views.png`` as a data address, or None.
    """

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
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


def read_run_folder(folder: Path) -> RunFolder:
    """Read what there is.

    Raises:
        S2R2Error: The folder is not there or holds nothing of a run.
    """
    if not folder.is_dir():
        raise S2R2Error(f"no run folder at {folder}: give the folder that s2r2 train wrote")
    found = RunFolder(folder)
    content = _yaml(folder / "config.yaml")
    found.settings, found.run = (
        part if isinstance(part := content.get(name), dict) else {} for name in ("config", "run")
    )
    for line in _json_lines(folder / "metrics.jsonl"):
        (found.checks if isinstance(line.get("check"), dict) else found.steps).append(line)
    found.skipped = _skipped(folder / "skipped.csv")
    if (folder / FILE_NAME).is_file():
        found.evaluation = Evaluation.load(folder)
    found.views = _sheet(folder / "views.png")
    if not content and not found.steps and found.evaluation is None:
        raise S2R2Error(f"{folder} holds no run (no config.yaml, metrics.jsonl or {FILE_NAME}): give a run folder")
    return found


def data_address(content: bytes, kind: str) -> str:
    """A picture as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _yaml(path: Path) -> dict[str, Any]:
    try:
        return read_yaml(path)[0]
    except S2R2Error:
        return {}


def _json_lines(path: Path) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return lines
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # torn by a crash
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int | float):
            lines.append(entry)
    return lines


def _skipped(path: Path) -> list[tuple[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = [row for row in csv.reader(file) if len(row) >= 2]
    except OSError:
        return []
    return [(csv_plain(row[0]), csv_plain(row[1])) for row in rows[1:]]


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
