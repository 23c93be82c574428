"""A command's settings: composed by Hydra from words and files, checked, and turned into plain dataclasses.

What types cannot say is refused in one line that names the key, the value and the fix; so is what would make Hydra
itself do something else than this project's commands.
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from core.errors import InputError
from core.plain_file import home_path
from experiments.config.files import CONF, FOLLOWING, chosen_groups, group_choices, group_file, nearest, owner_of
from experiments.config.groups import DATA, EvaluationConfig, ProposalsConfig, StudentConfig
from experiments.config.schema import CACHES, FORMATS, RENAMED, TABLE_FORMATS, EverythingConfig, RunConfig, TableConfig
from experiments.config.targets import build, settings_class
from experiments.config.words import quoted
from experiments.tracking.settings import check_logger

ENVIRONMENT = ("CUDA_", "GLOO_", "MKL_", "NCCL_", "OMP_", "WANDB_")
"""First letters of the variables that ``hydra.job.env_set`` may set: none of them names a program or a library."""
_PLUGINS = ("hydra_plugins.", "hydra._internal.core_plugins.")
_NO_LOGS = {"version": 1, "root": None, "disable_existing_loggers": False}
_FOREIGN = re.compile(r"\$\{(?!hydra[.:]|now:|runs\})")
"""The beginning of a reference to anything but Hydra's own settings, the time and the folder of runs."""

PROTOCOLS = {EvaluationConfig: ("box_point@1",), ProposalsConfig: ("everything@1",)}
EXAMPLES = {
    "data.root": "FOLDER",
    "student.name": "resnet18, or another of timm.list_models()",
    "evaluation.data.root": "FOLDER",
    "checkpoint": "sam_pocket, or the path of a checkpoint file",
    "image": "the path of an image",
    "to": "hf, meta, mobile_sam or sampress",
    "out": "PATH",
    "first": "FOLDER, which evaluate wrote (two bare words do as well)",
    "second": "FOLDER, which evaluate wrote (two bare words do as well)",
    "shell": "bash, zsh or fish (a bare word does as well)",
}
"""What may be given where there is no default."""


def composing() -> AbstractContextManager[None]:
    """A block in which Hydra composes settings. Its files are found by :func:`search_path`."""
    block: AbstractContextManager[None] = hydra.initialize(None, job_name="experiments", version_base="1.3")
    return block


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
        InputError: see :func:`check_hydra_settings`; or a setting stands below a group of which nothing is chosen.
        HydraException: the settings do not compose.
    """
    if given := next((word for word in words if word.lstrip("+~").startswith("hydra.searchpath")), None):
        raise InputError(f"{given}: further settings are given by --config-dir FOLDER")
    try:
        settings = hydra.compose(f"{command}_command", [search_path(folder), *words], return_hydra_config=True)
    except AssertionError:
        # OmegaConf's, of a setting below a group of which nothing is chosen.
        unset = (word for word in words if chosen_groups(command).get(word.lstrip("+~").partition(".")[0]) == "null")
        if (word := next(unset, None)) is None:
            raise
        group = word.lstrip("+~").partition(".")[0]
        raise InputError(f"{word}: nothing is chosen for {group}; give {group}=NAME too (see --help)") from None
    check_hydra_settings(settings)
    return settings


def known_settings(command: str, words: Sequence[str], folder: Path | None) -> DictConfig | None:
    """The settings with nothing but the valid choices of groups, to look up what a wrong key may have meant."""
    if not GlobalHydra.instance().is_initialized():
        return None
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
    # A group may be one of other commands alone.
    for chosen in (kept, []):
        with contextlib.suppress(HydraException, OmegaConfBaseException):
            return without_hydra(compose(command, chosen, folder))
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
    for place, target in _leaves(composed, "hydra"):
        if "_target_" in place.split(".") and not str(target).startswith(_PLUGINS):
            raise InputError(f"{place}={target}: only plugins of Hydra may stand there; leave it out")
    for part in ("launcher", "sweeper", "job"):
        texts = [str(value) for _, value in _leaves(composed[part], part)]
        if not isinstance(composed[part], dict) or any(map(_FOREIGN.search, texts)):
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


def _leaves(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """What is neither a mapping nor a list, or an empty one, with the dotted key below which it stands."""
    if node and isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{place}.{key}" if place else str(key))
    elif node and isinstance(node, list):
        for value in node:
            yield from _leaves(value, place)
    else:
        yield place, node


def settings_of(cfg: DictConfig) -> Any:
    """The composed configuration as plain dataclasses, checked as a whole.

    Raises:
        InputError: a value is missing, out of range, or does not belong to the method.
    """
    formats = TABLE_FORMATS if OmegaConf.get_type(cfg) is TableConfig else FORMATS
    if cfg.format not in formats:
        raise InputError(f"format={cfg.format} is unknown; choose one of {', '.join(formats)}")
    _check_ratio(cfg)
    _check_missing(cfg)
    try:
        settings: Any = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        text = str(error).strip().splitlines()[0]
        named = re.search(r"Interpolation key '([^']+)'", text)
        now = f"; it is called {RENAMED[named[1]]} now" if named and named[1] in RENAMED else ""
        raise InputError(f"{error.full_key}: {text}{now}") from error
    _check_known(cfg, settings)
    # Here for every command, so that none makes a folder of the name ~.
    settings.runs = os.path.expanduser(settings.runs)
    if hasattr(settings, "engine"):
        settings.engine.cache_folder = os.path.expanduser(settings.engine.cache_folder)
    if isinstance(settings, RunConfig):
        if not -(2**63) <= settings.seed < 2**63:
            raise InputError(f"seed={settings.seed} must fit into 64 bits")
        if settings.engine.cache not in CACHES:
            raise InputError(f"cache={settings.engine.cache} is unknown; choose one of {', '.join(CACHES)}")
        check_logger(settings.logger)
    if isinstance(settings, EverythingConfig) and (settings.image is None) == (settings.evaluation is None):
        if settings.image is None:
            raise InputError("neither images nor a data set; give image=FILE, image=FOLDER or evaluation=shapes")
        raise InputError(f"image={settings.image}: a data set is given too; leave out image or evaluation")
    if getattr(settings, "evaluation", None) is not None:
        _check_evaluation(settings.evaluation)
        if isinstance(settings, RunConfig) and settings.evaluation.protocols:
            chosen = ",".join(settings.evaluation.protocols)
            raise InputError(
                f"evaluation.protocols=[{chosen}]: runs are scored by {settings.evaluation.protocol}; choose such an "
                "evaluation, and score the student under other protocols by evaluate checkpoint=..."
            )
        if isinstance(settings, RunConfig):
            _check_run_evaluation(settings.evaluation)
    name = getattr(settings, "name", None)
    if name is not None and not (name and all(c.isalnum() or c in "._-" for c in name) and name[0] not in ".-"):
        raise InputError(f"name={name}: use letters, digits, '.', '_' and '-' only, starting with a letter or digit")
    return settings


def check_settings(settings: Any) -> None:
    """What can be known to be wrong before PyTorch is imported: settings of methods, and folders of data sets.

    Raises:
        InputError: a value is out of range, or a folder is not there.
    """
    for key in ("method", *FOLLOWING):
        if (method := getattr(settings, key, None)) is not None:
            build(method, key, settings_class)
    if getattr(settings, "lastly", None) is not None and settings.then is None:
        raise InputError("lastly is the third method and there is no second; write then= in place of lastly=")
    for key, group in (("data", settings), ("evaluation.data", getattr(settings, "evaluation", None))):
        data = getattr(group, "data", None)
        root = getattr(data, "root", None)
        if isinstance(data, tuple(DATA.values())) and root is not None and not os.path.isdir(home_path(root)):
            raise InputError(f"{key}.root={root}: no such folder; give the one that holds the data set")


def _check_ratio(cfg: DictConfig) -> None:
    """A ratio is given where, and only where, the method takes one."""
    if "ratio" not in cfg:
        return
    if OmegaConf.is_missing(cfg, "method"):
        raise InputError("method is missing; give one, for example method=slimsam ratio=0.77")
    if cfg.method is None:
        if cfg.ratio is not None:
            raise InputError(f"ratio={cfg.ratio}: there is no method that could take it; give method=slimsam too")
        return
    takes = "ratio" in cfg.method
    name = str(cfg.method._target_).rpartition(".")[2]
    if cfg.ratio is not None and not takes:
        options = ", ".join(sorted(key for key in cfg.method if key != "_target_"))
        raise InputError(f"ratio={cfg.ratio}: {name} takes no ratio; leave it out (it has {options})")
    if cfg.ratio is None and takes and OmegaConf.to_container(cfg.method, resolve=False)["ratio"] == "${ratio}":  # type: ignore[call-overload,index]
        raise InputError(f"ratio is missing: {name} needs the share of channels to cut, in (0, 1); try ratio=0.5")


def check_student(cfg: DictConfig, overrides: Iterable[str]) -> None:
    """A student is chosen only where the method takes one, by words or by a preset or variant.

    Args:
        overrides: what was typed.

    Raises:
        InputError: it would have no effect.
    """
    if cfg.get("method") is None or "student" not in cfg:
        return
    chosen = next((text for text in overrides if text.lstrip("+~").startswith(("student=", "student."))), None)
    if chosen is not None and "student" not in cfg.method:
        name = str(cfg.method._target_).rpartition(".")[2]
        raise InputError(f"{chosen}: {name} takes no student; leave it out, or give method=mobilesam")
    if cfg.method.get("init") is None or "student" not in cfg.method or cfg.get("teacher") is None:
        return
    usual = OmegaConf.structured(StudentConfig("tiny_vit", cfg.teacher.student))
    changed = [f"student.{key}={cfg.student[key]}" for key in usual if cfg.student[key] != usual[key]]
    if chosen is not None or changed:
        chosen = chosen or ", ".join(changed)
        raise InputError(f"{chosen}: the student is that of method.init={cfg.method.init}; give one of the two")


def check_preset(command: str, arguments: Iterable[str]) -> None:
    """A preset is given to the command that it is for: the one its name begins with, else a run.

    Args:
        arguments: what was typed.

    Raises:
        InputError: it is for another command; the message names that.
    """
    for text in arguments:
        key, _, name = text.partition("=")
        if key != "experiment" or name not in group_choices("experiment"):
            continue
        owner = owner_of(name)
        if owner != command:
            word = "" if owner == "run" else f"{owner} "
            raise InputError(f"{text} is not for the command {command}; give python -m experiments {word}{text}")


def _check_missing(cfg: DictConfig) -> None:
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    for key, value in _leaves(raw):
        if value == "???":
            raise InputError(f"{key} is missing; give {key}={EXAMPLES.get(key, 'VALUE')}")
    root = (raw.get("evaluation") or {}).get("data", {}).get("root")
    if root == "${data.root}" and raw["data"].get("root") is None:
        raise InputError("evaluation.data.root is missing; give evaluation.data.root=FOLDER")


def _check_known(node: DictConfig, settings: Any, prefix: str = "") -> None:
    """Every key belongs to a field: ``+key=value`` would otherwise be taken and have no effect."""
    names = [part.name for part in dataclasses.fields(settings)]
    for key in map(str, node):
        if key not in names:
            raise InputError(f"{prefix}{key} is no setting; {nearest(key, names)}")
        if dataclasses.is_dataclass(getattr(settings, key)):
            _check_known(node[key], getattr(settings, key), f"{prefix}{key}.")


def _check_evaluation(settings: EvaluationConfig | ProposalsConfig) -> None:
    sizes = (("prompt_batch_size", 1), ("image_batch_size", 1), ("latency_runs", 1), ("workers", 0))
    for key, least in (("images", 1), *sizes):
        value = getattr(settings, key, None)
        if value is not None and value < least:
            raise InputError(f"evaluation.{key}={value} must be at least {least}")
    known = PROTOCOLS[type(settings)]
    if settings.protocol not in known:
        raise InputError(f"evaluation.protocol={settings.protocol} is unknown; choose one of {', '.join(known)}")


def _check_run_evaluation(evaluation: EvaluationConfig) -> None:
    """Settings of protocols that no run is scored by would be taken and have no effect."""
    usual = EvaluationConfig()
    for key in ("backend", "max_detections", "jitter", "reference", "seed"):
        value = getattr(evaluation, key)
        if value != getattr(usual, key):
            raise InputError(
                f"evaluation.{key}={value}: runs are scored by {evaluation.protocol}, which has no use for it; leave "
                "it out, and score the student under other protocols by evaluate checkpoint=..."
            )
