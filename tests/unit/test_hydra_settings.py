"""Settings of others cannot make Hydra call anything but this project's commands."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.errors import HydraException

from core.errors import InputError
from experiments.cli.command_line import main
from experiments.config.compose import compose, composing
from experiments.config.targets import register

CALLBACK = "hydra: {callbacks: {x: {_target_: shutil.copyfile, src: here, dst: there}}}"
SETTINGS = {
    "callback": (CALLBACK, r"hydra\.callbacks\.x\._target_=shutil\.copyfile: only plugins of Hydra"),
    "referred": (
        "hydra: {callbacks: {x: {_target_: '${name}'}}}\nname: shutil.copyfile",
        r"hydra\.callbacks\.x\._target_=\$\{name\}: only plugins",
    ),
    "nameless": ("hydra: {callbacks: {x: {path: here}}}", r"hydra\.callbacks: x would be called"),
    "whole": ("hydra: {callbacks: '${method}'}", r"hydra\.callbacks"),
    "log": (
        "hydra: {job_logging: {handlers: {x: {'()': os.system, command: touch there}}, root: {handlers: [x]}}}",
        r"hydra\.job_logging: is not taken",
    ),
    "log_of_hydra": (
        "hydra: {hydra_logging: {handlers: {x: {class: logging.os.system}}, root: {handlers: [x]}}}",
        r"hydra\.hydra_logging: is not taken",
    ),
    "log_by_name": ("defaults: [{override /hydra/job_logging: default}]", r"hydra\.job_logging: is not taken"),
    "launcher": ("hydra: {launcher: {_target_: os.system}}", r"hydra\.launcher\._target_=os\.system: only plugins"),
    "sweeper": (
        "hydra: {sweeper: {_target_: subprocess.run}}",
        r"hydra\.sweeper\._target_=subprocess\.run: only plugins",
    ),
    "inside": (
        "hydra: {sweeper: {params: {seed: {_target_: subprocess.run}}}}",
        r"hydra\.sweeper\.params\.seed\._target_=subprocess\.run",
    ),
    "made_of_text": (
        "hydra: {sweeper: {params: {seed: '${oc.create:{_target_: os.getcwd}}'}}}",
        r"hydra\.sweeper: refers to settings that are not Hydra's",
    ),
    "referred_library": (
        "hydra: {job: {env_set: '${method}'}}",
        r"hydra\.job: refers to settings that are not Hydra's",
    ),
    "library": ("hydra: {job: {env_set: {LD_PRELOAD: there.so}}}", r"hydra\.job\.env_set\.LD_PRELOAD: only variables"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "experiment").mkdir()
    for name, (text, _) in SETTINGS.items():
        (tmp_path / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    register(tmp_path)
    yield tmp_path


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_would_run_something_are_refused(folder: Path, name: str) -> None:
    with composing(), pytest.raises((InputError, HydraException), match=SETTINGS[name][1]):
        compose("run", [f"experiment={name}", "ratio=0.5"], folder)


def test_what_launchers_need_is_taken(folder: Path) -> None:
    for launcher in ("basic", "joblib", "submitit_local", "submitit_slurm"):
        with composing():
            compose("run", [f"hydra/launcher={launcher}", "seed=0", "experiment=smoke"])
    more = [
        "hydra.launcher.timeout_min=5",
        "+hydra.job.env_set.OMP_NUM_THREADS=1",
        "hydra.launcher.setup=[module load cuda]",
    ]
    with composing():
        compose("run", ["hydra/launcher=submitit_slurm", *more], folder)


@pytest.mark.parametrize(
    "words",
    [
        ("experiment=callback",),
        ("-m", "experiment=smoke,callback"),
        (
            "-m",
            "+hydra.callbacks.x._target_=shutil.copyfile",
            "+hydra.callbacks.x.src=here",
            "+hydra.callbacks.x.dst=there",
        ),
        ("experiment=callback", "--cfg", "job"),
        ("evaluate", "checkpoint=sam_pocket", "+hydra.callbacks.x._target_=shutil.copyfile"),
    ],
)
def test_a_command_ends_before_anything_is_done(
    folder: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "here").write_text("text")
    ratio = () if "evaluate" in words else ("ratio=0.5",)
    command = words[:1] if "evaluate" in words else ()
    assert main([*command, "--config-dir", str(folder), *words[len(command) :], *ratio]) == 2
    reported = capsys.readouterr().err.strip().splitlines()
    assert reported[-1].startswith("error: hydra.callbacks.x._target_=shutil.copyfile: only plugins"), reported
    assert not (folder / "there").exists() and not (folder / "runs").exists()
