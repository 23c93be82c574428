"""Progress on standard error: lines and bars."""

import contextlib
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from core import distributed
from core.terminal import terminal


def say(line: str, style: str | None = None) -> None:
    """One line on standard error, however long; of several processes the first says it."""
    if distributed.is_main():
        terminal(stderr=True).print(line, soft_wrap=True, style=style)


@contextlib.contextmanager
def counted(what: str, total: int, unit: str = "images", shown: bool = True) -> Iterator[Callable[[int], None]]:
    """A bar on standard error; a line where that is no terminal. Yields ``done(count)``.

    Of several processes the first shows it, for its own share.

    Args:
        total: of all processes.
        shown: False shows nothing.
    """
    if not shown or not distributed.is_main():
        yield lambda count: None
        return
    console, total = terminal(stderr=True), -(-total // distributed.count())
    if not console.is_terminal:
        console.print(f"{what}: {total} {unit}", soft_wrap=True)
        yield lambda count: None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.update(task, completed=count)
