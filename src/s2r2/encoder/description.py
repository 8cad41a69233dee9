"""What an encoder file says about itself: checked before anything is built or allocated by it."""

import json
import math
from pathlib import Path
from typing import Any

from s2r2.errors import S2R2Error

LONGEST = 100_000
LARGEST_SIDE = 2048
LARGEST_WIDTH = 65_536


def read_description(text: str | None, file: Path, newest: int) -> dict[str, Any]:
    """The checked description in a file's metadata: version, layout, name and architecture.

    Args:
        text: JSON.
        file: For messages.
        newest: Version that this s2r2 can read.

    Raises:
        S2R2Error: The file is not ours, is of a newer version, or says what cannot be.
    """
    if text is None:
        raise by_others(file)
    if len(text) > LONGEST:
        raise _wrong(file, f"its description has {len(text):,} characters")
    try:
        content = json.loads(text, object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        raise _wrong(file, "its description is not JSON") from error
    if not isinstance(content, dict):
        raise _wrong(file, "its description is no mapping")
    version: Any = content.get("version")
    if not _whole(version, 1, 10**6):
        raise _wrong(file, f"version is {version!r:.40}")
    if version > newest:
        raise S2R2Error(f"{file} was written by a newer s2r2 (format {version}): upgrade s2r2")
    if not isinstance(content.get("name"), str) or content.get("layout", "timm") != "timm":
        raise _wrong(file, "its name or its layout")
    if not isinstance(content.setdefault("trained", True), bool):  # earlier files do not say
        raise _wrong(file, f"trained is {content['trained']!r:.40}")
    architecture = content.get("architecture")
    if not isinstance(architecture, dict):
        raise _wrong(file, "there is no architecture")
    if not isinstance(architecture.get("feature_head", False), bool):  # most files do not say
        raise _wrong(file, f"feature_head is {architecture['feature_head']!r:.40}")
    for key, good in _CHECKS.items():
        if key not in architecture or not good(architecture[key]):
            raise _wrong(file, f"{key} is {architecture.get(key)!r:.40}")
    return content


def by_others(file: Path) -> S2R2Error:
    """The error of a file that is not ours, and may hold the weights of a timm model."""
    return S2R2Error(
        f"{file} was not written by s2r2: give a run folder, or timm:NAME for a timm backbone; if the file holds its "
        f"weights, timm:NAME@{file}"
    )


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _wrong(file: Path, what: str) -> S2R2Error:
    return S2R2Error(f"{file} cannot be read: {what}; it is damaged or made by something else, copy it again")


def _whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _three(value: Any, least: float) -> bool:
    if not isinstance(value, list) or len(value) != 3:
        return False
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    return numbers and all(math.isfinite(v) and least <= v <= 1e4 for v in value)


_CHECKS = {
    # A plain name of timm's: no hf-hub: or local-dir:, which fetch or read what the file's maker chose.
    "backbone": lambda v: isinstance(v, str) and len(v) < 200 and v.replace(".", "").replace("_", "").isalnum(),
    "image_size": lambda v: _whole(v, 1, LARGEST_SIDE),
    "small_stem": lambda v: isinstance(v, bool),
    "has_head": lambda v: isinstance(v, bool),
    "head_hidden": lambda v: _whole(v, 1, LARGEST_WIDTH),
    "feature_dimensions": lambda v: _whole(v, 1, LARGEST_WIDTH),
    "embedding_dimensions": lambda v: _whole(v, 1, LARGEST_WIDTH),
    "mean": lambda v: _three(v, -1e4),
    "std": lambda v: _three(v, 1e-6),
}
