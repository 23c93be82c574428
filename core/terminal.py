"""Where lines for people go."""

from typing import IO

from rich.console import Console


def terminal(stderr: bool = False, file: IO[str] | None = None) -> Console:
    """Standard output, standard error or a file, to which text is printed as it is: brackets in it are no markup."""
    return Console(stderr=stderr, file=file, markup=False, emoji=False, highlight=False)
