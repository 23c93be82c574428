"""Words at random behind a command that needs no weights: done, or refused in one line; never a traceback."""

import contextlib
import io
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from experiments.cli.command_line import main

FAST = settings(
    max_examples=2, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LONG = settings(FAST, max_examples=400)
KEYS = (
    *("method", "ratio", "teacher", "student", "format", "runs", "packages", "experiment", "method.steps", "a.b.c"),
    *("teacher.name", "teacher.checkpoint", "student.name", "method.optimisation.lr", "method.student", "data"),
    *("hydra/launcher", "hydra/sweeper", "hydra.run.dir", "hydra.job.name", "method@method", "_target_", "", "."),
    *("method._target_", "student._target_", "engine.device", "+new", "~method", "++ratio", "~ratio", "method.ratio"),
)
VALUES = (
    *("", "null", "slimsam", "mobilesam", "sam_pocket", "0.5", "-1", "1e400", "nan", "inf", "true", "[]", "[1,2", "{}"),
    *("{a", "{a:1}", "'", '"', "''", "\\", "=", "a=b", "${ratio}", "${x}", "${oc.env:NOTHING}", "${", "$", "???", "@"),
    *("1,2", "range(3)", "glob(*)", "choice(a,b)", "cast(", "int(x)", "a b", "a\nb", "a\tb", "\u00e9", "\u718a"),
    *("../x", "/etc/passwd", "/", "os.system", "data.coco.Coco", "x" * 3000, "9" * 400, "[" * 60, "json", "table"),
    *("\U0001f43b", "#", "!", "*", "timm"),
)
texts = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
values = st.sampled_from(VALUES) | st.text(texts, max_size=12)
keys = st.sampled_from(KEYS) | st.text(texts, max_size=8)
words = st.tuples(keys, st.sampled_from(["=", "=", "=", "", ":", "=="]), values).map("".join)


def is_done_or_refused(given_words: list[str], place: Path) -> None:
    out, reported = io.StringIO(), io.StringIO()
    # Where all words fit, the cost of every known model would be counted.
    unknown = patch("experiments.commands.cost.known_rows", list)
    with unknown, contextlib.chdir(place), contextlib.redirect_stdout(out), contextlib.redirect_stderr(reported):
        status = main(["cost", *given_words])
    lines = reported.getvalue().splitlines()
    complaints = [line for line in lines if line.startswith("error: ")]
    assert status in (0, 2) and "Traceback" not in reported.getvalue()
    assert lines == complaints and len(lines) == 1 if status == 2 else not complaints, lines


def harmless(word: str) -> bool:
    """Whether a word is no option: ``--help`` and Hydra's own options have tests of their own."""
    return not word.startswith("-")


@FAST
@given(given_words=st.lists(words.filter(harmless), min_size=1, max_size=3))
@example(given_words=["ratio=0.5", "method=slimsam"])
@example(given_words=["=1"])
@example(given_words=["ratio=a\nb"])
@example(given_words=["method=${x}"])
@example(given_words=["runs=${x}"])
@example(given_words=["ratio=0.5", "teacher.name=${x}"])
@example(given_words=["ratio=" + "9" * 400])
@example(given_words=["a.b.c=null", "method=" + "9" * 400])
def test_any_words(given_words: list[str], tmp_path: Path) -> None:
    is_done_or_refused(given_words, tmp_path)


@pytest.mark.slow
@LONG
@given(given_words=st.lists(words.filter(harmless), min_size=1, max_size=3))
def test_many_words(given_words: list[str], tmp_path: Path) -> None:
    is_done_or_refused(given_words, tmp_path)
