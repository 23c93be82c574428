"""``doctor`` on what runs report to, and where sweeps start them: loggers and launchers. No network, no secrets."""

import netrc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from experiments.cli.doctor.finding import Finding
from experiments.cli.doctor.packages import pip, this_project, version_of
from experiments.config.files import LAUNCHERS, group_choices

_PACKAGES = {
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
}
_WANDB_HOST = "api.wandb.ai"


def loggers() -> Iterator[Finding]:
    """What each ``logger=`` needs, and whether Weights & Biases knows who writes."""
    for name in group_choices("logger"):
        if name not in ("tensorboard", "wandb"):
            yield Finding(name, "ok", "nothing to install")
        elif (version := version_of(name)) is None:
            yield Finding(name, "missing", f"{name} is not installed", pip(this_project(name)))
        elif name == "wandb" and not (who := _wandb_login()):
            fix = "wandb login, or logger=wandb logger.mode=offline"
            yield Finding(name, "missing", f"{version}, not logged in", fix)
        else:
            yield Finding(name, "ok", f"{version}, logged in by {who}" if name == "wandb" else version)


def launchers() -> Iterator[Finding]:
    """What each ``hydra/launcher=`` needs."""
    for name, about in LAUNCHERS.items():
        version = version_of(_PACKAGES[name]) if name in _PACKAGES else ""
        if version is None:
            yield Finding(name, "missing", f"{about}: not installed", pip(this_project("sweeps")))
        elif name == "submitit_slurm" and shutil.which("sbatch") is None:
            yield Finding(name, "missing", "no sbatch here", "start it where Slurm's sbatch is")
        else:
            yield Finding(name, "ok", f"{about} ({_PACKAGES[name]} {version})" if version else about)


def _wandb_login() -> str:
    """By what one is logged in, never with what; empty where one is not."""
    if os.environ.get("WANDB_API_KEY"):
        return "WANDB_API_KEY"
    host = os.environ.get("WANDB_BASE_URL", f"https://{_WANDB_HOST}").split("//")[-1].split("/")[0].split(":")[0]
    file = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        known = file.is_file() and netrc.netrc(str(file)).authenticators(host) is not None
    except (netrc.NetrcParseError, OSError):
        return ""
    return file.name if known else ""
