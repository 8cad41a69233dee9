"""Figures from embeddings and labels: retrieval, neighbors, intervals, health of an embedding space."""
