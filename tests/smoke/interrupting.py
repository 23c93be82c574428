"""Runs that Ctrl-C arrives in, each in a process of its own; :mod:`tests.smoke.killing` forks them."""

import contextlib
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from compressors.distill.engine import Engine
from compressors.method import RunContext
from compressors.scratch import Scratch
from core.checkpoint import weights_sha256
from tests.unit.tiny import Images, tiny_sam

METHOD = Scratch(0.5, steps=3, batch=2)
AT_STEP = 2
"""Of the six steps, the one that Ctrl-C arrives in."""

Forked = Callable[[Callable[[], dict[str, Any]]], dict[str, Any] | None]


def compress(folder: Path) -> dict[str, Any]:
    """A run to its end: the student's hash."""
    context = RunContext(0, folder, Engine(folder, workers=0))
    return {"student": weights_sha256(METHOD.compress(tiny_sam(), Images(), context).student)}


def interrupted(folder: Path, times: int) -> dict[str, Any]:
    """A run in which Ctrl-C arrives so often within one step: what it said and left."""
    step, ended = Engine._step, []

    def interrupting(engine: Engine, stage: Any, losses: Any, *others: Any) -> None:
        if losses.step == AT_STEP:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        step(engine, stage, losses, *others)
        ended.append(losses.step)

    Engine._step = interrupting  # type: ignore[method-assign]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    said, stopped = io.StringIO(), False
    try:
        with contextlib.redirect_stderr(said):
            compress(folder)
    except KeyboardInterrupt:
        stopped = True
    state = folder / "scratch.state"
    return {
        "stopped": stopped,
        "ended": ended,
        "said": said.getvalue().split("\n"),
        "saved": torch.load(state, weights_only=True)["progress"]["step"] if state.exists() else None,
        "restored": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    }


def interruptions(folder: Path, forked: Forked) -> list[dict[str, Any]]:
    """Ctrl-C once and twice, and the same run again after each."""
    undisturbed = forked(lambda: compress(folder / "undisturbed"))
    found = []
    for times in (1, 2):
        here = folder / str(times)
        stopped = forked(lambda here=here, times=times: interrupted(here, times))  # type: ignore[misc]
        again = forked(lambda here=here: compress(here))  # type: ignore[misc]
        assert stopped is not None
        found.append(stopped | {"times": times, "same": again == undisturbed})
    return found
