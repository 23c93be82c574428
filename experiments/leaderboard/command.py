"""The command ``leaderboard``: CSV, Markdown and one page of all rows, and a table on the terminal."""

from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from core.checkpoint import write_text
from core.errors import InputError
from core.plain_file import home_path
from experiments.config.messages import nearest
from experiments.config.schema import LeaderboardConfig
from experiments.config.typed_command import typed_command
from experiments.leaderboard import markdown
from experiments.leaderboard.folding import FILE, Entry, Leaderboard, csv_of, gather
from experiments.leaderboard.run_pages import FOLDER, page_names, write_pages
from experiments.leaderboard.terminal import print_leaderboard
from experiments.out_place import writing_to
from experiments.pages import leaderboard_page

_TYPED = ("runs", "out", "results", "published", "protocol", "dataset", "pages")


def leaderboard(settings: LeaderboardConfig, cfg: DictConfig) -> list[Entry]:
    """Write every file and show the models; returns the rows.

    Raises:
        InputError: there is no row, or none of the protocol or data set that is asked for, or nothing can be written.
    """
    runs = Path(settings.runs)
    board = narrowed(gather(runs, settings.results, settings.published), settings)
    out = runs if settings.out is None else home_path(settings.out)
    with writing_to(out):
        written = write_leaderboard(board, out, typed_command("leaderboard", settings, _TYPED), settings.pages)
    if settings.format == "table":
        print_leaderboard(board, written, runs)
    return board.entries


def write_leaderboard(board: Leaderboard, out: Path, command: str, pages: bool = True) -> list[Path]:
    """Write ``leaderboard.csv``, ``.md`` and ``.html``, each atomically, and the pages of single runs.

    Args:
        command: what makes them anew, as it is typed.
        pages: whether each run has a page of its own, linked from the table.

    Returns:
        The files, and the folder of the pages if there is one.
    """
    files = [out / FILE, out / markdown.FILE, out / leaderboard_page.FILE]
    write_text(files[0], csv_of(board.entries))
    write_text(files[1], markdown.markdown_of(board, command))
    addresses: dict[str, str] = {}
    if pages and any(entry.origin is not None for entry in board.entries):
        write_pages(board.entries, out)
        made = page_names(board.entries).items()
        addresses = {shown: f"{FOLDER}/{name}" for shown, name in made if (out / FOLDER / name).is_file()}
        files.append(out / FOLDER)
    write_text(files[2], leaderboard_page.leaderboard_page(board, command, addresses))
    return files


def narrowed(board: Leaderboard, settings: LeaderboardConfig) -> Leaderboard:
    """The rows of one data set or one protocol, if that is asked for.

    Raises:
        InputError: there are no rows, or none that has it.
    """
    if not board.entries:
        raise InputError(f"runs={settings.runs}: no finished run there; start one with method=slimsam ratio=0.77")
    for key, wanted in (("protocol", settings.protocol), ("data", settings.dataset)):
        if wanted is None:
            continue
        known = list(dict.fromkeys(str(value) for entry in board.entries if (value := entry.columns[key])))
        keep = [
            place
            for place, entry in enumerate(board.entries)
            if wanted in (entry.columns[key], str(entry.columns[key]).partition("@")[0])
        ]
        if not keep:
            raise InputError(f"{key}={wanted}: no row has it; {nearest(wanted, known)}")
        moved = {old: new for new, old in enumerate(keep)}
        models = [
            replace(model, entries=tuple(moved[place] for place in model.entries))
            for model in board.models
            # Rows of a model share data set and protocol.
            if model.entries[0] in moved
        ]
        board = Leaderboard([board.entries[place] for place in keep], models)
    return board
