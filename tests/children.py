"""Whether processes that a test has started still run."""

from pathlib import Path


def is_running(number: int) -> bool:
    """Whether a process is more than the entry of one that has ended."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
