"""Timings: each file compares things in one run and prints their ratio. ``python -m benchmarks.<file> --help``."""

from core.threads import let_idle_threads_sleep

let_idle_threads_sleep()
