"""Where a result comes from: the code, the versions, the machine and the command."""

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the packages."""
_PACKAGES = ("torch", "numpy", "torch-pruning", "timm", "hydra-core", "safetensors", "pycocotools")


def capture(device: str, argv: Sequence[str] = ()) -> dict[str, Any]:
    """Everything a reader needs to make a result again, as plain values.

    Args:
        device: name of the processor or accelerator in use.
        argv: the command's arguments; the home folder and the repository's are taken out of them.
    """
    constraints = ROOT / "constraints.txt"
    return {
        "git_sha": git_sha(),
        "git_dirty": _dirty(),
        "versions": {"python": platform.python_version(), **_versions()},
        "cuda": torch.version.cuda,
        "platform": platform.platform(),
        "device": device,
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "argv": impersonal(list(argv)),
        "constraints_sha256": hashlib.sha256(constraints.read_bytes()).hexdigest() if constraints.is_file() else None,
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def git_sha() -> str:
    """The commit of the repository that holds this code, or ``unknown`` outside of one."""
    return _git("rev-parse", "HEAD") or "unknown"


def _dirty() -> bool | None:
    status = _git("status", "--porcelain", "--untracked-files=no")
    return None if status is None else bool(status)


def _git(*arguments: str) -> str | None:
    """Answer of git about the repository at ROOT; None without git, or where ROOT merely lies inside another one."""
    if not (ROOT / ".git").exists():
        return None
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def impersonal(value: Any) -> Any:
    """Plain values without the folders of one person: the repository's own is left out, the home folder is ``~``."""
    if isinstance(value, Mapping):
        return {key: impersonal(part) for key, part in value.items()}
    if isinstance(value, list):
        return [impersonal(part) for part in value]
    if not isinstance(value, str):
        return value
    home = str(Path.home())
    text = value.replace(f"{ROOT}{os.sep}", "").replace(str(ROOT), ".")
    return text.replace(home, "~") if len(home) > 1 else text


def command_line() -> list[str]:
    """The running process's arguments, without the path of its script."""
    return sys.argv[1:]
