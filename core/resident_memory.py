"""The most memory this process has had in use."""

import resource
import sys
from pathlib import Path


def peak_resident_bytes() -> int:
    """Bytes of resident pages at their peak, of this program alone.

    Linux hands ``ru_maxrss`` on to a program that is started: it may be the peak of whoever started it. ``VmHWM`` is
    not, and counts pages in batches (within some MB).
    """
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, other systems kilobytes.
    return peak if sys.platform == "darwin" else peak * 1024
