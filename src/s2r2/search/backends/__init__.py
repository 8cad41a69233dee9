"""Ways to find the nearest vectors, one file each: exact search, and approximate search by faiss or LanceDB."""
