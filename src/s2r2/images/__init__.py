"""Files to pixels: where images come from, decoding them, and the store that keeps them decoded."""

from s2r2.images.decoding import EXTENSIONS, MAX_PIXELS, UnreadableImage, decode, to_array
from s2r2.images.labels import Labels
from s2r2.images.opening import open_source, write_skipped
from s2r2.images.sources import ArraySource, ImageSource, Skipped
from s2r2.images.store import PixelStore, StoreInfo, clear_stores, list_stores

__all__ = [
    "EXTENSIONS",
    "MAX_PIXELS",
    "ArraySource",
    "ImageSource",
    "Labels",
    "PixelStore",
    "Skipped",
    "StoreInfo",
    "UnreadableImage",
    "clear_stores",
    "decode",
    "list_stores",
    "open_source",
    "to_array",
    "write_skipped",
]
