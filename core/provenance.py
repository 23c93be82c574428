"""Where a result comes from: the code, the versions, the machine and the command."""

import contextlib
import hashlib
import os
import platform
import re
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
_PACKAGES = ("sampress", "torch", "numpy", "torch-pruning", "timm", "hydra-core", "safetensors", "pycocotools")

_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
_OTHER_HOME = re.compile(r"(?<![\w.~-])(?:/(?:home|Users)/|[A-Za-z]:\\Users\\)[^/\\\s'\"]+")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")


def capture(device: str, argv: Sequence[str] = ()) -> dict[str, Any]:
    """Everything a reader needs to make a result again, as plain values.

    Args:
        device: name of the processor or accelerator in use.
        argv: the command's arguments; what is personal is taken out of them, as :func:`redact_paths` tells.
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
        "load_average": round(os.getloadavg()[0], 2),
        "argv": redact_paths(list(argv)),
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


def redact_paths(value: Any) -> Any:
    """Plain values without the folders of one person and without credentials.

    In every string, paths below the working directory become relative to it, and so do those in the folder that holds
    the packages; the home folder is ``~``, and another person's ``~someone``. Names and passwords within addresses, and
    what the environment holds as a key, a token, a secret or a password, are taken out.
    """
    return _redact(value, _own_folders())


def _redact(value: Any, folders: Sequence[tuple[str, str]]) -> Any:
    if isinstance(value, Mapping):
        return {key: _redact(part, folders) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_redact(part, folders) for part in value]
    if not isinstance(value, str):
        return value
    for name, secret in os.environ.items():
        if len(secret) >= 8 and _SECRET.search(name) and secret in value:
            value = value.replace(secret, f"<{name}>")
    for folder, sign in folders:
        within = rf"(?<![\w.~-]){re.escape(folder)}"
        if sign == ".":
            value = re.sub(rf"{within}{re.escape(os.sep)}(?=[^\s{re.escape(os.sep)}])", "", value)
        value = re.sub(rf"{within}(?![\w.-])", sign, value)
    return _CREDENTIALS.sub("", _OTHER_HOME.sub("~someone", value))


def _own_folders() -> list[tuple[str, str]]:
    """Folders that tell whose machine this is, each with what stands for it; those below others first."""
    home = Path.home()
    found = {str(folder): "~" for folder in (home, home.resolve())}
    found |= {str(ROOT): "."}
    # The working directory may have been removed.
    with contextlib.suppress(OSError):
        found |= {str(Path.cwd()): "."}
    kept = [(folder, sign) for folder, sign in found.items() if len(Path(folder).parts) > 1]
    return sorted(kept, key=lambda pair: -len(pair[0]))


def command_line() -> list[str]:
    """The running process's arguments, without the path of its script."""
    return sys.argv[1:]
