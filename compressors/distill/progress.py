"""What a person sees while a stage trains: a bar with loss, speed and time left, on standard error."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from core import processes
from core.terminal import terminal


@contextlib.contextmanager
def progress_bar(name: str, steps: int, done: int) -> Iterator[Callable[[int, Mapping[str, float], float], None]]:
    """Yields ``show(step, terms, images_per_s)``. Without a terminal it prints a line at every quarter of the way.

    Of several processes only the first shows anything.
    """
    console = terminal(stderr=True)
    if not processes.is_first():
        yield lambda step, terms, speed: None
        return
    if not console.is_terminal:
        next_line = [done + max(1, steps // 4)]

        def line(step: int, terms: Mapping[str, float], speed: float) -> None:
            if step >= next_line[0] or step == steps:
                next_line[0] = step + max(1, steps // 4)
                parts = [f"step {step}/{steps}", *(f"{key} {value:.4g}" for key, value in terms.items())]
                parts += [f"{speed:.1f} images/s"] if speed else []
                console.print(f"{name}: {', '.join(parts)}", soft_wrap=True)

        yield line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=False) as bar:
        task = bar.add_task(name, total=steps, completed=done, loss="", speed="")

        def show(step: int, terms: Mapping[str, float], speed: float) -> None:
            loss = " ".join(f"{key} {value:.4g}" for key, value in terms.items())
            bar.update(task, completed=step, loss=loss, speed=f"{speed:.1f} images/s" if speed else "")

        yield show
