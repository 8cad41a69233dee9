"""Packages import what they offer when it is first used; each name stands once."""

import importlib
import pkgutil

import pytest

import s2r2

ROOMS = ("evaluation", "search", "training", "views")


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_of_a_room_can_be_imported_and_is_no_module(room: str) -> None:
    package = importlib.import_module(f"s2r2.{room}")
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert package.__all__ == sorted(package.__all__)
    for name in package.__all__:
        assert name in dir(package)
        assert getattr(package, name) is not None
        assert name not in modules, "the import of the module would take the name's place"


def test_the_package_offers_its_rooms_and_the_version() -> None:
    assert s2r2.losses is importlib.import_module("s2r2.losses")
    assert {"losses", "train", "load", "__version__"} <= set(dir(s2r2))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 's2r2\.search' has no attribute 'nothing'"):
        importlib.import_module("s2r2.search").nothing  # noqa: B018
