"""Files to pixels: where images come from, decoding them, and the store that keeps them decoded."""

from s2r2.errors import UnreadableImage
from s2r2.images.decoding.decoder import EXTENSIONS, decode, reduce_array, to_array
from s2r2.images.decoding.pool import decode_expendable
from s2r2.images.sources.labels import Labels
from s2r2.images.sources.opening import absolute_data, open_source
from s2r2.images.sources.register import Data, SourceKind, register_source, source_kinds
from s2r2.images.sources.skipped import Skipped, write_skipped
from s2r2.images.sources.source import ArraySource, ImageSource
from s2r2.images.store.cache import StoreInfo, cache_folder, clear_stores, list_stores
from s2r2.images.store.direct import DirectImages, why_direct
from s2r2.images.store.pixel_store import PixelStore

__all__ = [
    "EXTENSIONS",
    "ArraySource",
    "Data",
    "DirectImages",
    "ImageSource",
    "Labels",
    "PixelStore",
    "Skipped",
    "SourceKind",
    "StoreInfo",
    "UnreadableImage",
    "absolute_data",
    "cache_folder",
    "clear_stores",
    "decode",
    "decode_expendable",
    "list_stores",
    "open_source",
    "reduce_array",
    "register_source",
    "source_kinds",
    "to_array",
    "why_direct",
    "write_skipped",
]
