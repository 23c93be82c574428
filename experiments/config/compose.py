"""The one composition of a command's settings, and what settings may make Hydra itself do."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from core.errors import InputError
from experiments.config.files import CONF, group_file
from experiments.config.words import quoted

ENVIRONMENT = ("CUDA_", "GLOO_", "MKL_", "NCCL_", "OMP_", "WANDB_")
"""First letters of the variables that ``hydra.job.env_set`` may set: none of them names a program or a library."""
_PLUGINS = ("hydra_plugins.", "hydra._internal.core_plugins.")
_NO_LOGS = {"version": 1, "root": None, "disable_existing_loggers": False}
_FOREIGN = re.compile(r"\$\{(?!hydra[.:]|now:|runs\})")
"""The beginning of a reference to anything but Hydra's own settings, the time and the folder of runs."""


@contextmanager
def composing() -> Iterator[None]:
    """A block in which Hydra composes settings. Its files are found by :func:`search_path`."""
    with hydra.initialize(config_path=None, version_base="1.3", job_name="experiments"):
        yield


def search_path(folder: Path | None) -> str:
    """Hydra's setting of where files of settings are: ``conf/``, and the folder of ``--config-dir``.

    They are read by ``hydra_plugins/sampress_files.py``, which keeps text as it is written.
    """
    places = [CONF] if folder is None else [CONF, folder]
    return f"hydra.searchpath=[{','.join(quoted(f'sampress://{place}') for place in places)}]"


def compose(command: str, words: Sequence[str], folder: Path | None = None) -> DictConfig:
    """The settings of a command, with Hydra's own below ``hydra``; nothing they say is done.

    Args:
        command: of :data:`experiments.config.schema.COMMANDS`.
        words: settings in Hydra's grammar, each with one value.
        folder: of ``--config-dir``.

    Raises:
        InputError: see :func:`check_hydra_settings`.
        HydraException: the settings do not compose.
    """
    if given := next((word for word in words if word.lstrip("+~").startswith("hydra.searchpath")), None):
        raise InputError(f"{given}: further settings are given by --config-dir FOLDER")
    settings = hydra.compose(f"{command}_command", [search_path(folder), *words], return_hydra_config=True)
    check_hydra_settings(settings)
    return settings


def known_settings(command: str, words: Sequence[str], folder: Path | None) -> DictConfig | None:
    """The settings with nothing but the valid choices of groups, to look up what a wrong key may have meant."""
    kept = []
    for text in words:
        key, _, value = text.partition("=")
        first = value.split(",")[0]
        # Of a name that is too long for a file, pathlib raises.
        try:
            if any(group_file(key, first, root).is_file() for root in (CONF, folder) if root is not None):
                kept.append(f"{key}={first}")
        except (OSError, ValueError):
            continue
    try:
        return without_hydra(compose(command, kept, folder))
    except (HydraException, OmegaConfBaseException):
        return None


def without_hydra(settings: DictConfig) -> DictConfig:
    """The settings of the command alone; Hydra's are left where :class:`HydraConfig` has them."""
    HydraConfig.instance().set_config(settings)
    own = settings.copy()
    with open_dict(own):
        del own["hydra"]
    return own


def check_hydra_settings(settings: DictConfig) -> None:
    """Refuse composed settings by which Hydra would call or change something else than this project's commands.

    Hydra builds launchers, sweepers, callbacks and handlers of logs from names in the settings, whoever wrote those.

    Args:
        settings: all, with the part ``hydra``.

    Raises:
        InputError: a class that is no plugin of Hydra, a callback, a handler of logs, or another variable of the
            environment is named.
    """
    composed = OmegaConf.to_container(settings.hydra, resolve=False)
    assert isinstance(composed, dict)
    if isinstance(composed["job"], dict):
        # Hydra's own summary of what was typed, which may be any text.
        composed["job"].pop("override_dirname", None)
    for place, target in _targets(composed, "hydra"):
        if not isinstance(target, str) or not target.startswith(_PLUGINS):
            raise InputError(f"{place}={target}: only plugins of Hydra may stand there; leave it out")
    for part in ("launcher", "sweeper", "job"):
        if not isinstance(composed[part], dict) or any(_FOREIGN.search(text) for text in _texts(composed[part])):
            raise InputError(f"hydra.{part}: refers to settings that are not Hydra's; write out what it needs")
    if callbacks := composed["callbacks"]:
        name = next(iter(callbacks)) if isinstance(callbacks, dict) else callbacks
        raise InputError(f"hydra.callbacks: {name} would be called; no callbacks of Hydra are taken")
    for part in ("job_logging", "hydra_logging"):
        if composed[part] != _NO_LOGS:
            raise InputError(f"hydra.{part}: is not taken, since handlers of logs may be any program; leave it out")
    for variable in composed["job"]["env_set"]:
        if not str(variable).startswith(ENVIRONMENT):
            raise InputError(
                f"hydra.job.env_set.{variable}: only variables that begin with {', '.join(ENVIRONMENT)} are set; "
                "set it in the shell"
            )


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
