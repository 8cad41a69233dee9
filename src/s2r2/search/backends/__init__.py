"""Ways to find the nearest vectors: exactly, or approximately through LanceDB."""
