"""Whole folders: embedding, tagging and detection that resume."""
