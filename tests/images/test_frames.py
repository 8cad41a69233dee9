"""Frames of real videos: upright, in time, of one sequence each; and videos that are none."""

import csv
import datetime
import errno
import os
from pathlib import Path

import pytest
from PIL import Image

from s2r2.cli import main
from s2r2.errors import S2R2Error
from s2r2.images import PixelStore, open_source
from s2r2.images.frames import write_frames
from s2r2.images.grades import group_photos, read_grades
from video import held_upright, write_video


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_videos_become_sequences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "videos" / "trip"
    place.mkdir(parents=True)
    write_video(place / "one.mp4", seconds=3)
    write_video(place.parent / "one.mp4", seconds=5)
    (place.parent / "notes.txt").write_text("no video")
    out = tmp_path / "frames"
    main(["frames", str(place.parent), "--out", str(out)])
    said = capsys.readouterr().out
    assert "video     trip/one.mp4  3 pictures\n" in said
    assert "8 of 2 videos" in said
    assert "skipped" not in said
    found = rows(out / "frames.csv")
    assert [(row["sequence"], row["time"]) for row in found[:5]] == [
        ("one.mp4", f"{second}.000") for second in range(5)
    ]
    assert {row["sequence"] for row in found[5:]} == {"trip/one.mp4"}
    store = PixelStore.build(open_source(out / "frames.csv"), 32, tmp_path / "store", progress=False)
    groups = group_photos(read_grades("time:2s"), store)  # both begin at 0, yet they are two cameras
    assert groups.sentence.startswith("2 bursts hold 8 of 8 photos")


def test_every_frame_or_one_in_some_seconds(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", seconds=3)
    assert write_frames([video], tmp_path / "all", every=0).frames == 30
    assert [row["time"] for row in rows(write_frames([video], tmp_path / "some", every=0.7).manifest)] == [
        "0.000", "0.700", "1.400", "2.100", "2.800",
    ]  # fmt: skip


def test_pictures_are_upright_and_know_when_they_were_taken(tmp_path: Path) -> None:
    moment = datetime.datetime(2026, 5, 1, 12, 30, tzinfo=datetime.UTC)
    video = write_video(tmp_path / "v.mp4", seconds=2, recorded=moment)
    video.write_bytes(held_upright(video.read_bytes()))
    written = write_frames([video], tmp_path / "out")
    assert [float(row["time"]) for row in rows(written.manifest)] == [moment.timestamp(), moment.timestamp() + 1]
    with Image.open(tmp_path / "out" / rows(written.manifest)[0]["path"]) as picture:
        assert picture.size == (48, 64)
        assert picture.getpixel((40, 5))[0] > 200  # the red corner, turned to the right
        assert picture.getpixel((5, 5))[0] < 50


def test_what_cannot_be_read_is_listed_with_its_reason(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    whole = write_video(videos / "a.mkv", seconds=20).read_bytes()
    (videos / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (videos / "empty.mp4").touch()
    (videos / "no.mp4").write_bytes(b"no video" * 100)
    (videos / "list.m4v").write_text(f"#EXTM3U\n#EXTINF:1,\n{videos / 'a.mkv'}\n")  # a playlist may name any file
    (videos / "concat.m4v").write_text(f"ffconcat version 1.0\nfile {videos / 'a.mkv'}\n")
    written = write_frames([videos], tmp_path / "out")
    reasons = {Path(one.key).name: one.reason for one in written.skipped}
    assert set(reasons) == {"cut.mkv", "empty.mp4", "no.mp4", "list.m4v", "concat.m4v"}
    assert "pictures: damaged: it ends after" in reasons["cut.mkv"]
    assert reasons["empty.mp4"] == "the file is empty"
    assert {row["sequence"] for row in rows(written.manifest)} == {"a.mkv", "cut.mkv"}
    assert (tmp_path / "out" / "skipped.csv").read_text().count("\n") == 6
    with pytest.raises(S2R2Error, match=r"none of the videos can be read; .*no\.mp4: damaged"):
        write_frames([videos / "no.mp4"], tmp_path / "none")


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_links_are_followed_once_and_what_leads_nowhere_is_told(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_video(elsewhere / "v.mp4")
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "linked").symlink_to(elsewhere)
    (videos / "round").symlink_to(videos)
    written = write_frames([videos], tmp_path / "out")
    assert {row["sequence"] for row in rows(written.manifest)} == {"linked/v.mp4"}
    assert [one.key for one in written.skipped] == ["round"]


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = write_video(tmp_path / "v.mp4")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        with pytest.raises(S2R2Error, match="No space left on device; free space or choose another `out`"):
            write_frames([video], tmp_path / "out")
    assert write_frames([video], tmp_path / "other").frames == 3


@pytest.mark.parametrize("wrong", ["none", "missing"])
def test_there_is_no_video(tmp_path: Path, wrong: str) -> None:
    place = tmp_path / "videos"
    if wrong == "none":
        place.mkdir()
    with pytest.raises(S2R2Error, match=r"no videos in|no such file or folder"):
        write_frames([place], tmp_path / "out")
    assert not (tmp_path / "out").exists()
