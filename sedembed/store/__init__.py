"""Stores of embeddings on disk."""
