"""A device with too little memory ends a command in one line, which names settings that this command has."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from experiments.cli.command_line import main
from experiments.runs import job

GIVEN = {
    "run": ["ratio=0.5"],
    "predict": ["checkpoint=sam_pocket", "image=photo.jpg", "box=[1,1,9,9]"],
    "everything": ["checkpoint=sam_pocket", "image=photo.jpg"],
    "latency": ["checkpoint=sam_pocket,sam_photo"],
    "evaluate": ["checkpoint=sam_pocket"],
    "export": ["checkpoint=sam_pocket", "out=files"],
    "compare": ["first=a", "second=b"],
}


@pytest.mark.parametrize("command", GIVEN)
def test_a_lack_of_memory_names_settings_of_the_command(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    composed: list[DictConfig] = []

    def function_of(name: str) -> Callable[..., Any]:
        def full(settings: object, cfg: DictConfig) -> None:
            composed.append(cfg)
            raise MemoryError

        return full

    monkeypatch.setattr(job, "function_of", function_of)
    assert main([*([] if command == "run" else [command]), *GIVEN[command]]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {command}: the device has too little memory; ")
    named = re.findall(r"[a-z_]+\.[a-z_]+|\w+(?==)", line)
    assert [name for name in named if OmegaConf.select(composed[0], name, default=line) == line] == []
    assert named or command == "export"
