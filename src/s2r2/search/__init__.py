"""Embeddings to a ranking for a person: the index of photos, searching it, the contact sheet."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2r2.search.contact_sheet import contact_sheet
    from s2r2.search.exporting import write_embeddings
    from s2r2.search.index import Hit, ImageIndex
    from s2r2.search.showing import search_and_show
    from s2r2.search.updating import UpdateResult, update_index

__all__ = ["Hit", "ImageIndex", "UpdateResult", "contact_sheet", "search_and_show", "update_index", "write_embeddings"]

# LanceDB alone takes more than a second to import, so each name is looked up when it is asked for.
_PLACES = {
    "Hit": "index",
    "ImageIndex": "index",
    "UpdateResult": "updating",
    "contact_sheet": "contact_sheet",
    "search_and_show": "showing",
    "update_index": "updating",
    "write_embeddings": "exporting",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(f"s2r2.search.{_PLACES[name]}"), name)
    raise AttributeError(f"module 's2r2.search' has no attribute {name!r}")
