"""Embeddings to a ranking for a person: the index of photos, searching it, near-duplicates, and the search page."""

from typing import TYPE_CHECKING

from s2r2.system.lazy_imports import lazy_imports

if TYPE_CHECKING:
    from s2r2.embedding_map import positions as positions
    from s2r2.search.backends.base import (
        SearchBackend as SearchBackend,
        backend_names as backend_names,
        register_backend as register_backend,
    )
    from s2r2.search.duplicates.finding import Duplicates as Duplicates, find_duplicates as find_duplicates
    from s2r2.search.duplicates.terminal_output import (
        PutAway as PutAway,
        duplicates_and_show as duplicates_and_show,
    )
    from s2r2.search.exporting import write_embeddings as write_embeddings
    from s2r2.search.filtering import Filter as Filter
    from s2r2.search.hit import Hit as Hit
    from s2r2.search.index import ImageIndex as ImageIndex
    from s2r2.search.ranking_output import search_and_show as search_and_show
    from s2r2.search.ranking_sheet import contact_sheet as contact_sheet
    from s2r2.search.refined_index import write_refined_index as write_refined_index
    from s2r2.search.server.serving import serve as serve
    from s2r2.search.shards import Part as Part, Shards as Shards, keep_encoder as keep_encoder
    from s2r2.search.storage.layout import DamagedIndex as DamagedIndex, IndexGone as IndexGone
    from s2r2.search.storage.marks import read_marks as read_marks
    from s2r2.search.stored_vectors import StoredVectors as StoredVectors
    from s2r2.search.update_result import UpdateResult as UpdateResult
    from s2r2.search.updating import update_index as update_index
else:
    __all__, __getattr__, __dir__ = lazy_imports(__name__)
