"""The documents: they build, their links lead somewhere, and they leave no option, protocol or preset out."""

import dataclasses
import html
import html.parser
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.provenance import ROOT
from evaluation.protocols import CHOICES, PROTOCOLS, ScoringProtocol
from experiments.config.files import CONF
from experiments.readme import pages, with_tables
from students.catalog import RELEASED
from teachers.catalog import MODELS
from tests.golden.tour import NOT_KEPT, NOTEBOOK, SOURCES, keep, run_tour, sources_sha256

DOCS = ROOT / "docs"
LINK = re.compile(r"\[[^\]\n]*\]\((?!https?://|#)([^)#\s]+)")
METHODS = {
    "slimsam": "slimsam", "scratch": "slimsam", "mobilesam": "mobilesam", "tinysam": "tinysam", "ptq": "ptq",
}  # fmt: skip
"""The page of each method."""
ANYWHERE = {"ratio", "student"}
"""Options that are typed without ``method.``."""


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


class Assets(html.parser.HTMLParser):
    """What a page loads when it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio"):
            self.found += [given["src"] or ""] if "src" in given else []
        if tag == "link":
            self.found.append(given.get("href") or "")


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="the extra docs is not installed")
    site = tmp_path / "site"
    words = ["-W", "--keep-going", "-q", "-d", str(tmp_path / "doctrees"), str(DOCS), str(site)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *words], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    made = {path.relative_to(site).with_suffix("").as_posix(): path for path in site.rglob("*.html")}
    sources = [
        p for p in DOCS.rglob("*") if p.suffix in (".md", ".ipynb") and not {"_build", "examples"} & set(p.parts)
    ]
    assert {path.relative_to(DOCS).with_suffix("").as_posix() for path in sources} <= set(made)
    for name, path in made.items():
        reader = Assets()
        reader.feed(path.read_text(encoding="utf-8"))
        assert len(reader.found) > 3, name
        assert not [asset for asset in reader.found if re.match(r"(\w+:)?//", asset)], name
    for sheet in site.rglob("*.css"):
        content = sheet.read_text(encoding="utf-8")
        assert "@import" not in content and not re.search(r"url\(['\"]?(\w+:)?//", content), sheet.name
    # The worked example is in the page, not only named there.
    shown = re.sub(r"<[^>]+>", "", made["adding_a_method"].read_text(encoding="utf-8"))
    for path in (DOCS / "examples" / "own_method").rglob("drop_blocks.*"):
        assert html.unescape(shown).count(path.read_text(encoding="utf-8").strip()) == 1, path.name


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in LINK.findall(prose):
        place = (page.parent / target).resolve()
        assert place.exists(), f"{page.relative_to(ROOT)} links to {target}, which is not there"
        # The site has the pages below docs/ alone, and takes a link to another for a fault.
        outside = page.is_relative_to(DOCS) and place.suffix == ".md" and not place.is_relative_to(DOCS)
        assert not outside, f"{page.relative_to(ROOT)} links to {target}, which is no page of the site: name it `...`"


def test_what_the_page_on_architecture_names_is_there() -> None:
    page = text_of("architecture.md")
    named = {name for name in re.findall(r"`([\w./]+)`", page) if "/" in name}
    # Of a file in the same package as the one before it the package is left out.
    places = [ROOT, *(ROOT / package for package in ("experiments", "compressors", "students", "evaluation"))]
    assert len(named) > 40 and not [name for name in named if not any((place / name).exists() for place in places)]
    walks = [walk.split("\n## ")[0] for walk in re.split(r"\*\*An? ", page)[1:]]
    assert [len(re.findall(r"^\d\. ", walk, re.MULTILINE)) for walk in walks] == [6, 7, 8]


def test_tables_in_pages_say_what_the_rows_say() -> None:
    of_docs = [page for page in pages() if page.is_relative_to(DOCS)]
    found = {name for page in of_docs for name in re.findall(r"<!-- table:(\w+) -->", page.read_text(encoding="utf-8"))}
    assert found, "no page has a table"
    # All at once: making the tables takes seconds.
    text = "".join(page.read_text(encoding="utf-8") for page in of_docs)
    assert with_tables(text) == text, "python -m experiments.readme makes the tables of docs/ anew"


@pytest.mark.parametrize("method", METHODS)
def test_a_methods_page_tells_of_every_option(method: str) -> None:
    content: dict[str, Any] = yaml.safe_load((CONF / "method" / f"{method}.yaml").read_text(encoding="utf-8"))
    page = text_of(f"methods/{METHODS[method]}.md")
    assert f"method={method}" in page
    for option in set(content) - {"defaults", "_target_"}:
        typed = option if option in ANYWHERE else f"method.{option}"
        assert re.search(rf"`{re.escape(typed)}\b", page), f"docs/methods/{METHODS[method]}.md does not tell of {typed}"
    assert f"conf/method/{METHODS[method]}.yaml" in page and f"compressors/{METHODS[method]}.py" in page


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_no_quoted_cell_begins_a_line(page: Path) -> None:
    # Markdown ends a paragraph where a line begins with a comment.
    lines = page.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if line.startswith("<!-- cell:")]


def test_the_page_of_protocols_has_every_axis_value_and_preset() -> None:
    page = text_of("protocols.md")
    axes = [part.name for part in dataclasses.fields(ScoringProtocol) if part.name not in ("name", "source")]
    values = [value for of_axis in CHOICES.values() for value in of_axis]
    presets = [path.stem for path in (CONF / "evaluation").glob("*.yaml")]
    for name in (*axes, *values, *presets):
        assert re.search(rf"`{name}`", page), f"docs/protocols.md does not tell of {name}"
    for name in re.findall(r"`(\w+@\d+)`", page):
        assert name in PROTOCOLS or name == "box_point@1", name


def test_the_page_of_checkpoints_has_every_named_model() -> None:
    page = text_of("checkpoints.md")
    for name in (*MODELS, *RELEASED):
        assert f"`{name}`" in page, f"docs/checkpoints.md does not tell of {name}"


def test_the_notebook_keeps_what_its_code_gave() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    made_by = "python -m tests.golden.tour runs it and keeps what it shows"
    assert notebook["metadata"][SOURCES] == sources_sha256(notebook), made_by
    images = 0
    for cell in (cell for cell in notebook["cells"] if cell["cell_type"] == "code"):
        kinds = [output["output_type"] for output in cell["outputs"]]
        assert cell["execution_count"] is None and set(kinds) <= {"stream", "display_data", "execute_result"}
        assert not cell["outputs"] or NOT_KEPT not in cell["metadata"].get("tags", [])
        images += sum("image/jpeg" in output.get("data", {}) for output in cell["outputs"])
        text = "".join(["".join(output.get("text", "")) for output in cell["outputs"]])
        assert not re.search(r"(?<![\w.<])/\w+/", text), "no path of the machine that it ran on"
    assert images == 4, made_by
    assert NOTEBOOK.stat().st_size < 400_000


@pytest.mark.slow
def test_the_notebook_runs_and_gives_what_it_keeps(tmp_path: Path) -> None:
    # What README's first command leaves in the same folder is not the run that the notebook shows.
    other = tmp_path / "runs" / "slimsam-r0.77-s0-00000000" / "result.json"
    other.parent.mkdir(parents=True)
    other.write_text("{}")
    notebook = run_tour(tmp_path)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    images = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(images) == 4
    (result,) = set(tmp_path.glob("runs/*/result.json")) - {other}
    student = json.loads(result.read_text())["rows"][-1]
    shown = "".join(output.data["text/plain"] for output in outputs if output.output_type == "execute_result")
    assert f"{student['miou']:.6f}"[:8] in shown and (tmp_path / "scored" / "result.json").is_file()
    keep(notebook)
    kept = [cell.get("outputs", []) for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]]
    for cell, outputs_kept in zip(notebook.cells, kept, strict=True):
        for now, then in zip(cell.get("outputs", []), outputs_kept, strict=True):
            assert sorted(now.get("data", ())) == sorted(then.get("data", ())), "python -m tests.golden.tour"
            if now.output_type == "execute_result":
                # Training differs between processors in its last digits, and an mIoU of few instances in its third.
                figures = [_figures("".join(output["data"]["text/plain"])) for output in (now, then)]
                assert figures[0] == pytest.approx(figures[1], rel=0.03), "python -m tests.golden.tour"


def _figures(text: str) -> list[float]:
    """The numbers in a table."""
    return [float(number) for number in re.findall(r"(?<![\w@.])\d+(?:\.\d+)?(?![\w@])", text)]
