"""``s2r2 refine``: from marks or labels to a second index, and what changed by it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from s2r2.encoder.feature_head import with_feature_head
from s2r2.images.sources.names import printable
from s2r2.refining.evidence import judged_by_labels, judged_by_marks
from s2r2.refining.judging import Change, cross_validated
from s2r2.refining.learning import Judged, Recipe, learn_head, spread_of
from s2r2.search import ImageIndex, write_refined_index
from s2r2.system.wording import amount


@dataclass(frozen=True)
class Refined:
    """What :func:`refine_index` did.

    Attributes:
        folder: Of the first index.
        out: Of the second one.
        judged: Photos that the head has learned from.
        changes: What cross-validation says of the head.
        seconds: How long learning and cross-validation took.
    """

    folder: Path
    out: Path
    judged: int
    changes: Sequence[Change]
    seconds: float

    def __str__(self) -> str:
        lines = []
        if worse := [change.what for change in self.changes if change.verdict == "worse"]:
            lines.append(f"warning   the refined index is worse: {' and '.join(worse)}")
        elif not any(change.verdict == "better" for change in self.changes):
            lines.append("warning   the refined index is not better than the first one, as far as these photos tell")
        lines += [str(change) for change in self.changes]
        place, first = printable(str(self.out)), printable(str(self.folder))
        lines.append(
            f"learned from {amount(self.judged, 'photo')} in {self.seconds:.1f} s; the refined index is {place}"
        )
        lines.append(f"compare   s2r2 serve {first} --compare {place}")
        return "\n".join(lines)


def refine_index(
    folder: str | Path, out: str | Path | None = None, *, labels: str | Path | None = None, recipe: Recipe | None = None
) -> Refined:
    """Learn a head from marks or labels on the stored vectors, and write a second index whose encoder has it inside.

    Args:
        folder: Of the first index, which stays as it is.
        out: Of the second index; by default ``FOLDER.refined``.
        labels: A CSV with the columns ``photo`` and ``label``, or ``"index"`` for the labels in the index; by default
            the marks of the page.
        recipe: How the head is learned.

    Raises:
        S2R2Error: There is no index, there are too few marks or labels, or the second index cannot be written.
    """
    folder = Path(folder)
    out = folder.with_name(folder.name + ".refined") if out is None else Path(out)
    index = ImageIndex.open(folder)
    judged = judged_by_marks(index) if labels is None else judged_by_labels(index, labels)
    recipe = recipe or Recipe()
    began = time.monotonic()
    vectors = index.vectors
    spread = spread_of(vectors, recipe.directions)

    def learn(parts: Sequence[Judged]) -> np.ndarray:
        return learn_head(vectors, parts, spread, recipe)

    changes = cross_validated(vectors, judged, learn)
    matrix = learn(judged)
    seconds = time.monotonic() - began
    write_refined_index(index, with_feature_head(index.encoder, torch.from_numpy(matrix)), matrix, out)
    photos = len(np.unique(np.concatenate([part.rows for part in judged])))
    return Refined(folder, out, photos, changes, seconds)
