"""Words in a query: they find photos by a CLIP-like model, and the encoder ranks on from these."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from s2r2.errors import S2R2Error
from s2r2.search.backends.exact import top_k
from s2r2.search.storage.layout import DamagedIndex
from s2r2.search.storage.published import Published
from s2r2.search.storage.thumbnails import why_gone
from s2r2.search.words.model import EXAMPLE, WordModel, check_words
from s2r2.search.words.vectors import words_file
from s2r2.system.extras import MissingExtraError, require_extra
from s2r2.system.files import checksum

SEEDS = 5
"""Photos that words find, for the encoder to rank on from."""


class WordSearch:
    """Words in queries of an open index.

    Args:
        folder: Of the index.
        about: What is published there.
    """

    def __init__(self, folder: Path, about: Published) -> None:
        self.folder, self.about = folder, about

    @property
    def why_not(self) -> str:
        """One line that says how to get words, or empty if the index can be searched by words."""
        if not self.about.words:
            return (
                f"{self.folder.name} has no vectors for words: add them with s2r2 index ENCODER DATA --index "
                f"{self.folder.name} --text {EXAMPLE}"
            )
        try:
            require_extra("text", "searching by words")
        except MissingExtraError as error:
            return str(error)
        return ""

    @functools.cached_property
    def vectors(self) -> np.ndarray:
        """``(N, E)`` float32 with rows of length 1, mapped from disk and checked when first asked for.

        Raises:
            IndexGone: An update has replaced them.
            DamagedIndex: They are not what was written.
        """
        path = self.folder / self.about.generation / words_file(self.about.number)
        try:
            if checksum(path) != self.about.files.get(path.name):
                raise DamagedIndex(self.folder, f"{path.name} is not what was written")
            found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise why_gone(self.folder, self.about) from error
        except (OSError, ValueError) as error:
            raise DamagedIndex(self.folder, error) from error
        if found.ndim != 2 or len(found) != self.about.photos:
            raise DamagedIndex(self.folder, f"{path.name} does not hold the vectors of {self.about.photos} photos")
        return found

    @functools.cached_property
    def model(self) -> WordModel:
        """The model that made the vectors.

        Raises:
            S2R2Error: It cannot be loaded, or is another one now.
        """
        model = WordModel(self.about.words)
        if model.fingerprint != self.about.words_fingerprint:
            raise S2R2Error(
                f"{self.about.words} has other weights now than those that encoded the photos: encode them anew with "
                f"s2r2 index ENCODER DATA --index {self.folder.name} --text {self.about.words}"
            )
        return model

    def seeds(self, words: str, mask: np.ndarray | None = None, count: int = SEEDS) -> np.ndarray:
        """Rows of the photos that fit words best, best first.

        Args:
            words: Such as ``a red car``.
            mask: ``(N,)`` bool: which photos may be found; None for all.
            count: How many; fewer when there are fewer.

        Raises:
            S2R2Error: The index cannot be searched by words, or the words are empty or too long.
        """
        words = check_words(words)
        if self.why_not:
            raise S2R2Error(self.why_not)
        rows = None if mask is None else np.flatnonzero(mask)
        found, _ = top_k(self.vectors, self.model.of_words(words), count, rows)
        return found

    def seeds_of(self, several: Sequence[str], mask: np.ndarray | None = None) -> list[int]:
        """The seeds of several words, one after the other; a photo is named once."""
        return list(dict.fromkeys(int(row) for words in several for row in self.seeds(words, mask)))
