"""Places of photos as a person sees them on a terminal."""

import os


def as_seen_from_here(location: str) -> str:
    """A photo's place, without the working folder where it is inside of it."""
    here = os.getcwd() + os.sep
    return location.removeprefix(here) if location != here else location
