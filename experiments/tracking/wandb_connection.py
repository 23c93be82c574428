"""How a run of Weights & Biases begins: online where a server answers, otherwise recorded in files."""

import importlib
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.tracking.settings import WandbLogger
from experiments.tracking.wandb_about import RunAbout
from experiments.tracking.wandb_names import LONGEST_RUN, LONGEST_TAG, shortened

FOLDER = "wandb"
QUIET = {
    # What a run prints is its own, and no code, user name or path of this machine is sent.
    "console": "off",
    "silent": True,
    "save_code": False,
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "label_disable": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    # Runs of a sweep follow each other in one process, and the files lie in wandb/ of each.
    "reinit": "create_new",
    "use_dot_wandb": False,
    "finish_timeout_raises": True,
}


def connected(
    settings: WandbLogger,
    folder: Path,
    about: RunAbout,
    identity: str,
    goes_on: bool,
    warn: Callable[[str], None],
) -> tuple[Any, str]:
    """A run of the package, and its name on the server.

    Args:
        identity: the name it shall have; where a run of somebody else has it, a fresh one is made from it.
        goes_on: whether a run of that name is this one.
        warn: is told in one line why a run that should be online is not.
    """
    wandb = importlib.import_module("wandb")
    wanted = QUIET | {"init_timeout": settings.init_s, "finish_timeout": settings.finish_s}
    # Some are of newer versions only.
    quiet = wandb.Settings(**{key: value for key, value in wanted.items() if key in wandb.Settings.model_fields})
    wandb.setup(settings=quiet)
    # The package makes its folder only where this one exists.
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)

    def begin(mode: str, name: str, resume: str | None) -> Any:
        return wandb.init(
            project=settings.project,
            entity=settings.entity,
            id=name,
            name=shortened(about.run_id, LONGEST_RUN),
            group=settings.group or shortened(about.group),
            tags=[tag[:LONGEST_TAG] for tag in about.tags] if settings.tags is None else list(settings.tags),
            job_type="compress",
            config=dict(about.config),
            dir=str(folder),
            mode=mode,
            resume=resume,
            settings=quiet,
        )

    if settings.mode == "offline":
        return begin("offline", identity, None), identity
    before = set((folder / FOLDER).glob("run-*"))
    try:
        # Else the package asks on the terminal, and training would wait for the answer.
        if not wandb.login(prompt=False):
            raise PermissionError("nobody is logged in; wandb login, or set WANDB_API_KEY")
        try:
            return begin("online", identity, "allow" if goes_on else "never"), identity
        except Exception as error:
            if goes_on or "already exists" not in str(error):
                raise
            _remove_since(before, folder)
            identity = fresh(identity)
            return begin("online", identity, "never"), identity
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        # The failed attempt still holds the name.
        wandb.teardown()
        _remove_since(before, folder)
        run = begin("offline", identity, None)
        warn(
            f"{reason}; this run is recorded offline; later, send it: wandb sync {folder / FOLDER / 'offline-run-*'}",
        )
        return run, identity


def _remove_since(before: set[Path], folder: Path) -> None:
    """What attempts that failed have left; nothing is in it."""
    for empty in set((folder / FOLDER).glob("run-*")) - before:
        shutil.rmtree(empty, ignore_errors=True)


def fresh(identity: str) -> str:
    """Another name beside one that is taken."""
    return shortened(f"{identity}-{secrets.token_hex(2)}", LONGEST_RUN)
