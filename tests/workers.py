"""A worker of pytest-xdist that dies fails the suite, whatever it was at."""

from typing import Any

import pytest

_DIED = pytest.StashKey[bool]()


# pytest-xdist's own; it may be absent.
@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    """Remember that one died. pytest-xdist blames the test it was at, and nobody when it was collecting or ending."""
    if error:
        node.config.stash[_DIED] = True


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Exit with 1 rather than 0."""
    if session.config.stash.get(_DIED, False) and session.exitstatus in (
        pytest.ExitCode.OK,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
