"""Builds a pixel store in a process of its own, to be killed: ``python building_worker.py DATA FOLDER``."""

import sys
from pathlib import Path

from s2r2.images import PixelStore, open_source

if __name__ == "__main__":
    store = PixelStore.build(open_source(sys.argv[1]), 48, Path(sys.argv[2]), progress=False)
    print(len(store), store.fingerprint)
