"""Modules that register something when they are imported: those of one package of s2r2, and those of other packages."""

import functools
import importlib
import importlib.metadata
import pkgutil

from s2r2.errors import S2R2Error


@functools.cache
def load_plugins(package: str, entry_points: str) -> None:
    """Import every module of a package, and what the entry points of a group name.

    Raises:
        S2R2Error: An entry point cannot be loaded.
    """
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        importlib.import_module(module.name)
    for plugin in importlib.metadata.entry_points(group=entry_points):
        try:
            plugin.load()
        except Exception as error:
            raise S2R2Error(f"the plugin {plugin.value} cannot be loaded ({error}): update or uninstall it") from error
