"""From what people said of search results to an encoder that ranks their photos better."""

from typing import TYPE_CHECKING

from s2r2.system.lazy_imports import lazy_imports

if TYPE_CHECKING:
    from s2r2.refining.judging import Change as Change
    from s2r2.refining.learning import Judged as Judged, Recipe as Recipe, learn_head as learn_head
    from s2r2.refining.refine import Refined as Refined, refine_index as refine_index
else:
    __all__, __getattr__, __dir__ = lazy_imports(__name__)
