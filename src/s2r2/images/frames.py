"""Frames of videos as photos: a JPEG each, and a table that says which sequence it is of, and when it was taken."""

import csv
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from s2r2.errors import ArgumentError, S2R2Error
from s2r2.images.sources.names import is_video, printable, unique
from s2r2.images.sources.skipped import Skipped, write_skipped
from s2r2.images.sources.walking import walk
from s2r2.system.extras import require_extra
from s2r2.system.files import atomic_write, make_folder, os_reason, why_not_written

COLUMNS = ("path", "sequence", "camera", "time")
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,flv,mpeg,mpegts"
"""What is opened: no playlists, which name other files and addresses."""
_SAME_TIME = 1e-6
_WHOLE = 0.9
"""Share of a video's length at which its pictures may end: sound goes on for longer."""


@dataclass
class Frames:
    """What :func:`write_frames` has written.

    Attributes:
        manifest: The table, ``frames.csv``: path, sequence and camera (both the video), time (seconds: since 1970, or
            since the video's start where it does not say when it was recorded).
        listing: ``skipped.csv``.
        frames: Pictures written.
        videos: Videos that they are of.
        skipped: Videos that could not be read, or not to their end, and folders that could not be listed, and why.
    """

    manifest: Path
    listing: Path
    frames: int = 0
    videos: int = 0
    skipped: list[Skipped] = field(default_factory=list)


def write_frames(
    videos: Sequence[str | Path],
    out: str | Path,
    *,
    every: float = 1.0,
    after_video: Callable[[str, int], None] = lambda *_: None,
) -> Frames:
    """Save pictures of videos as JPEG, upright, with a table for ``--grades time:2s,sequence``.

    The table is brought up to date after each video: what was written before a stop can be used.

    Args:
        videos: Files, and folders that are searched for videos, those below them as well.
        out: A folder that is new or empty.
        every: Seconds from one picture to the next; 0: every frame.
        after_video: Told the name of each video that has been gone through, and how many pictures it gave.

    Raises:
        S2R2Error: There is no video, none can be read, or ``out`` cannot be used.
        MissingExtraError: PyAV is not installed.
    """
    require_extra("video", "reading videos")
    if not 0 <= every < float("inf"):
        raise ArgumentError(f"`every` is {every}: give seconds, 0 or more")
    problems: list[Skipped] = []
    found = _find(videos, problems)
    out = Path(out)
    try:
        if out.is_dir() and any(out.iterdir()):
            raise S2R2Error(f"{out} is not empty: choose another `out` for pictures")
        make_folder(out)
    except OSError as error:
        raise S2R2Error(f"cannot make the folder {out}: {why_not_written(error)}choose another `out`") from error
    written = Frames(out / "frames.csv", out / "skipped.csv", skipped=problems)
    rows: list[tuple[str, ...]] = []
    for path, name in found:
        before = len(rows)
        try:
            for number, (picture, second, moment) in enumerate(_pictures(path, every)):
                place = f"{name}/{Path(name).stem}_{second:09.3f}.jpg"
                if not number:
                    make_folder((out / place).parent)
                picture.save(out / place, quality=92)
                rows.append((place, name, name, f"{moment:.3f}"))
        except _Unread as error:
            part = f"after {len(rows) - before:,} pictures: " if len(rows) > before else ""
            written.skipped.append(Skipped(os.fspath(path), f"{part}{error}"))
        except OSError as error:
            raise S2R2Error(f"cannot write below {out}: {why_not_written(error)}choose another `out`") from error
        written.videos += len(rows) > before
        written.frames = len(rows)
        _write_table(written.manifest, rows)
        write_skipped(written.listing, written.skipped)
        after_video(name, len(rows) - before)
    if not rows:
        first = written.skipped[0]
        raise S2R2Error(
            f"none of the videos can be read; {written.listing} has the reasons, the first: {first.key}: {first.reason}"
        )
    return written


class _Unread(Exception):
    """A video that cannot be read, or not further, and why."""


def _find(videos: Sequence[str | Path], problems: list[Skipped]) -> list[tuple[Path, str]]:
    """Videos, and the names of their sequences: places below the folder that was named."""
    if not videos:
        raise ArgumentError("no video is named: give at least one, or a folder of them")
    found: list[tuple[Path, str]] = []
    for place in map(Path, videos):
        if place.is_dir():
            found += [(place / name, name) for name in sorted(walk(place, problems, is_video))]
        elif place.exists():
            found.append((place, place.name))
        else:
            raise S2R2Error(f"no such file or folder: {place}")
    if not found:
        hint = f" ({problems[0].key}: {problems[0].reason})" if problems else ""
        looked = "looked for .mp4, .mov, .mkv, .webm, .avi and others"
        raise S2R2Error(f"no videos in {', '.join(map(str, videos))}{hint}: {looked}")
    names = unique([printable(name) for _, name in found])
    return [(path, name) for (path, _), name in zip(found, names, strict=True)]


def _pictures(path: Path, every: float) -> Iterator[tuple[Image.Image, float, float]]:
    """Pictures of a video, seconds from its start, and seconds since 1970 where it says when it was recorded."""
    import av

    try:
        # An opened file, not its name: FFmpeg takes some names for addresses.
        if not path.stat().st_size:
            raise _Unread("the file is empty")
        with open(path, "rb") as file, av.open(file, "r", options={"format_whitelist": _CONTAINERS}) as container:
            if not container.streams.video:
                raise _Unread("there are no pictures in it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            recorded = _recorded(container.metadata.get("creation_time") or stream.metadata.get("creation_time"))
            start: float | None = None
            second = due = 0.0
            for frame in container.decode(stream):
                if frame.time is None:
                    continue
                start = frame.time if start is None else start
                second = max(0.0, frame.time - start)
                if second >= due - _SAME_TIME:
                    due = (second + _SAME_TIME) // every * every + every if every else second + 2 * _SAME_TIME
                    yield _upright(frame, stream.sample_aspect_ratio), second, recorded + second
            if start is None:
                raise _Unread("there are no pictures in it")
            whole = float((stream.duration or 0) * (stream.time_base or 0)) or (container.duration or 0) / av.time_base
            if second < _WHOLE * whole - 1:
                raise _Unread(f"damaged: it ends after {second:.1f} of {whole:.1f} seconds")
    except av.FFmpegError as error:
        raise _Unread(f"damaged, or of a kind that is not read: {os_reason(error)}") from error
    except OSError as error:
        raise _Unread(os_reason(error)) from error


def _upright(frame: Any, aspect: Any) -> Image.Image:
    """A frame in square pixels, turned as the camera was held."""
    picture: Image.Image = frame.to_image()
    if aspect and aspect != 1:
        picture = picture.resize((max(1, round(picture.width * float(aspect))), picture.height))
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture


def _recorded(said: str | None) -> float:
    """Seconds since 1970, or 0: cameras without a clock say 1904 or 1970."""
    try:
        moment = datetime.datetime.fromisoformat(said or "")
    except ValueError:
        return 0.0
    return moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp() if moment.year > 1980 else 0.0


def _write_table(path: Path, rows: Sequence[tuple[str, ...]]) -> None:
    with atomic_write(path, "w") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
