"""A run of Weights & Biases: online where a server answers, otherwise recorded in files.

Whatever goes wrong there, training and its result stay as they are.
"""

import contextlib
import functools
import importlib
import secrets
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.checkpoint import write_text
from experiments.tracking.logger import Logger, Outcome, RunMetadata
from experiments.tracking.settings import LONGEST_RUN, LONGEST_TAG, WandbLogger, shortened
from experiments.tracking.stage_logs import CatchUp, Entry, figures

FOLDER = "wandb"
NAME = "run_id.txt"
"""The run's name on the server: while it lies there, the same run goes on."""
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


class WandbRun(Logger):
    """Sends figures as they come, and at the end table, images and files.

    Every call of the package is caught: one that fails gives a warning, and nothing is called after it (but the end of
    the run, where only its results could not be sent).

    Args:
        folder: of the run; the package's own files go below ``wandb/`` there.
    """

    def __init__(self, settings: WandbLogger, folder: Path, metadata: RunMetadata) -> None:
        self.settings, self.folder, self.metadata = settings, folder, metadata
        self._catch_up = CatchUp(folder)
        self._run: Any = None
        self._off = self._warned = False
        self._known: dict[str, int] = {}
        self._defined: set[str] = set()
        self._pending: tuple[str, int, dict[str, Any]] | None = None

    def begin(self) -> None:
        """Start a run on the server, or go on with the one that an earlier process of this run started."""
        self._try("starting", self._begin)

    def log(self, stage: str, entry: Entry) -> None:
        """One line of a stage's log."""
        self._try("logging", lambda: self._take(stage, entry))

    def finished(self, outcome: Outcome) -> None:
        """Send the rest, the comparison, images and files, and end the run."""
        from experiments.tracking.wandb_results import RESULTS

        self._try("logging", self._rest)
        for name, log in RESULTS.items():
            # One that fails does not keep the others back.
            self._try(f"logging the {name}", functools.partial(log, self._run, outcome), gives_up=False)
        self._try("finishing", lambda: self._run.finish(exit_code=0))
        self._try("tidying up", self._remove_earlier)
        self._let_go()

    def failed(self, error: BaseException) -> None:
        """Send the rest and the reason, and end the run as one that failed."""
        stopped = isinstance(error, KeyboardInterrupt)
        reason = "stopped by the keyboard" if stopped else f"{type(error).__name__}: {error}"
        summary = {"status": "stopped" if stopped else "failed", "reason": reason}
        self._try("logging", self._rest)
        self._try("logging the reason", lambda: self._run.summary.update(summary))
        self._try("finishing", lambda: self._run.finish(exit_code=1))
        self._let_go()

    def _begin(self) -> None:
        name = self.folder / FOLDER / NAME
        goes_on = name.is_file()
        identity = name.read_text(encoding="utf-8").strip() if goes_on else shortened(self.metadata.run_id, LONGEST_RUN)
        if self.metadata.again and not goes_on:
            # Figures of two attempts would mix.
            identity = fresh(identity)
        self._run, identity = self._connected(identity, goes_on)
        write_text(name, f"{identity}\n")
        if not self._run.offline:
            print(f"Weights & Biases: {self._run.url}", file=sys.stderr)
        if self._run.resumed:
            # Of an attempt that failed.
            self._run.summary.update({"status": "running", "reason": ""})
            summary = dict(self._run.summary)
            self._known = {key[: -len("/step")]: int(step) for key, step in summary.items() if key.endswith("/step")}

    def _connected(self, identity: str, goes_on: bool) -> tuple[Any, str]:
        """A run of the package, and its name on the server.

        Args:
            identity: the name it shall have; where a run of somebody else has it, a fresh one is made from it.
            goes_on: whether a run of that name is this one.
        """
        settings, folder, metadata = self.settings, self.folder, self.metadata
        wandb = importlib.import_module("wandb")
        chosen = QUIET | {"init_timeout": settings.init_s, "finish_timeout": settings.finish_s}
        # Some are of newer versions only.
        quiet = wandb.Settings(**{key: value for key, value in chosen.items() if key in wandb.Settings.model_fields})
        wandb.setup(settings=quiet)
        # The package makes its folder only where this one exists.
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)

        def begin(mode: str, name: str, resume: str | None) -> Any:
            return wandb.init(
                project=settings.project,
                entity=settings.entity,
                id=name,
                name=shortened(metadata.run_id, LONGEST_RUN),
                group=settings.group or shortened(metadata.group),
                tags=[tag[:LONGEST_TAG] for tag in metadata.tags] if settings.tags is None else list(settings.tags),
                job_type="compress",
                config=dict(metadata.config),
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
            files = folder / FOLDER / "offline-run-*"
            self._warn(f"{reason}; this run is recorded offline; later, send it: wandb sync {files}")
            return run, identity

    def _take(self, stage: str, entry: Entry) -> None:
        for news in self._catch_up.news(stage, entry):
            self._hold(stage, news)

    def _hold(self, stage: str, entry: Entry) -> None:
        """Entries of one step go together, as one point of the history."""
        step = entry["step"]
        if step <= self._known.get(stage, -1):
            # The server has it, from before this process.
            return
        if self._pending is None or self._pending[:2] != (stage, step):
            self._send()
            self._pending = (stage, step, {})
        self._pending[2].update(figures(entry))

    def _send(self) -> None:
        if self._pending is None:
            return
        (stage, step, found), self._pending = self._pending, None
        if stage not in self._defined:
            self._defined.add(stage)
            # Every stage counts its own steps.
            self._run.define_metric(f"{stage}/step", hidden=True)
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self._run.log({f"{stage}/step": step, **{f"{stage}/{name}": value for name, value in found.items()}})

    def _rest(self) -> None:
        for stage, entry in self._catch_up.rest():
            self._hold(stage, entry)
        self._send()

    def _let_go(self) -> None:
        """After something went wrong: the package's own process ends here, not with noise when this one does."""
        if self._off:
            with contextlib.suppress(Exception):
                importlib.import_module("wandb").teardown()

    def _remove_earlier(self) -> None:
        """A finished run holds all of it: what stopped processes recorded offline would be sent twice."""
        mine = Path(str(self._run.settings.sync_dir))
        for path in mine.parent.glob("offline-run-*"):
            if path.name != mine.name:
                shutil.rmtree(path, ignore_errors=True)

    def _try(self, doing: str, work: Callable[[], None], gives_up: bool = True) -> None:
        if self._off:
            return
        try:
            work()
        except Exception as error:
            self._off = gives_up
            if self._warned:
                return
            self._warned = True
            self._warn(f"{doing} failed ({line(error)}); this run goes on without it{self._remedy()}")

    def _remedy(self) -> str:
        place = getattr(getattr(self._run, "settings", None), "sync_dir", None)
        if not isinstance(place, str):
            return "; check logger.entity, logger.project and wandb login, or give logger.mode=offline"
        return f"; later, send what it holds: wandb sync --include-online {place}"

    def _warn(self, text: str) -> None:
        print(f"warning: Weights & Biases: {text}", file=sys.stderr)


def line(error: Exception) -> str:
    """An error's kind and first line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _remove_since(before: set[Path], folder: Path) -> None:
    """What attempts that failed have left; nothing is in it."""
    for empty in set((folder / FOLDER).glob("run-*")) - before:
        shutil.rmtree(empty, ignore_errors=True)


def fresh(identity: str) -> str:
    """Another name beside one that is taken."""
    return shortened(f"{identity}-{secrets.token_hex(2)}", LONGEST_RUN)
