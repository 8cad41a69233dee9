"""Self-supervised image representation learning by ranking."""

__version__ = "0.1.0"
