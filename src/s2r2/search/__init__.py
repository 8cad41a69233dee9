"""Embeddings to a ranking for a person: the index of photos, searching it, near-duplicates, and the search page."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2r2.embedding_map import positions
    from s2r2.search.contact_sheet import contact_sheet
    from s2r2.search.duplicates import Duplicates, find_duplicates
    from s2r2.search.exporting import write_embeddings
    from s2r2.search.index import Hit, ImageIndex
    from s2r2.search.result import UpdateResult
    from s2r2.search.server.serving import serve
    from s2r2.search.storage.layout import DamagedIndex, IndexGone
    from s2r2.search.terminal_output import duplicates_and_show, search_and_show
    from s2r2.search.updating import update_index

# LanceDB alone takes more than a second to import, so each name is looked up when it is asked for.
_PLACES = {
    "DamagedIndex": "storage.layout",
    "Duplicates": "duplicates",
    "Hit": "index",
    "ImageIndex": "index",
    "IndexGone": "storage.layout",
    "UpdateResult": "result",
    "contact_sheet": "contact_sheet",
    "duplicates_and_show": "terminal_output",
    "find_duplicates": "duplicates",
    "search_and_show": "terminal_output",
    "serve": "server.serving",
    "update_index": "updating",
    "write_embeddings": "exporting",
}

__all__ = [
    "DamagedIndex",
    "Duplicates",
    "Hit",
    "ImageIndex",
    "IndexGone",
    "UpdateResult",
    "contact_sheet",
    "duplicates_and_show",
    "find_duplicates",
    "positions",
    "search_and_show",
    "serve",
    "update_index",
    "write_embeddings",
]


def __getattr__(name: str) -> Any:
    if name == "positions":
        return importlib.import_module("s2r2.embedding_map").positions
    if name in _PLACES:
        return getattr(importlib.import_module(f"s2r2.search.{_PLACES[name]}"), name)
    raise AttributeError(f"module 's2r2.search' has no attribute {name!r}")
