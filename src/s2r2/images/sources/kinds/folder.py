"""The images below a folder: what is read, what is listed, and what is passed over."""

import os
from pathlib import Path

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.images.decoding.formats import READ
from s2r2.images.sources.kinds.shards import open_shards, shards_of_folder
from s2r2.images.sources.labels import folder_labels
from s2r2.images.sources.names import is_image, printable, raw_beside, unique, why_unread
from s2r2.images.sources.register import Data, parts_of_data, register_source
from s2r2.images.sources.skipped import Skipped
from s2r2.images.sources.source import FileSource, ImageSource
from s2r2.images.sources.walking import walk


@register_source(
    "a folder of photos",
    "photos/, with all its sub-folders, which are labels if every image lies exactly one level down",
    priority=-2,
)  # any folder is one
def open_folder(data: Data) -> ImageSource | None:
    """All images below a folder; sub-folders are labels when every image lies exactly one level down.

    What is hidden, and what systems and network drives keep for themselves, is passed over; photos in formats that are
    not read, and folders that cannot be listed, are problems. A folder without images whose tars hold some is read as
    tar shards.

    Raises:
        S2R2Error: There is no image in it, or a part is asked for.
    """
    folder = data.path
    if not folder.is_dir():
        return None
    if data.part:
        raise S2R2Error(
            f"{folder} has no part {data.part}: it is an ordinary folder, name it without a part. Data with parts: "
            f"{parts_of_data()}"
        )
    problems: list[Skipped] = []
    found = sorted(walk(folder, problems, is_image, why_unread))
    twice = raw_beside(found)
    problems += [Skipped(printable(name), reason) for name, reason in twice.items()]
    found = [name for name in found if name not in twice]
    if not found and (shards := shards_of_folder(folder)):
        source = open_shards(str(folder), shards)
        opened = {printable(os.path.basename(shard)) for shard in shards}
        source.problems += [problem for problem in problems if problem.key not in opened]
        return source
    if not found:
        hint = f" ({problems[0].key}: {problems[0].reason})" if problems else ""
        raise S2R2Error(f"no images in {printable(str(folder))}{hint}: looked for {READ}")
    keys = unique([printable(name) for name in found])
    paths = [str(folder / name) for name in found]
    identity = os.path.realpath(folder)
    return _Folder(printable(str(folder)), keys, paths, folder_labels(keys), problems, identity=identity)


class _Folder(FileSource):
    """All images below a folder."""

    def refuse_overwriting(self, out: Path, argument: str = "out") -> None:
        """Refuse a picture among the photos, too: it would be one of them, and runs refuse to resume with other photos.

        Raises:
            ArgumentError: An image would be lost, or come.
        """
        super().refuse_overwriting(out, argument)
        if is_image(out.name) and os.path.realpath(out).startswith(os.path.join(self.identity, "")):
            raise ArgumentError(
                f"`{argument}={out}` lies in {self.name}, and would be one of its photos: choose a folder beside it"
            )
