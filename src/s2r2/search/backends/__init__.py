"""Ways to find the nearest vectors: exactly, approximately through LanceDB, or by a backend of one's own."""

from s2r2.search.backends.base import (
    Built,
    Search,
    SearchBackend,
    SearchPlace,
    Settings,
    backend_names,
    find_backend,
    register_backend,
)
from s2r2.search.backends.exact import Exact
from s2r2.search.backends.lance import LanceDB

register_backend("exact", Exact())
register_backend("lancedb", LanceDB())

__all__ = [
    "Built",
    "Search",
    "SearchBackend",
    "SearchPlace",
    "Settings",
    "backend_names",
    "find_backend",
    "register_backend",
]
