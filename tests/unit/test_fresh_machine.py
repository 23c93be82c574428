"""The script that goes a newcomer's way: its commands exist, and a step that fails is reported."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.smoke.documented import Command, commands_of, documented
from tests.smoke.documented_runs import SHOWING, composed

ROOT = Path(__file__).resolve().parents[2]
FRESH = ROOT / "tests" / "fresh"
ALL = list(commands_of(f"```\n{(FRESH / 'commands.txt').read_text(encoding='utf-8')}```\n", "commands.txt"))


@pytest.mark.parametrize("command", [c for c in ALL if c.program == "experiments"], ids=str)
def test_a_command_is_typed_right(command: Command) -> None:
    if not SHOWING & set(command.words):
        assert composed(command)


def test_every_command_word_of_the_documents_is_tried_or_takes_minutes() -> None:
    """``export`` needs an extra, ``everything`` a trained model; a run has no word."""
    words = {c.arguments[0] for c in documented() if c.program == "experiments" and c.arguments[0].isalpha()}
    assert words - {c.arguments[0] for c in ALL if c.arguments} == {"export", "everything"}


def test_a_step_that_fails_is_reported(tmp_path: Path) -> None:
    surroundings = {**os.environ, "TMPDIR": str(tmp_path)}
    script = [FRESH / "fresh_machine.sh", "--quick", "--tree", "--python", "/bin/false"]
    if shutil.which("make") is None or subprocess.run(["git", "status"], cwd=ROOT, capture_output=True).returncode != 0:
        pytest.skip("needs make, and a git working tree")
    done = subprocess.run(script, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "failed (2)" in done.stdout and "1 steps, 1 failed" in done.stdout
    (folder,) = tmp_path.iterdir()
    assert [path.name for path in folder.iterdir()] == ["logs"]
    assert "-m venv" in (folder / "logs" / "01.log").read_text()


def test_an_unknown_option_is_refused() -> None:
    done = subprocess.run([FRESH / "fresh_machine.sh", "--fast"], capture_output=True, text=True)
    assert done.returncode == 2 and "--quick" in done.stderr
