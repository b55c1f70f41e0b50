"""Measurements of this project against its peers, on one machine and in one run. See docs/benchmark.md."""
