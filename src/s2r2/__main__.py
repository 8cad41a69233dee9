"""``python -m s2r2`` is the command line (``torchrun -m s2r2`` too)."""

from s2r2.cli import main

if __name__ == "__main__":
    main()
