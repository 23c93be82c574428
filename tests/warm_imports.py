"""Importing this imports what commands do: the process that :mod:`tests.warm_processes` forks begins with it."""

import contextlib
import importlib
import os
import pkgutil

from core.provenance import ROOT

PACKAGES = ("core", "data", "teachers", "students", "compressors", "evaluation", "experiments")
LATER = (
    *("matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "pandas", "torch._dynamo"),
    "torch_pruning",
)
"""What a run imports on its way."""

for package in PACKAGES:
    for found in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
        if not found.name.endswith("__main__"):
            # What an extra is needed for may be missing.
            with contextlib.suppress(ImportError):
                importlib.import_module(found.name)
for name in LATER:
    importlib.import_module(name)
# Nobody waits for its end, so nobody need read what packages say then; each command has streams of its own.
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
