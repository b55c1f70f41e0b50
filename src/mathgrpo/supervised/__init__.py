"""Supervised runs: the cold start, and models from scratch."""
