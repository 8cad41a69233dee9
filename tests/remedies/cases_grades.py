"""Remedies that ``--grades`` names."""

from types import SimpleNamespace
from typing import Any

from performing import State, case, named

from s2r2.images import PhotoFacts, open_source
from s2r2.images.grades import group_photos, read_grades, refuse_unknown_columns
from s2r2.training import TrainConfig
from s2r2.training.methods import build_method, resolve

FACTS = [PhotoFacts(taken=float(second), latitude=1.0, longitude=float(second)) for second in (0, 20, 500, 900)]


class Photos(SimpleNamespace):
    """Four photos with EXIF, or with a manifest's columns."""

    def __init__(self, facts: list[PhotoFacts] = FACTS, **table: list[str]) -> None:
        super().__init__(keys=["a/0", "a/1", "b/2", "b/3"], table=table, columns=tuple(table), facts=lambda: facts)

    def __len__(self) -> int:
        return len(self.keys)

    def column(self, name: str) -> list[str]:
        return self.table[name]


def groups(grades: str, photos: Photos | None = None) -> object:
    return group_photos(read_grades(grades), photos or Photos())  # type: ignore[arg-type]


def method(**settings: Any) -> object:
    return build_method(resolve(TrainConfig(**{"grades": "folder", **settings})), 4)


case("{} is there twice: leave one out", lambda _: groups("folder,folder"), lambda _, said: groups("folder"))
for wrong in ("folder,", "time:30"):
    case(
        "a name is missing: write it like" if wrong == "folder," else "needs a width above 0 in",
        lambda _, wrong=wrong: groups(wrong),  # type: ignore[misc]
        lambda _, said: groups(named(r"write it like (\S+)", said), album()),
    )


def album() -> Photos:
    """Six photos: two close in time, three in space, four in a folder."""
    places = [(0.0, 0.0)] * 3 + [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]
    times = (0.0, 20.0, 500.0, 900.0, 1300.0, 1700.0)
    photos = Photos(
        [PhotoFacts(taken=t, latitude=p[0], longitude=p[1]) for t, p in zip(times, places, strict=True)],
    )
    photos.keys = ["a/0", "a/1", "a/2", "a/3", "b/4", "b/5"]
    return photos


def taken_all() -> list[PhotoFacts]:
    """Photos of which two are close in time, and two in space."""
    places = [(0.0, 0.0), (0.0, 0.0), (1.0, 1.0), (2.0, 2.0)]
    return [f._replace(latitude=p[0], longitude=p[1]) for f, p in zip(FACTS, places, strict=True)]


case(
    "only time and place have a width: write",
    lambda _: groups("folder:2"),
    lambda _, said: groups(named(r"write (\w+)", said)),
)


def table(state: State) -> str:
    path = state.tmp / "photos.csv"
    path.write_text("path,album\na.jpg,x\nb.jpg,x\n")
    return str(path)


case(
    "nor a column of {}, which has",
    lambda state: refuse_unknown_columns(read_grades("alben"), open_source(table(state))),
    lambda state, said: refuse_unknown_columns(read_grades(named(r"which has (\w+)", said)), open_source(table(state))),
)
NOBODY = [PhotoFacts()] * 4
case(
    "photos says {}: leave {} out",
    lambda _: groups("folder,time:30s", Photos(NOBODY)),
    lambda _, said: groups("folder"),
)
case(
    " or name a manifest with a column time",
    lambda _: groups("time:30s", Photos(NOBODY)),
    lambda _, said: groups("time:30s", Photos(NOBODY, time=["0", "20", "90", ""])),
)
case(
    " or name a manifest with columns latitude and longitude",
    lambda _: groups("place:50m", Photos(NOBODY)),
    lambda _, said: groups("place:50m", Photos(NOBODY, latitude=["1", "1", "2", "3"], longitude=["1", "1", "2", "3"])),
)
case("finds no two of the {} photos that belong", lambda _: groups("time:1s,folder"), lambda _, said: groups("folder"))
case(" or give it a larger width", lambda _: groups("time:1s"), lambda _, said: groups("time:30s"))
case("into one group, which tells nothing apart", lambda _: groups("folder,time:1d"), lambda _, said: groups("folder"))
case(" or give it a smaller width", lambda _: groups("time:1d"), lambda _, said: groups("time:30s"))
case(
    "adds nothing to {}: name the closest first, or leave",
    lambda _: groups("folder,time:30s"),
    lambda _, said: (groups("time:30s,folder"), groups("folder")),
)
case(
    "write it as 2026-05-01 12:30:00, or in seconds",
    lambda _: groups("time:30s", Photos(time=["noon", "0", "20", ""])),
    lambda _, said: groups("time:30s", Photos(time=["2026-05-01 12:30:00", "0", "20", ""])),
)
case(
    "write degrees from",
    lambda _: groups("place:50m", Photos(latitude=["", "", "", "91"])),
    lambda _, said: groups("place:50m", Photos(taken_all(), latitude=["", "", "", named(r"to (\d+)", said)])),
)
case(
    "has no use for `grades`: leave them out, or use",
    lambda _: method(method="swav"),
    lambda _, said: [method(method="swav", grades=""), *(method(method=name) for name in ("s2r2", "simclr"))],
)
case(
    "bank does not know the `grades` of what it stores",
    lambda _: method(options={"bank": 8}),
    lambda _, said: (method(), method(options={"bank": 8}, grades="")),
)
case(
    "surrogate and outer are of ranking without `grades`",
    lambda _: method(options={"surrogate": "sup-ap"}),
    lambda _, said: method(options={"graded": "ndcg"}),
)
case(
    "graded and grade_weight need `grades`",
    lambda _: method(options={"graded": "ndcg"}, grades=""),
    lambda _, said: method(options={"graded": "ndcg"}, grades=named(r"such as ([\w:]+)", said)),
)
case(
    "graded must be {}, and grade_weight above 0",
    lambda _: method(options={"graded": "map"}),
    lambda _, said: [method(options={"graded": name, "grade_weight": 0.1}) for name in ("h-ap", "ndcg")],
)


def changed(state: State) -> object:
    source = open_source(table(state))
    (state.tmp / "photos.csv").write_text("path,album\na.jpg,x\n")
    return source.column("album")


case(
    "has changed while it was read: start again", changed, lambda state, said: open_source(table(state)).column("album")
)
