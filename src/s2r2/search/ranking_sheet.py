"""A ranking as a picture: the query, and what was found, in order."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from s2r2.errors import S2R2Error
from s2r2.images import UnreadableImage, decode_expendable
from s2r2.search.hit import Hit
from s2r2.search.index import ImageIndex
from s2r2.system.thumbnails import PAPER, place, thumbnail

_CELL, _GAP, _CAPTION = 160, 12, 34
_INK, _SOFT, _RULE = (28, 28, 30), (120, 120, 125), (210, 210, 214)


def contact_sheet(
    index: ImageIndex,
    query: np.ndarray,
    hits: Sequence[Hit],
    *,
    columns: int = 5,
    others: Sequence[tuple[np.ndarray, str]] = (),
) -> Image.Image:
    """The query on the left, the hits in rows on the right, each with rank, similarity and label.

    Args:
        index: Where the thumbnails come from.
        query: What was searched for, ``(H, W, 3)`` uint8.
        hits: The ranking.
        columns: Hits in a row.
        others: More photos of the query, below the first, each with what is written under it.
    """
    columns = max(1, min(columns, len(hits)))
    rows = max(1 + len(others), -(-len(hits) // columns))
    step, line = _CELL + _GAP, _CELL + _CAPTION + _GAP
    left = step + 2 * _GAP
    sheet = Image.new("RGB", (left + columns * step + _GAP, rows * line + 2 * _GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    bold, plain = ImageFont.load_default(15), ImageFont.load_default(13)
    for number, (picture, caption) in enumerate(((query, "query"), *others)):
        y = _GAP + number * line
        place(sheet, thumbnail(picture, _CELL), _GAP, y, _CELL)
        draw.text((_GAP, y + _CELL + 4), caption, _INK, bold)
    draw.line([(left - _GAP, _GAP), (left - _GAP, sheet.height - _GAP)], _RULE, 1)
    for number, hit in enumerate(hits):
        x, y = left + number % columns * step, _GAP + number // columns * line
        place(sheet, thumbnail(_decoded(index, hit), _CELL), x, y, _CELL)
        draw.text((x, y + _CELL + 2), f"{hit.rank}", _INK, bold)
        draw.text(
            (x + _CELL - draw.textlength(f"{hit.score:.3f}", plain), y + _CELL + 3), f"{hit.score:.3f}", _SOFT, plain
        )
        draw.text((x, y + _CELL + 18), _fitted(draw, hit.label or hit.key.rsplit("/", 1)[-1], plain), _SOFT, plain)
    return sheet


def _decoded(index: ImageIndex, hit: Hit) -> np.ndarray:
    row = index.row(hit.id)
    if row is None:
        raise S2R2Error(f"the photo {hit.key} is not in the index {index.folder}: search again")
    try:
        return decode_expendable(index.thumbnail(row), short_side=_CELL)
    except UnreadableImage as error:
        raise S2R2Error(
            f"the thumbnail of {hit.key} in {index.folder} is damaged ({error.reason}): rebuild the "
            "index with s2r2 index --rebuild"
        ) from error


def _fitted(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if draw.textlength(text, font) <= _CELL:
        return text
    while text and draw.textlength(text + "…", font) > _CELL:
        text = text[:-1]
    return text + "…"
