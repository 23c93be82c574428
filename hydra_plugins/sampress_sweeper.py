"""Hydra's basic sweeper, which leaves senseless combinations out and keeps what the jobs gave.

Hydra takes sweepers from the package ``hydra_plugins`` alone; there is no other reason for this folder.
"""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override

from core.errors import InputError, RunFailed
from experiments.config.hydra_settings import check_hydra_settings
from experiments.config.hydra_words import hydra_words
from experiments.config.schema import method_options
from experiments.runs.sweeps.combinations import sensible, told
from experiments.runs.sweeps.outcome import SWEPT


class Sweeper(BasicSweeper):
    """Every combination of the values given, in order; see :func:`experiments.runs.sweeps.combinations.sensible`."""

    @staticmethod
    def split_arguments(overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        """The jobs, in batches of at most ``max_batch_size``; says what was left out.

        Raises:
            InputError: a setting is swept over nothing.
        """
        for override in overrides:
            if override.is_discrete_sweep() and next(iter(override.sweep_string_iterator()), None) is None:
                raise InputError(f"{override.input_line}: gives no value, so nothing would run; give at least one")
        (jobs,) = BasicSweeper.split_arguments(overrides, None)
        kept, left_out = sensible(jobs, method_options())
        for line in told(len(jobs), len(kept), left_out):
            print(line, file=sys.stderr)
        size = max_batch_size or max(1, len(kept))
        return [kept[start : start + size] for start in range(0, len(kept), size)]

    def _parse_config(self) -> list[str]:
        """What a preset sweeps over, as Hydra's grammar has it."""
        assert self.config is not None
        name = self.config.hydra.job.config_name
        return hydra_words("run" if name == "config" else name, super()._parse_config(), sweep=True)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose each job's settings before the first is run.

        Raises:
            InputError: a job would make Hydra call something else (:mod:`experiments.config.hydra_settings`).
            HydraException: a job's settings do not compose.
        """
        assert self.config is not None and self.hydra_context is not None
        for overrides in batch:
            check_hydra_settings(self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides)))

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs, keep their outcomes in ``SWEPT``; settings that do not compose leave nothing behind."""
        assert self.config is not None
        SWEPT.clear()
        folder = Path(self.config.hydra.sweep.dir)
        if "${" in str(folder):
            raise InputError(f"runs={folder.parent}: a sweep cannot write to a folder with ${{ in its name; rename it")
        before = (folder / "multirun.yaml").exists()
        try:
            batches = super().sweep(arguments)
        except Exception as error:
            if type(error).__module__.partition(".")[0] in ("joblib", "submitit"):
                raise RunFailed(
                    f"a job of the sweep was ended from outside ({type(error).__name__}: {_last_line(error)}); "
                    f"its output, if any, stands below {folder}; the same command goes on with what is missing"
                ) from error
            if not before:
                _clear(folder)
            raise
        SWEPT.extend(result.return_value for batch in batches for result in batch)
        return batches


def _last_line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip(" -")), "no message")


def _clear(folder: Path) -> None:
    (folder / "multirun.yaml").unlink(missing_ok=True)
    # Only folders that hold nothing else go.
    with contextlib.suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()
