"""Copies among the photos of an index: found, confirmed by pixels, and put away."""
