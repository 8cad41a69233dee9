"""From a run folder to one HTML file."""

import shlex
import time
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from s2r2._version import __version__
from s2r2.evaluation.report.contents import Contents, read_contents
from s2r2.evaluation.report.curves import training_curves
from s2r2.evaluation.report.figures import bar_groups, confusion_table, headline, health_rows, table
from s2r2.runs import RunFolder
from s2r2.system.files import write_text
from s2r2.system.wording import amount

SKIPPED_SHOWN = 100


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into a run folder: one self-contained file with pictures, curves and figures.

    It shows whatever the run has left: what was trained on what, curves, sample views, the evaluation with rankings
    as pictures, and what was skipped. Call it again after ``s2r2 evaluate``.

    Args:
        folder: The run folder.

    Returns:
        The path of the report.

    Raises:
        S2R2Error: The folder holds no run, or cannot be written to.
    """
    folder = Path(folder)
    run = read_contents(folder)
    path = RunFolder(folder).report_file
    write_text(path, render_report(run))
    return path


def render_report(run: Contents) -> str:
    """The page of a run."""
    environment = Environment(
        loader=PackageLoader("s2r2.evaluation.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = Markup  # our own drawing; every text inside it is escaped where it is made
    environment.filters["count"] = lambda number: f"{number:,}" if isinstance(number, int | float) else str(number)
    return environment.get_template("report.html.j2").render(**_content(run))


def _content(run: Contents) -> dict[str, Any]:
    evaluation = run.evaluation
    name = run.folder.resolve().name
    content: dict[str, Any] = {
        "run": run,
        "name": name,
        "place": shlex.quote(str(run.folder.resolve())),
        "summary": _summary(run),
        "facts": _facts(run),
        "curves": training_curves(run),
        "settings": _settings(run),
        "skipped_shown": SKIPPED_SHOWN,
        "written": time.strftime("%d %B %Y, %H:%M"),
        "version": __version__,
        "evaluation": evaluation,
        "rankings": [],
    }
    if evaluation is not None:
        content |= {
            "headline": headline(evaluation),
            "bars": bar_groups(evaluation),
            "table": table(evaluation),
            "health": health_rows(evaluation),
            "warnings": [(row.title, row.health["warning"]) for row in evaluation.rows if row.health.get("warning")],
            "rankings": _rankings(run, "rankings"),
            "worst": _rankings(run, "worst"),
            "map": run.picture(evaluation.pictures.get("map", {}).get("picture", "")),
            "map_images": evaluation.pictures.get("map", {}).get("images", 0),
            "confusion": confusion_table(evaluation),
        }
    return content


def _summary(run: Contents) -> str:
    """One sentence on what was trained on what."""
    settings, about = run.settings, run.about
    if not settings:
        return ""
    photos = amount(about["images"], "photo") if isinstance(about.get("images"), int) else "photos"
    views = settings.get("views")
    batch = settings.get("batch_size")
    sentence = (
        f"An encoder ({settings.get('backbone', 'a network')}) learned from {photos}, without looking at any label"
    )
    if isinstance(views, int) and isinstance(batch, int):
        lesson = _lesson(settings, views * batch)
        sentence += f": in every step it saw {views} random views of each of {batch} photos and {lesson}"
    return sentence + "."


def _lesson(settings: dict[str, Any], views: int) -> str:
    """What the method asks of the encoder."""
    method = settings.get("method", "s2r2")
    if method == "s2r2":
        return (
            f"was corrected wherever, among all {views:,}, a view did not rank the other views of its own photo first"
        )
    if method == "simclr":
        return f"learned to tell the views of a photo from all others among the {views:,} (SimCLR)"
    if method == "swav":
        return "learned to predict from each view the prototypes that other views of its photo belong to (SwAV)"
    return f"learned what {method} asks for"


def _facts(run: Contents) -> list[tuple[str, str]]:
    """The few numbers at the top: ``(value, what it is)``."""
    settings, about = run.settings, run.about
    facts = []
    if isinstance(about.get("images"), int):
        facts.append((f"{about['images']:,}", "photos"))
    if isinstance(settings.get("epochs"), int):
        facts.append((f"{settings['epochs']:,}", "times each was seen (epochs)"))
    if isinstance(about.get("steps"), int):
        facts.append((f"{about['steps']:,}", "training steps"))
    if isinstance(settings.get("image_size"), int):
        facts.append((f"{settings['image_size']} px", "side of a view"))
    facts.append((f"{len(run.skipped):,}", "files skipped"))
    return facts


_SETTINGS = (
    ("method", "Method", "what turns embeddings into a loss"),
    ("backbone", "Backbone", "the network, by its name in timm"),
    ("start", "Started from", "the encoder that it began with"),
    ("adapt", "Adapted", "what was trained of that encoder"),
    ("pretrained", "Pretrained", "whether it began with timm's weights"),
    ("image_size", "Image size", "side of a view in pixels"),
    ("recipe", "Recipe", "the distribution that random views are drawn from"),
    ("views", "Views", "random views of each photo in a step"),
    ("batch_size", "Batch size", "photos in a step"),
    ("epochs", "Epochs", "times that every photo is seen"),
    ("optimizer", "Optimizer", "how the weights are moved"),
    ("temperature", "Temperature", "what similarities are divided by"),
    ("learning_rate", "Learning rate", "after warm-up"),
    ("weight_decay", "Weight decay", "pull of the weights towards zero"),
    ("embedding_dimensions", "Embedding", "numbers in an embedding vector"),
    ("seed", "Seed", "everything random follows from it"),
    ("precision", "Precision", "of the arithmetic"),
    ("device", "Device", "where it was trained"),
)


def _settings(run: Contents) -> list[tuple[str, str, str]]:
    """Settings a reader wants: ``(name, value, what it means)``."""
    values = {**run.settings, **({"learning_rate": run.about["learning_rate"]} if "learning_rate" in run.about else {})}
    return [(title, _plain(values[key]), text) for key, title, text in _SETTINGS if key in values]


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _rankings(run: Contents, name: str) -> list[dict[str, Any]]:
    """Rankings with their pictures inside; what has lost its picture is left out."""
    assert run.evaluation is not None
    shown = []
    for query in run.evaluation.pictures.get(name, {}).get("queries", []):
        picture = run.picture(query["picture"])
        neighbours = [{**n, "address": run.picture(n["picture"])} for n in query["neighbours"]]
        neighbours = [n for n in neighbours if n["address"]]
        if picture and neighbours:
            marks = [n["right"] for n in neighbours if n["right"] is not None]
            shown.append({**query, "address": picture, "neighbours": neighbours, "right": sum(marks), "of": len(marks)})
    return shown
