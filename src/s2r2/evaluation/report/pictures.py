"""What an evaluation leaves for the report besides figures: rankings, a map, a table of confusions."""

from collections.abc import Sequence
from pathlib import Path

from s2r2.evaluation.metrics.confusion import neighbor_confusion
from s2r2.evaluation.report.photo_map import write_photo_map
from s2r2.evaluation.report.rankings import FOLDER, Shown, write_rankings
from s2r2.evaluation.result import Evaluation
from s2r2.evaluation.task import UNKNOWN, Task
from s2r2.images import PixelStore

MAP = f"{FOLDER}/map.jpg"


def write_pictures(
    evaluation: Evaluation, folder: Path, store: PixelStore, task: Task, spaces: Sequence[Shown]
) -> None:
    """Write pictures of the last encoder's feature space beside ``evaluation.json``.

    Args:
        evaluation: Gets ``pictures``.
        folder: The run folder.
        store: The test images.
        task: Their labels.
        spaces: The embedding spaces, the most interesting one last.
    """
    shown = next((space for space in reversed(spaces) if space.row.output == "feature"), spaces[-1])
    write_rankings(evaluation, folder, store, task, shown)
    if len(store) > 2:
        images = write_photo_map(folder / MAP, shown.embeddings, store)
        evaluation.pictures["map"] = {"picture": MAP, "images": images, "encoder": shown.row.title}
    if task.labeled and not task.several and task.test_labeled.sum() > 1:
        evaluation.pictures["confusion"] = neighbor_confusion(shown.embeddings, task.test, task.names, unknown=UNKNOWN)
