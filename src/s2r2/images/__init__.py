"""Files to pixels: where images come from, decoding them, and the store that keeps them decoded."""

from typing import TYPE_CHECKING

from s2r2.system.lazy_imports import lazy_imports

if TYPE_CHECKING:
    from s2r2.errors import UnreadableImage as UnreadableImage
    from s2r2.images.decoding.decoder import (
        decode as decode,
        reduce_array as reduce_array,
        to_array as to_array,
    )
    from s2r2.images.decoding.facts import PhotoFacts as PhotoFacts
    from s2r2.images.decoding.formats import EXTENSIONS as EXTENSIONS
    from s2r2.images.decoding.pool import (
        decode_expendable as decode_expendable,
        decode_with_facts as decode_with_facts,
    )
    from s2r2.images.sources.kept import Kept as Kept, clear_kept as clear_kept, list_kept as list_kept
    from s2r2.images.sources.labels import Labels as Labels
    from s2r2.images.sources.opening import (
        absolute_data as absolute_data,
        data_under as data_under,
        open_source as open_source,
    )
    from s2r2.images.sources.register import (
        Data as Data,
        SourceKind as SourceKind,
        register_source as register_source,
        source_kinds as source_kinds,
    )
    from s2r2.images.sources.skipped import Skipped as Skipped, write_skipped as write_skipped
    from s2r2.images.sources.source import ArraySource as ArraySource, ImageSource as ImageSource
    from s2r2.images.store.cache import StoreInfo as StoreInfo, clear_stores as clear_stores, list_stores as list_stores
    from s2r2.images.store.direct import DirectImages as DirectImages, why_direct as why_direct
    from s2r2.images.store.pixel_store import PixelStore as PixelStore
    from s2r2.system.cache_folder import cache_folder as cache_folder
else:
    __all__, __getattr__, __dir__ = lazy_imports(__name__)
