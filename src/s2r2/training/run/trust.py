"""Files of code run only when the user has named them on this machine: a run or a study may come from strangers.

Their contents are remembered by a hash in the user's own configuration folder, as SSH remembers hosts. A file in a run
folder proves nothing: whoever wrote it could have written the hash beside it.
"""

import contextlib
import hashlib
import os
from pathlib import Path

from s2r2.errors import S2R2Error
from s2r2.system.code_files import is_code_file

_NAMED: set[str] = set()
_HANDED_ON = "S2R2_METHODS_NAMED"
"""Of the environment: what this command's own processes may run, where nothing can be remembered."""


def method_hash(method: str) -> str:
    """Of a file's contents; empty for a method that has a name.

    Raises:
        S2R2Error: There is no such file.
    """
    if not is_code_file(method):
        return ""
    try:
        return hashlib.sha256(Path(method).read_bytes()).hexdigest()
    except OSError as error:
        raise S2R2Error(
            f"there is no method file {method} ({error.strerror}); if it was moved, give its new place as `method`"
        ) from error


def name_method(method: str) -> None:
    """The user names a method on the command line or in Python: if it is a file, it may run, now and later."""
    digest = method_hash(method)
    if not digest or digest in _known():
        return
    _NAMED.add(digest)
    os.environ[_HANDED_ON] = ",".join(sorted(_NAMED | set(os.environ.get(_HANDED_ON, "").split(",")) - {""}))
    with contextlib.suppress(OSError, RuntimeError):  # no home, or not ours to write: named again next time
        path = _memory()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(path, "a", encoding="ascii") as file:
            file.write(f"{digest}\n")


def refuse_unnamed(method: str, source: str, remedy: str) -> None:
    """Refuse a file of code that a run folder or a study asks for and the user has never named.

    Args:
        method: As it stands there.
        source: Where it stands.
        remedy: How to name it.

    Raises:
        S2R2Error: It is one, or it is not there.
    """
    digest = method_hash(method)
    if digest and digest not in _known():
        raise S2R2Error(
            f"{source} would run the code in {method}, which was not named on this machine, or has changed since: look "
            f"at it, and if you trust it, {remedy}"
        )


def _known() -> set[str]:
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        return _NAMED | set(os.environ.get(_HANDED_ON, "").split(",")) | set(_memory().read_text("ascii").split())
    return _NAMED | set(os.environ.get(_HANDED_ON, "").split(","))


def _memory() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "s2r2" / "methods"
