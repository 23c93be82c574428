"""What settings may make Hydra itself do: run this project's commands, here or by a launcher, and nothing else.

Hydra builds launchers, sweepers, callbacks and handlers of logs from names in the settings, whoever wrote those.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import _run_app, create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from core.errors import InputError

_PLUGINS = ("hydra_plugins.", "hydra._internal.core_plugins.")
_NO_LOGS = {"version": 1, "root": None, "disable_existing_loggers": False}
_FOREIGN = re.compile(r"\$\{(?!hydra[.:]|now:|runs\})")
"""The beginning of a reference to anything but Hydra's own settings, the time and the folder of runs."""
ENVIRONMENT = ("CUDA_", "GLOO_", "MKL_", "NCCL_", "OMP_", "WANDB_")
"""First letters of the variables that ``hydra.job.env_set`` may set: none of them names a program or a library."""


def check_before_hydra(name: str, overrides: Sequence[str], folder: Path | None) -> RunMode | None:
    """Compose the settings without doing anything they say, and check what they say to Hydra.

    Args:
        name: of the command's settings in ``conf/``.
        overrides: settings as they were typed, without options.
        folder: of ``--config-dir``.

    Returns:
        ``hydra.mode``: whether they ask for one job or for a sweep.

    Raises:
        InputError: see :func:`check_hydra_settings`.
        HydraException: the settings do not compose.
    """
    loader = ConfigLoaderImpl(_search(folder))
    settings = loader.load_configuration(name, list(overrides), RunMode.MULTIRUN, validate_sweep_overrides=False)
    check_hydra_settings(settings)
    mode: RunMode | None = settings.hydra.mode
    return mode


def run_jobs(
    job: Callable[[DictConfig], Any],
    name: str,
    overrides: Sequence[str],
    folder: Path | None,
    multirun: bool,
    mode: RunMode | None,
) -> None:
    """Let Hydra compose and do a job, or those of a sweep; ``hydra.main`` composes all once more to find the mode.

    Args:
        multirun: whether ``-m`` was given.
        mode: what :func:`check_before_hydra` found.
    """
    version.setbase("1.3")
    hydra = Hydra.create_main_hydra2("experiments", _search(folder))
    try:
        _run_app(not multirun, multirun, mode, hydra, name, job, list(overrides))
    finally:
        GlobalHydra.instance().clear()


def _search(folder: Path | None) -> ConfigSearchPath:
    search = create_config_search_path("pkg://conf")
    if folder is not None:
        search.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    return search


def check_hydra_settings(settings: DictConfig) -> None:
    """Refuse composed settings by which Hydra would call or change something else.

    Args:
        settings: all, with the part ``hydra``.

    Raises:
        InputError: a class that is no plugin of Hydra, a callback, a handler of logs, or another variable of the
            environment is named.
    """
    asked = OmegaConf.to_container(settings.hydra, resolve=False)
    assert isinstance(asked, dict)
    if isinstance(asked["job"], dict):
        # Hydra's own summary of what was typed, which may be any text.
        asked["job"].pop("override_dirname", None)
    for place, target in _targets(asked, "hydra"):
        if not isinstance(target, str) or not target.startswith(_PLUGINS):
            raise InputError(f"{place}={target}: only plugins of Hydra may stand there; leave it out")
    for part in ("launcher", "sweeper", "job"):
        if not isinstance(asked[part], dict) or any(_FOREIGN.search(text) for text in _texts(asked[part])):
            raise InputError(f"hydra.{part}: refers to settings that are not Hydra's; write out what it needs")
    if asked["callbacks"]:
        raise InputError(
            f"hydra.callbacks: {_first(asked['callbacks'])} would be called; no callbacks of Hydra are taken"
        )
    for part in ("job_logging", "hydra_logging"):
        if asked[part] != _NO_LOGS:
            raise InputError(f"hydra.{part}: is not taken, since handlers of logs may be any program; leave it out")
    for variable in asked["job"]["env_set"]:
        if not str(variable).startswith(ENVIRONMENT):
            raise InputError(
                f"hydra.job.env_set.{variable}: only variables that begin with {', '.join(ENVIRONMENT)} are set; "
                "set it in the shell"
            )


def _first(callbacks: Any) -> Any:
    return next(iter(callbacks)) if isinstance(callbacks, dict) else callbacks


def _targets(node: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "_target_":
                yield f"{place}._target_", value
            yield from _targets(value, f"{place}.{key}")
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value, place)


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _texts(value)
