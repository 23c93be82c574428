"""A reader that closes the pipe ends no command, and no traceback stands where it did."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from core.closed_pipes import outlive_closed_pipes
from core.provenance import ROOT
from experiments.__main__ import command


@contextlib.contextmanager
def nobody_reads() -> Iterator[int]:
    """Standard output is a pipe that nobody reads any more; gives its descriptor."""
    before = sys.stdout
    reading, writing = os.pipe()
    os.close(reading)
    sys.stdout = os.fdopen(writing, "w", encoding="utf-8", closefd=False)
    try:
        yield writing
        # What was put in its place is flushed while its descriptor is still open.
        sys.stdout.flush()
    finally:
        sys.stdout = before
        os.close(writing)


@pytest.mark.parametrize(
    ("words", "status"),
    [(["--help"], 0), (["table", "format=json"], 0), (["table"], 0), (["completion", "bash"], 0), (["tabel"], 2)],
)
def test_commands_end_as_they_would(
    words: Sequence[str], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sampress", *words])
    with nobody_reads():
        assert command() == status
        sys.stdout.flush()
    output = capsys.readouterr()
    assert not output.out and "Traceback" not in output.err and bool(output.err) == bool(status)


def test_what_is_written_after_the_first_failure_goes_nowhere() -> None:
    with nobody_reads() as pipe:
        with pytest.raises(BrokenPipeError):
            os.write(pipe, b"x")
        outlive_closed_pipes()
        for _ in range(3):
            print("line", "x" * 100_000, flush=True)
        assert os.write(pipe, b"libraries, and processes of one's own") == 37


def test_streams_that_are_no_files_or_absent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sys.stdout
    monkeypatch.setattr(sys, "stderr", None)
    outlive_closed_pipes()
    assert sys.stdout is before
    print("nobody reads this", file=sys.stderr, flush=True)
    sys.stderr.close()


def test_as_a_program() -> None:
    shell = f"set -o pipefail; {sys.executable} -m experiments --help | head -1"
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("usage: ")
