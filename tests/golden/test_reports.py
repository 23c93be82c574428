"""CSV, Markdown, LaTeX and JSON of rows that do not change are as they were committed, to the byte."""

import csv
import io

import pytest

from tests.golden.reports import COMMITTED, FOLDER, reports


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return reports(tmp_path_factory.mktemp("reports"))


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir()))
def test_a_report_is_as_it_was(name: str, made: dict[str, str]) -> None:
    assert made[name] == (FOLDER / name).read_bytes().decode(), "python -m tests.golden.reports writes it anew"


def test_every_report_is_compared(made: dict[str, str]) -> None:
    assert sorted(made) == sorted(path.name for path in FOLDER.iterdir())
    files = {line["result_file"] for line in csv.DictReader(io.StringIO(made["committed.csv"]))}
    assert files == {f"results/{name}.json" for name in COMMITTED}
