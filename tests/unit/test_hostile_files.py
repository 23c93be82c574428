"""Hostile files of every kind, through every door: one line each, nothing is run or written, memory stays bounded."""

import importlib
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.unit import (
    hostile_exports,
    hostile_folders,
    hostile_pickles,
    hostile_programs,
    hostile_runs,
    hostile_tensors,
)
from tests.unit.hostile_doors import DOORS
from tests.unit.hostile_files import Case, Outcome, watched

MEGABYTES = 300
"""How much more memory than before a reader may take."""
RUNTIMES = 1500
"""The same where a runtime is started, which takes most of it for its code and threads."""


def every() -> Iterator[Case]:
    """The corpus."""
    for module in (
        hostile_pickles,
        hostile_tensors,
        hostile_folders,
        hostile_exports,
        hostile_programs,
        hostile_runs,
    ):
        yield from module.cases()


CASES = list(every())
# A fork costs more than most readings: the same process reads so many files.
TOGETHER = 16


def listed(folder: Path) -> dict[str, tuple[int, int]]:
    """Every entry below a folder, with its size and time of change, links not followed."""
    entries = sorted(folder.rglob("*"))
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in entries}


@dataclass(frozen=True)
class Reading:
    """What reading a case's file came to, the folder it lay in, and whether anything was written in or beside it."""

    outcome: Outcome
    folder: Path
    untouched: bool


class Readings:
    """Readings of cases, made in groups when one of the group is needed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # Their import sets variables and writes caches, which is no deed of the file that is the first to need them.
        for module in ("torch._dynamo", "timm"):
            importlib.import_module(module)
        self.found: dict[str, Reading] = {}
        alike = [[case for case in CASES if (case.door == "export") is exported] for exported in (False, True)]
        groups = [part[i : i + TOGETHER] for part in alike for i in range(0, len(part), TOGETHER)]
        self.groups = {case.name: group for group in groups for case in group}

    def of(self, case: Case) -> Reading:
        if case.name not in self.found:
            self._read(self.groups[case.name])
        return self.found[case.name]

    def _read(self, group: list[Case]) -> None:
        folders = [Path(tempfile.mkdtemp(dir=self.root)) for _ in group]
        paths = [case.make(folder) for case, folder in zip(group, folders, strict=True)]
        before = [listed(folder) for folder in folders]
        reads = [partial(DOORS[case.door], path) for case, path in zip(group, paths, strict=True)]
        outcomes = watched(reads, RUNTIMES if group[0].door == "export" else MEGABYTES)
        beside = len(list(self.root.iterdir())) == len(self.found) + len(group)
        for case, folder, reported, outcome in zip(group, folders, before, outcomes, strict=True):
            self.found[case.name] = Reading(outcome, folder, beside and listed(folder) == reported)


@pytest.fixture(scope="module")
def readings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Readings]:
    """Read where payloads would leave their mark: the working folder is the one that the files' folders are in."""
    root, before = tmp_path_factory.mktemp("hostile"), Path.cwd()
    os.chdir(root)
    yield Readings(root)
    os.chdir(before)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_hostile_file_is_refused_in_one_line_and_does_nothing(case: Case, readings: Readings) -> None:
    reading = readings.of(case)
    outcome = reading.outcome
    assert outcome.signal == 0, outcome
    assert outcome.deeds == [] and reading.untouched
    assert outcome.kind == ("read" if case.read else "InputError"), outcome.text
    assert re.search(case.words, outcome.text), outcome.text
    if not case.read:
        assert outcome.text.isprintable() and len(outcome.text) < 2500
        # The file, or the folder that it is a part of.
        assert str(reading.folder) in outcome.text
        assert "memory" not in outcome.text and "allocate" not in outcome.text


def test_the_corpus_is_of_every_door() -> None:
    names = Counter(case.name for case in CASES)
    assert max(names.values()) == 1 and len(CASES) >= 400
    doors = Counter(case.door for case in CASES)
    assert doors.keys() == DOORS.keys() and min(doors.values()) >= 9
    # The page says how many, in all and through each door.
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
    assert f"makes {len(CASES)} files" in page
    found = re.findall(r"\| (\d+) \| (?:refused|started|counted|scored)", page.partition("## Bad data")[0])
    assert sorted(map(int, found)) == sorted(doors.values())


def test_the_watch_sees_what_payloads_do(tmp_path: Path) -> None:
    """A test whose traps were never noticed would prove nothing."""
    seen, written, large, ended, after = watched(
        [
            lambda: os.system(f"touch '{tmp_path / 'a'}'"),
            lambda: (tmp_path / "b").write_text("b"),
            lambda: bytes(2 * MEGABYTES << 20),
            lambda: os.kill(os.getpid(), 9),
            lambda: "went on",
        ],
        MEGABYTES,
    )
    assert seen.kind == "read" and any(deed.startswith("os.system") for deed in seen.deeds)
    assert (tmp_path / "a").exists()
    assert any(deed.startswith("wrote") and deed.endswith("/b") for deed in written.deeds)
    assert large.kind == "MemoryError" and ended.signal == 9
    assert (after.kind, after.text, after.deeds) == ("read", "went on", [])
