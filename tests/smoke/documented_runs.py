"""This project's own commands as the documents have them: a sweep's jobs composed, one of them run in small."""

import contextlib
import io
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from experiments.cli import command_line
from experiments.config.compose import without_hydra
from experiments.config.files import CONF
from experiments.config.schema import COMMANDS
from experiments.runs.job import Job, Outcome
from tests.smoke.documented import Command

SMALL = {
    "steps": 1, "batch": 1, "decoder_steps": 1, "images": 1, "importance_images": 1, "prompts": 1, "candidates": 1,
    "rounds": 1, "validations": 1,
}  # fmt: skip
"""Numbers of a method that do not change what a command is about."""
SHOWING = {"--help", "-h", "--cfg", "--info", "--hydra-help"}
"""Options with which nothing is computed."""


def word_of(words: list[str]) -> str:
    """The word of the command, ``run`` where it has none."""
    return next((word for word in words if word in COMMANDS), "run")


@cache
def composed(command: Command) -> dict[str, Any]:
    """The settings of a command's first job; the others are composed too.

    Raises:
        AssertionError: one is refused.
    """
    first, *_ = [_composed(command, job) for job in jobs(command.arguments)]
    if command.words[0] == "torchrun":
        _check_torchrun(command)
    if word_of(command.arguments) == "run":
        _check_processes(command, first)
    return first


def jobs(words: list[str]) -> list[list[str]]:
    """The words of a sweep's first job, and of jobs in which one word names another file of settings.

    Other numbers need no job of their own, nor do the variants of a preset, which tests/conf composes.
    """
    words = [word for word in words if word not in ("-m", "--multirun")]
    preset = next((word.partition("=")[2] for word in words if word.startswith("experiment=")), None)
    if preset and (CONF / "experiment" / f"{preset}.yaml").is_file():
        raw = yaml.safe_load((CONF / "experiment" / f"{preset}.yaml").read_text(encoding="utf-8"))
        swept = ((raw.get("hydra") or {}).get("sweeper") or {}).get("params") or {}
        typed = {word.partition("=")[0] for word in words}
        words += [_alternatives(f"{key}={value}")[0] for key, value in swept.items() if key not in typed]
        words += ["hydra.mode=RUN"] if swept else []
    # The models of one latency command are no sweep.
    several = "latency" not in words
    values = [_alternatives(word) if several or not word.startswith("checkpoint=") else [word] for word in words]
    first = [several[0] for several in values]
    others = [(i, other) for i, several in enumerate(values) for other in several[1:] if "." not in other]
    return [first, *([*first[:i], other, *first[i + 1 :]] for i, other in others if not re.search(r"=[\d.]+$", other))]


def call(command: Command, words: list[str]) -> None:
    """Run the command line; anything but success fails with what it said."""
    reported = io.StringIO()
    with contextlib.redirect_stderr(reported):
        status = command_line.main(words)
    assert status == 0, (
        f"{command}\nrun as {shlex.join(words)}\nended with status {status}: {reported.getvalue()[-2000:]}"
    )


def small(word: str, settings: dict[str, Any], typed: list[str]) -> list[str]:
    """Words that make a command quick, as far as it has such settings.

    Args:
        word: of the command.
        typed: its other words.
    """
    found: dict[str, object] = {}
    for part in ("method", "then", "lastly"):
        own = settings.get(part) or {}
        found |= {f"{part}.{name}": value for name, value in SMALL.items() if own.get(name)}
        if isinstance(own.get("optimisation"), dict):
            found[f"{part}.optimisation.accumulate"] = 1
    scored = settings.get("evaluation") or {}
    for key, data in (("data", settings.get("data")), ("evaluation.data", scored.get("data"))):
        if isinstance(data, dict) and data.get("count"):
            found[f"{key}.count"] = 2
    if scored:
        found |= {"evaluation.images": 1 if word in ("run", "everything") else 2}
        found |= {"evaluation.latency_runs": 1} if "latency_runs" in scored else {}
    if word == "run" and "scores" in settings["logger"]:
        found["logger.scores"] = 0
    if word == "latency":
        # A model of every committed shape takes long; tests of the command look at what they are.
        found |= {"rounds": 1, "results": "false"} | ({"batch": 1} if "batch" in settings else {})
    if word == "leaderboard" and not any(w.startswith("results=") for w in typed):
        # Pages of the committed results take long; tests/results looks at them.
        found["results"] = "false"
    if word == "everything" and not any(w.startswith("generator.points_per_side=") for w in typed):
        found["generator.points_per_side"] = 8
    return [f"{key}={value}" for key, value in found.items()]


def _alternatives(word: str) -> list[str]:
    """The values of a sweep's word, each as a word; the word itself of any other."""
    if "=" not in word or word.startswith("-") or re.search(r"=.*[A-Z]{3}", word):
        return [word]
    override = OverridesParser.create().parse_override(word)
    if not override.is_sweep_override():
        return [word]
    return [f"{override.key_or_group}={value}" for value in override.sweep_string_iterator()]


def _composed(command: Command, words: list[str]) -> dict[str, Any]:
    """The settings with which the command's job would begin."""
    found: list[DictConfig] = []

    def keep(job: Job, settings: DictConfig) -> Outcome:
        found.append(without_hydra(settings))
        return Outcome((), "table", Path(), "")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command_line, "run_job", keep)
        call(command, words)
    settings: dict[str, Any] = OmegaConf.to_container(found[0], resolve=False)  # type: ignore[assignment]
    return settings


def _check_processes(command: Command, settings: dict[str, Any]) -> None:
    """The images of a step can be shared."""
    own = settings.get("method") or {}
    if command.processes > 1 and "batch" in own:
        recipe = settings["teacher"]["recipe"]
        written = (own["batch"], (own.get("optimisation") or {}).get("accumulate", 1))
        # ${teacher.recipe.batch} is that number of the recipe.
        batch, accumulate = (recipe[v.rpartition(".")[2].strip("}")] if isinstance(v, str) else v for v in written)
        assert batch * accumulate % command.processes == 0, (
            f"{command}: {batch * accumulate} images cannot be shared by {command.processes}; give method.batch"
        )


def _check_torchrun(command: Command) -> None:
    """torchrun takes these options."""
    from torch.distributed.run import get_args_parser

    until = command.words.index("-m") + 2
    get_args_parser().parse_args(list(command.words[1:until]))
