"""Linear classifiers on embeddings."""
