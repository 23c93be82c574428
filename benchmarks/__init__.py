"""Timings: each file compares things in one run and prints their ratio. ``python -m benchmarks.<file> --help``."""
