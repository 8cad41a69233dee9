"""Stamps of many files of S3 by listings, a thousand names a request, where that is cheaper than a request for each."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from s2r2.images.remote import Stamp, file_system, protocol, stamp_of

PAGE = 1000
"""Names in a listing: S3 gives no more."""
WORTH = 10
"""A listing takes about as long as so many requests for one file, and costs as much."""
FIRST_PAUSE = 10 * WORTH
"""So many files are asked for one by one after a listing that named few of them; twice as many after the next."""


def listed_stamps(addresses: Mapping[int, str]) -> dict[int, Stamp]:
    """Stamps of those files that listings name; the others, which may not be there, must be asked for one by one.

    Names are sorted as S3 sorts them, and a listing begins at the next one that is wanted, so that what lies between
    is not listed. Where names that are wanted lie far apart, listing pauses for longer and longer: then it costs at
    most a tenth more than asking for each.

    Args:
        addresses: Of the files, by any number.
    """
    buckets: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    schemes: dict[str, str] = {}
    for number, address in addresses.items():
        if protocol(address) in ("s3", "s3a") and "?" not in address and "::" not in address:
            bucket, _, key = address.partition("://")[2].partition("/")
            buckets[bucket][key].append(number)
            schemes[bucket] = address
    found: dict[int, Stamp] = {}
    for bucket, numbers in buckets.items():
        if len(numbers) < WORTH:
            continue
        with suppress(Exception):  # each is of its own kind; asking for a file says what is wrong, if anything is
            system, _ = file_system(schemes[bucket])
            for key, stamp in _walk(system, bucket, sorted(numbers, key=str.encode)):
                found |= dict.fromkeys(numbers[key], stamp)
    return found


def _walk(system: Any, bucket: str, wanted: list[str]) -> Iterator[tuple[str, Stamp]]:
    """The wanted names, which are sorted, that listings name."""
    order = [key.encode() for key in wanted]
    place, pause = 0, FIRST_PAUSE
    while place + WORTH <= len(wanted):
        page = system.call_s3("list_objects_v2", Bucket=bucket, StartAfter=_before(wanted[place]), MaxKeys=PAGE)
        about = {entry["Key"]: entry for entry in page.get("Contents", ())}
        if not about:
            return
        end = bisect_right(order, max(map(str.encode, about)), place)
        if not page.get("IsTruncated"):
            end = len(wanted)
        named = [key for key in wanted[place:end] if key in about]
        for key in named:
            yield key, stamp_of({**about[key], "size": about[key]["Size"]})
        if len(named) >= WORTH:
            place, pause = end, FIRST_PAUSE
        else:
            place, pause = max(place + 1, end) + pause, 2 * pause


def _before(key: str) -> str:
    """A name that is sorted before another, with next to nothing between them."""
    last = ord(key[-1]) - 1 if key else 0
    return f"{key[:-1]}{chr(last)}~" if last > 0x20 and not 0xD800 <= last < 0xE000 else key[:-1]
