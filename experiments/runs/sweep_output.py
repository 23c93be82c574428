"""What the jobs of a sweep write: refused before the first one begins where one would replace what another wrote."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from core.errors import InputError
from core.plain_file import home_path


def check_outputs(command: str, jobs: Iterable[DictConfig]) -> None:
    """Refuse a sweep whose jobs would write to one place.

    Args:
        command: of :data:`experiments.config.schema.COMMANDS`.
        jobs: the settings of each job.

    Raises:
        InputError: two jobs would; the message names the place.
    """
    taken: set[str] = set()
    for settings in jobs:
        # The same file by another name is found by what Python makes of the name, without a look at the disk.
        places = {os.path.abspath(path) for path in _outputs(command, settings)}
        if twice := sorted(places & taken):
            out = _text(settings, "out")
            raise InputError(
                f"out={'null' if out is None else out}: several jobs of the sweep would write {twice[0]}, each over "
                "the one before; give one command for each, with an out of its own"
            )
        taken |= places


def _outputs(command: str, settings: DictConfig) -> list[Path]:
    """What a job writes under a name that does not tell its other settings; of images, one file or name each."""
    out, image = _text(settings, "out"), _text(settings, "image")
    if command in ("predict", "everything") and image is None:
        # Scores have names of their own.
        return []
    if command == "everything":
        return _annotations(home_path(str(image)), out)
    if out is None:
        return []
    return [home_path(out) / f"{home_path(str(image)).stem}_overlay.png" if command == "predict" else home_path(out)]


def _annotations(image: Path, out: str | None) -> list[Path]:
    """Of an image or of those in a folder; none where the job itself refuses them."""
    # Here, as only this command needs PyTorch for it.
    from experiments.everything.files import OUT, places

    with suppress(InputError, OSError, ValueError):
        return [place.annotations for place in places(image, home_path(out or OUT), draw=False)[0]]
    return []


def _text(settings: DictConfig, key: str) -> str | None:
    """A setting; None where there is none, or what it refers to is not there, which the job refuses."""
    value = OmegaConf.select(settings, key, throw_on_missing=False, throw_on_resolution_failure=False)
    return None if value is None else str(value)
