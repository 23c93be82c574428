"""The suite itself: a test that hangs and a worker that dies end it with a failure, under our own settings."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from core.provenance import ROOT

TESTS = """
import ctypes, os, signal, time
import pytest

@pytest.mark.parametrize("number", range(3))
def test_good(number):
    pass

def test_sleeps():
    time.sleep(1000)

def test_goes_on():
    pass

def test_hangs_in_compiled_code():
    # It keeps Python's lock and hears no signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    ctypes.PyDLL(None).pause()

def test_is_killed():
    os.kill(os.getpid(), signal.SIGKILL)
"""
CONFTEST = """
import os, signal
from tests.workers import pytest_sessionfinish, pytest_testnodedown

def pytest_configure(config):
    if "DIES_EARLY" in os.environ and "PYTEST_XDIST_WORKER" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
"""
SHORT = ("-o", "timeout=1", "-o", "faulthandler_timeout=3")


def settings() -> str:
    """The part of pyproject.toml that pytest reads."""
    lines = (ROOT / "pyproject.toml").read_text().splitlines(keepends=True)
    start = lines.index("[tool.pytest.ini_options]\n")
    end = next(i for i in range(start + 1, len(lines)) if lines[i].startswith("[tool."))
    return "".join(lines[start:end])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of one file of tests, with our settings."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "pyproject.toml").write_text(settings())
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_ends.py").write_text(TESTS)
    return folder


def run(project: Path, chosen: str, **variables: str) -> tuple[int, str]:
    """The exit status of a suite on one worker, and what it printed."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment = kept | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **variables}
    command = [sys.executable, "-m", "pytest", "-p", "xdist", "-p", "timeout", "-n", "1", "--dist", "loadfile"]
    done = subprocess.run(
        [*command, *SHORT, "-k", chosen, "."], cwd=project, env=environment, capture_output=True, text=True, timeout=240
    )
    return done.returncode, done.stdout + done.stderr


def test_a_test_that_hangs_fails_and_one_that_cannot_be_stopped_ends_the_suite(project: Path) -> None:
    status, said = run(project, "not killed")
    assert status == 1
    assert "test_sleeps - Failed: Timeout (>1.0s) from pytest-timeout." in said
    assert "worker 'gw0' crashed while running 'test_ends.py::test_hangs_in_compiled_code'" in said
    assert "2 failed, 4 passed" in said and "crashed and worker restarting disabled" in said


def test_a_worker_that_is_killed_in_a_test_ends_the_suite(project: Path) -> None:
    status, said = run(project, "killed or good")
    assert status == 1 and "2 failed" not in said
    assert "worker 'gw0' crashed while running 'test_ends.py::test_is_killed'" in said


def test_a_worker_that_is_killed_before_its_first_test_fails_the_suite(project: Path) -> None:
    status, said = run(project, "good", DIES_EARLY="1")
    assert status == 1 and "no tests ran" in said and "Not properly terminated" in said


def test_limits_are_generous_and_in_order() -> None:
    """Busy machines take long; the gentle limit comes before the hard one, and both before that of ``make test``."""
    limits = tomllib.loads(settings())["tool"]["pytest"]["ini_options"]
    assert 120 <= limits["timeout"] < limits["faulthandler_timeout"] <= 900
    assert limits["faulthandler_exit_on_timeout"] and limits["timeout_method"] == "signal"
