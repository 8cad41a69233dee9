"""One road for strangers' bytes: processes that stay, are shared, and cost no more than one image when they end."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from children import is_running
from s2r2.images import ArraySource, PixelStore, UnreadableImage, decode, decode_expendable, open_source
from s2r2.images.decoding.decoder import decoded_size
from s2r2.images.decoding.member import Budget
from s2r2.images.decoding.pool import DecodingPool, shared_pool
from s2r2.images.decoding.protocol import DECODED, Job, Settings

SLOW = """
import json, os, sys, time
sys.path[:] = json.loads(sys.argv.pop(1))
from s2r2.images.decoding import worker
decode = worker.decode
def slow(content, **settings):
    if content.startswith(b"sleep"):
        time.sleep(600)
    while content.startswith(b"spin"):
        pass
    return decode(content, **settings)
worker.decode = slow
worker.main()
"""
ANY = Settings(None, 10**9)


def png(width: int = 40, height: int = 30) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (10, 200, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_worker_needs_no_torch_and_no_lance() -> None:
    code = "import sys, s2r2.images.decoding.worker\n"
    code += "print([m for m in ('torch', 'numba', 'pyarrow', 'timm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_processes_stay_and_are_shared() -> None:
    content = png()
    for image in (content, content):
        np.testing.assert_array_equal(decode_expendable(image), decode(content))
    pids = {m.process.pid for m in shared_pool()._members if m.process is not None}
    for _ in range(20):
        decode_expendable(content, short_side=8)
    assert {m.process.pid for m in shared_pool()._members if m.process is not None} == pids
    with pytest.raises(UnreadableImage, match="not an image"):
        decode_expendable(b"no photo")


def test_threads_may_ask_at_once() -> None:
    contents = [png(20 + i, 30) for i in range(40)]
    shapes: dict[int, tuple[int, ...]] = {}

    def ask(i: int) -> None:
        shapes[i] = decode_expendable(contents[i]).shape

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shapes == {i: (30, 20 + i, 3) for i in range(40)}


def test_arrays_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from s2r2.encoder import create_encoder

    monkeypatch.setattr("s2r2.images.decoding.pool.shared_pool", None)
    images = [np.zeros((50, 60, 3), np.uint8), Image.new("L", (80, 90))]
    assert create_encoder(image_size=32).embed(images).shape == (2, 512)


def test_what_reads_a_list_can_have_one_image_decoded_meanwhile() -> None:
    pool = DecodingPool(1)
    content = png(1000, 1000)
    answers = pool.run([Job("", content=content)] * 200, ANY)
    for _, answer in zip(range(60), answers, strict=False):
        assert answer.status == DECODED
        assert pool.one(Job("", content=png()), ANY).height == 30
    answers.close()  # type: ignore[attr-defined]
    pool.close()


@pytest.mark.parametrize("content", [b"sleep", b"spin"])
def test_an_image_that_takes_too_long_is_refused_and_the_next_one_is_read(
    content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s2r2.images.decoding.member.PROGRAM", SLOW)
    pool = DecodingPool(1)
    began = time.monotonic()
    answer = pool.one(Job("", content=content), Settings(None, 10**6, seconds=0.5))
    assert answer.reason == "took more than 0.5 s to decode"
    assert time.monotonic() - began < 10
    assert pool.one(Job("", content=png()), ANY).status == DECODED
    pool.close()


def test_a_worker_gives_up_by_itself_when_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2r2.images.decoding.member.PROGRAM", SLOW)
    monkeypatch.setattr("s2r2.images.decoding.member.Member.end_if_overdue", lambda self, now: None)
    pool = DecodingPool(1)
    assert "took more than 0.2 s" in pool.one(Job("", content=b"spin"), Settings(None, 10**6, seconds=0.2)).reason
    pool.close()


PARENT = f"""
from s2r2.images.decoding import member
from s2r2.images.decoding.pool import DecodingPool
from s2r2.images.decoding.protocol import Job, Settings
import threading, time
member.PROGRAM = {SLOW!r}
pool = DecodingPool(2)
for content in (b"sleep", b"spin"):
    job = Job("", content=content)
    threading.Thread(target=pool.one, args=(job, Settings(None, 10**6)), daemon=True).start()
while sum(m.process is not None and m._deadline is not None for m in pool._members) < 2:
    time.sleep(0.05)
time.sleep(0.5)
print(*(m.process.pid for m in pool._members if m.process is not None), flush=True)
time.sleep(60)
"""


def test_workers_end_with_a_killed_parent_in_the_middle_of_an_image() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(number) for number in parent.stdout.readline().split()]
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    until = time.monotonic() + 10
    while any(is_running(number) for number in workers):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_worker_that_somebody_ends_costs_no_image() -> None:
    pool = DecodingPool(1)
    jobs = [Job("", content=png(500, 500))] * 100
    answers = []
    for number, answer in enumerate(pool.run(jobs, ANY)):
        answers.append(answer.status)
        if number % 40 == 10:
            for member in pool._members:
                if member.process is not None:
                    os.kill(member.process.pid, signal.SIGKILL)
    pool.close()
    assert answers == [DECODED] * 100


def test_large_images_wait_for_each_other() -> None:
    budget = Budget(100)
    held: list[int] = []
    most = 0
    lock = threading.Lock()

    def hold(pixels: int) -> None:
        nonlocal most
        budget.take(pixels)
        with lock:
            held.append(pixels)
            most = max(most, sum(held) if len(held) > 1 else 0)
        time.sleep(0.01)
        with lock:
            held.remove(pixels)
        budget.give(pixels)

    threads = [threading.Thread(target=hold, args=(pixels,)) for pixels in (40, 60, 500, 30, 30, 100, 1, 50, 70)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert most <= 100
    assert budget.used == 0


def test_the_budget_is_asked_before_pixels_are_made_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    take = Budget.take

    def noted(self: Budget, pixels: int) -> None:
        asked.append(pixels)
        take(self, pixels)

    monkeypatch.setattr(Budget, "take", noted)
    pool = DecodingPool(2)
    wide = Image.new("L", (6000, 4000))
    contents = {}
    for name, options in {"baseline": {}, "progressive": {"progressive": True}, "png": {}}.items():
        buffer = io.BytesIO()
        wide.save(buffer, "PNG" if name == "png" else "JPEG", **options)
        contents[name] = buffer.getvalue()
    small = Settings(100, 10**9)
    assert pool.one(Job("", content=contents["baseline"]), small).height == 100
    assert not asked  # libjpeg reduces it while it decodes
    assert pool.one(Job("", content=contents["progressive"]), small).height == 100
    assert pool.one(Job("", content=contents["png"]), small).height == 100
    assert [round(pixels / 1e6) for pixels in asked] == [24, 24]
    assert pool._members[0]._budget.used == 0
    pool.close()


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_nothing_is_decoded_before_the_budget_is_asked_or_for_the_size(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer, events = io.BytesIO(), list[str]()
    Image.new("RGB", (40, 30)).save(buffer, name)
    for kind in (Image.Image, ImageFile.ImageFile):
        load = kind.load

        def noted(self: Image.Image, load: Any = load) -> Any:
            events.append("decoded")
            return load(self)

        monkeypatch.setattr(kind, "load", noted)
    assert decoded_size(buffer.getvalue()) == (40, 30)
    assert not events
    decode(buffer.getvalue(), ask=lambda pixels: events.append(f"asked for {pixels}"))
    assert events[0] == "asked for 1200"
    assert "decoded" in events


def test_transparency_is_counted_twice() -> None:
    """It is copied onto white."""
    buffer, asked = io.BytesIO(), list[int]()
    Image.new("RGBA", (40, 30)).save(buffer, "PNG")
    decode(buffer.getvalue(), ask=asked.append)
    assert asked == [2400]


def test_a_forked_process_has_its_own_pool() -> None:
    expected = decode_expendable(png())
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"+" if np.array_equal(decode_expendable(png()), expected) else b"-")
        os._exit(0)
    assert os.read(reading, 1) == b"+"
    os.waitpid(child, 0)
    np.testing.assert_array_equal(decode_expendable(png()), expected)


def test_every_source_decodes_outside_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tarfile

    (tmp_path / "photos").mkdir()
    for i in range(3):
        (tmp_path / "photos" / f"{i}.png").write_bytes(png())
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        archive.add(tmp_path / "photos", "photos")
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"photos/{i}.png\n" for i in range(3)))
    (tmp_path / "remote.csv").write_text("path\n" + f"file://{tmp_path}/photos/0.png\n")
    monkeypatch.setattr("s2r2.images.decoding.decoder._decode", None)  # in this process nothing can be decoded
    for name in ("photos", "photos.tar", "list.csv", "remote.csv"):
        assert open_source(tmp_path / name).read(0, 16).shape == (16, 21, 3)
    arrays = ArraySource("arrays", np.zeros((2, 30, 40, 3), np.uint8), None)
    assert arrays.read(0).shape == (30, 40, 3)
    assert json.dumps(arrays.stamp(0))


def test_what_an_earlier_decoder_could_not_read_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    for name, content in {"good.png": png(), "bad.png": b"no photo"}.items():
        (tmp_path / "photos" / name).write_bytes(content)
    source = open_source(tmp_path / "photos")
    assert PixelStore.build(source, 24, tmp_path / "stores", progress=False).decoded == 2
    assert PixelStore.build(source, 24, tmp_path / "stores", progress=False).decoded == 0
    monkeypatch.setattr("s2r2.images.decoding.formats.DECODER", 99)
    assert PixelStore.build(source, 24, tmp_path / "stores", progress=False).decoded == 1
