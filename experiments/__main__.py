"""``python -m experiments``: compress a SAM, score it beside its teacher, and keep the row.

The arguments become an exit status in :mod:`experiments.command_line`; ``--help`` lists what can be asked for.
"""

import sys

from experiments.command_line import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
