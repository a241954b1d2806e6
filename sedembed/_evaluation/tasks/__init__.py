"""The target tasks, one module each."""
