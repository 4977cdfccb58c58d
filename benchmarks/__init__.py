"""Measurements beside peers, each in one run: `python -m benchmarks.steps --help`."""
