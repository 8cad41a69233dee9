"""Figures from embeddings and labels: retrieval, neighbours, intervals, health of an embedding space."""
