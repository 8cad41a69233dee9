"""When and with what photos were taken, for rows that an earlier version wrote: only the files' headers are read."""

from s2r2.images import PhotoFacts
from s2r2.images.places import FilePlace
from s2r2.images.store.facts import look_up_facts
from s2r2.search.photo_reader import PhotoNames
from s2r2.search.storage.row_files import RowFiles
from s2r2.search.storage.rows import Rows, facts_row
from s2r2.system.progress import ProgressLine

_AT_ONCE = 1024


def fill_facts(rows: Rows, files: RowFiles, names: PhotoNames, progress: bool) -> None:
    """Read the facts of all photos on this machine of which none are known; an update cut short goes on from there.

    Args:
        rows: Of the index.
        files: Their files.
        names: The photos, as the index names them.
        progress: Show a progress bar.
    """
    unknown = rows.without_facts()
    if not unknown:
        return
    source = names.source
    found = {key: index for index in range(len(source)) if (key := names.key(index)) in unknown}
    keys = [key for key, index in found.items() if isinstance(source.place(index), FilePlace)]
    with ProgressLine("EXIF", len(keys), visible=progress and bool(keys)) as line:
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            facts = dict(zip(some, look_up_facts(source, [found[key] for key in some]), strict=True))
            known = rows.by_key(key for key in some if facts[key] != PhotoFacts())
            rows.put([row | facts_row(facts[key]) for key, row in known.items()])
            files.record()
            line.advance(len(some))
