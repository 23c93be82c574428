"""Sweeps whose jobs would write over each other are refused; those that name their files apart are not."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from experiments.cli.command_line import main
from experiments.runs import job

BOTH = "checkpoint=sam_pocket,sam_photo"


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs that began, which do nothing; there are two folders with images of one name, and another image."""
    for name in ("here/photo.jpg", "there/photo.jpg", "there/other.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    found: list[str] = []

    def function_of(name: str) -> Callable[..., list[Any]]:
        def note(*_: object) -> list[Any]:
            found.append(name)
            return []

        return note

    monkeypatch.setattr(job, "function_of", function_of)
    return found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predict", BOTH, "image=here/photo.jpg", "box=[1,1,9,9]", "out=F"], "out=F: .*/F/photo_overlay.png, each"),
        (["predict", BOTH, "image=here/photo.jpg", "box=[1,1,9,9]"], r"out=\.: .*/photo_overlay.png, each"),
        (["predict", "checkpoint=sam_pocket", "image=here/photo.jpg,there/photo.jpg", "box=[1,1,9,9]"], "out="),
        (["everything", BOTH, "image=here/photo.jpg"], "out=null: .*/everything/photo.json, each"),
        (["everything", "checkpoint=sam_pocket", "image=there", "generator=dense,hierarchical", "out=F"], "out=F: "),
        (["everything", "checkpoint=sam_pocket", "image=here,there"], "out=null: .*/everything/photo.json, each"),
        (["evaluate", BOTH, "out=F"], "out=F: .*/F, each"),
        (["evaluate", BOTH, "out=F,./F/../G"], "out=F: .*/F, each"),
        (["evaluate", "checkpoint=sam_pocket", "out=G,./F/../G"], r"out=\./F/\.\./G: .*/G, each"),
        (["latency", "checkpoint=sam_pocket", "batch=1,2", "out=times.json"], "out=times.json: .*/times.json, each"),
        (["convert", BOTH, "to=hf", "out=F"], "out=F: .*/F, each"),
        (["export", BOTH, "out=F"], "out=F: .*/F, each"),
        (["export", BOTH, "out=F", "hydra/launcher=joblib"], "out=F: .*/F, each"),
    ],
)
def test_jobs_that_would_write_over_each_other(
    words: Sequence[str], said: str, begun: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "-m"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"error: {said}", line) and line.endswith("; give one command for each, with an out of its own")
    assert not begun


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "checkpoint=sam_pocket", "image=there/photo.jpg,there/other.jpg", "box=[1,1,9,9]", "out=F"],
        ["everything", "checkpoint=sam_pocket", "image=there/photo.jpg,there/other.jpg", "out=F"],
        ["everything", BOTH, "evaluation=shapes", "out=F"],
        ["everything", BOTH, "evaluation=shapes"],
        ["evaluate", BOTH],
        ["evaluate", "checkpoint=sam_pocket", "out=F,G"],
        ["latency", "checkpoint=sam_pocket", "batch=1,2"],
        ["cost", "ratio=0.5,0.77"],
    ],
)
def test_jobs_that_write_apart_from_each_other(words: Sequence[str], begun: list[str]) -> None:
    assert main([*words, "-m"]) == 0
    assert begun == [words[0]] * 2
