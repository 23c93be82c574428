"""Texts on the terminal, and paths as people write them."""

import io
from pathlib import Path

import pytest

from core.plain_file import home_path
from core.terminal import terminal


def test_what_stands_in_brackets_is_shown() -> None:
    text = "runs/[bold]a[/x] :smile: [link=b]"
    stream = io.StringIO()
    terminal(file=stream).print(text, soft_wrap=True)
    assert stream.getvalue() == f"{text}\n"


def test_the_home_folder_and_names_that_begin_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere/é")
    for text, path in {
        "~": "/somewhere/é",
        "~/a b": "/somewhere/é/a b",
        "~backup of nobody.png": "~backup of nobody.png",
        "./~/x": "~/x",
        "a/~": "a/~",
    }.items():
        assert home_path(text) == Path(path), text
