"""Memory of this process and its decoders while photos of 175 megapixels are decoded at once.

    python benchmarks/decoding_memory.py             eight PNGs each of colors, with transparency, and gray

Each is reduced to a short side of 256 px. Exits with 1 if all processes together hold 2 GiB at any time.
"""

import argparse
import io
import os
import signal
import threading
import time

from PIL import Image

from s2r2.images import decode_expendable
from s2r2.images.decoding.pool import shared_pool
from serving_under_attack import MEMORY, tree_memory

COLOURS = {"RGB": (10, 200, 30), "RGBA": (10, 200, 30, 99), "L": 7}


def peak_of(content: bytes, count: int) -> int:
    """Most bytes of all processes while ``count`` threads have the same photo decoded."""
    seen, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            decoders = [member.process for member in shared_pool()._members if member.process is not None]
            for signal_number in (signal.SIGSTOP, signal.SIGCONT):  # all are looked at as they are at one moment
                for decoder in decoders:
                    decoder.send_signal(signal_number)
                if signal_number == signal.SIGSTOP:
                    seen.append(tree_memory(os.getpid()))

    threads = [
        threading.Thread(target=decode_expendable, args=(content,), kwargs={"short_side": 256, "seconds": 600.0})
        for _ in range(count)
    ]
    for thread in (watching := threading.Thread(target=watch), *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    watching.join()
    return max(seen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=8, help="photos at once")
    parser.add_argument("--mode", choices=COLOURS, action="append", help="some only")
    parser.add_argument("--side", type=int, default=13_225, help="of a photo, in pixels")
    a = parser.parse_args()
    worst = 0
    for mode in a.mode or COLOURS:
        buffer = io.BytesIO()
        Image.new(mode, (a.side, a.side), COLOURS[mode]).save(buffer, "PNG", compress_level=1)
        began = time.monotonic()
        worst = max(worst, peak := peak_of(buffer.getvalue(), a.count))
        print(f"{a.count} {mode} photos of {a.side**2 / 1e6:.0f} megapixels: peak {peak >> 20:,} MiB, "
              f"{time.monotonic() - began:.0f} s", flush=True)  # fmt: skip
    raise SystemExit(worst >= MEMORY)


if __name__ == "__main__":
    main()
