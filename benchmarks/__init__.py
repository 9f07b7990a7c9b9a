"""Measured figures, each beside what it is compared to in the same run: `python -m benchmarks`."""
