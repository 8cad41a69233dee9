"""``s2r2``, and ``python -m s2r2`` (``torchrun -m s2r2`` too): the command line."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is being imported is one line, too."""
    try:
        from s2r2.cli import main as run
    except KeyboardInterrupt:
        print("s2r2: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    run()


if __name__ == "__main__":
    main()
