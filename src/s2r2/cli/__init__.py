"""The command line: parse, call, print. Nothing here decides anything."""

from s2r2.cli.running import main

__all__ = ["main"]
