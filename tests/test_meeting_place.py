"""Where processes of one machine meet: nothing of it stays, even after a kill."""

import os
import tempfile
from pathlib import Path

import pytest

from s2r2.distributed.meeting_place import HELD, meeting_place


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such locks")
def test_the_next_one_removes_what_a_killed_one_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("s2r2-killed_1", "s2r2-mine_too"):
        for rank in (0, 1):
            (tmp_path / name / "38634c2a83155f7c_t0ojsr7h" / "attempt_0" / str(rank)).mkdir(parents=True)
        (tmp_path / name / "processes-0").touch()
        (tmp_path / name / "38634c2a83155f7c_t0ojsr7h" / "attempt_0" / "1" / "error.json").touch()
        (tmp_path / name / HELD).touch()
        (tmp_path / name).chmod(0o700)
    (tmp_path / "s2r2-mine_too" / "thesis.txt").touch()
    (tmp_path / "s2r2-unmarked").mkdir()
    (tmp_path / "s2r2-not_priv").mkdir(mode=0o755)
    (tmp_path / "s2r2-not_priv" / HELD).touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    for name in (HELD, "processes-0"):
        (elsewhere / name).touch()
    (tmp_path / "s2r2-a_link_1").symlink_to(elsewhere)
    kept = {"s2r2-mine_too", "s2r2-unmarked", "s2r2-not_priv", "s2r2-a_link_1", "elsewhere"}
    with meeting_place() as first:
        assert first.stat().st_mode & 0o777 == 0o700
        with meeting_place() as second:  # the first one lives
            assert first.is_dir()
            assert {path.name for path in tmp_path.iterdir()} == {first.name, second.name} | kept
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert (tmp_path / "s2r2-mine_too" / "thesis.txt").exists()
    assert (elsewhere / "processes-0").exists()
