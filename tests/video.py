"""Short videos for tests: a red corner on black, ten frames a second."""

import datetime
from pathlib import Path

import av
import numpy as np


def write_video(path: Path, *, seconds: float = 3, recorded: datetime.datetime | None = None) -> Path:
    """Write a video of 64 x 48 pixels, MPEG-4, in the container that its name says."""
    with av.open(path, "w") as container:
        if recorded:
            container.metadata["creation_time"] = recorded.isoformat()
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(round(10 * seconds)):
            picture = np.zeros((48, 64, 3), np.uint8)
            picture[:24, :32] = (255, 0, 0)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return path


def held_upright(content: bytes) -> bytes:
    """A video in MP4 as a camera writes it that was turned: its pictures are to be shown turned to the right."""
    one, zero, end = b"\0\1\0\0", bytes(4), b"\x40\0\0\0"
    at = content.index(one + zero * 3 + one + zero * 3 + end, content.index(b"tkhd"))
    turned = zero + one + zero + b"\xff\xff\0\0" + zero * 4 + end
    return content[:at] + turned + content[at + len(turned) :]
