"""The command line: ``python -m experiments``."""

from core.threads import let_idle_threads_sleep

let_idle_threads_sleep()
