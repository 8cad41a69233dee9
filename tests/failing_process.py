"""``python -m s2r2`` whose second process fails when it encodes: HOW -P -m s2r2 ARGUMENTS."""

import os
import signal
import sys
from typing import Any

from s2r2.cli import main
from s2r2.encoder import Encoder
from s2r2.errors import S2R2Error


def fail(*_: Any, **__: Any) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise S2R2Error("the GPU of process 1 is broken")


if __name__ == "__main__":
    how = sys.argv.pop(1)
    del sys.argv[1:4]
    if os.environ["RANK"] == "1":
        Encoder.embed_pixels = fail  # type: ignore[method-assign, assignment]
    main()
