"""What the files of a source's photos say of them, looked up without decoding."""

import os
from collections.abc import Sequence

from s2r2.errors import UnreadableImage
from s2r2.images.decoding.decoder import max_pixels_allowed
from s2r2.images.decoding.facts import PhotoFacts
from s2r2.images.decoding.pool import shared_pool
from s2r2.images.decoding.protocol import Answer, Job, Settings
from s2r2.images.places import FilePlace, RemotePlace
from s2r2.images.sources.source import ImageSource

NOTHING = PhotoFacts()


def look_up_facts(source: ImageSource, indices: Sequence[int], workers: int | None = None) -> list[PhotoFacts]:
    """Facts of some of a source's photos; nothing is known of one that has no file, or whose file cannot be read.

    Args:
        source: The photos.
        indices: Which of them.
        workers: Processes that read headers; by default one for each core.

    Raises:
        S2R2Error: The processes cannot be started.
    """
    settings = Settings(None, max_pixels_allowed())
    places = [source.place(index) for index in indices]
    jobs = [Job(*place, kind="facts") for place in places if isinstance(place, FilePlace)]
    answers = shared_pool().run(jobs, settings, workers or os.cpu_count() or 1)
    found = []
    for place in places:
        if isinstance(place, FilePlace):
            found.append(_facts(next(answers)))
        elif isinstance(place, RemotePlace):
            try:
                found.append(_facts(shared_pool().one(Job("", kind="facts", content=place.read()), settings)))
            except UnreadableImage:
                found.append(NOTHING)
        else:
            found.append(NOTHING)
    return found


def _facts(answer: Answer) -> PhotoFacts:
    return NOTHING if answer.facts is None else answer.facts
