"""The page of a run in a browser: it shows everything, asks for nothing, fits a phone, and keeps text as text."""

import json
from pathlib import Path

import pytest

from experiments.reporting.run_page import write_run_page
from experiments.result_file import write_result
from tests.pages.conftest import PHONE, WIDE, Opened
from tests.unit.run_files import QUANTISATION, WIDTHS, about, evaluation, failed, finished, log, rows

EVIL = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def made(source: Path) -> Path:
    write_run_page(source)
    return source.parent / "report.html"


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """The page of a finished run with everything."""
    return made(finished(tmp_path / "slimsam-r0.77-s0-12345678"))


def test_every_section_is_there_and_seen(report: Path, opened: Opened) -> None:
    with opened(report) as page:
        assert page.title() == "slimsam-r0.77-s0-12345678"
        for link in page.locator("nav.contents a").all():
            target = link.get_attribute("href")
            assert page.locator(target).is_visible() and page.locator(f"{target} h2").count() == 1, target
        assert page.locator("nav.contents a").count() == 9
        assert page.locator("svg.chart").count() == 8
        assert page.locator("#masks img").evaluate("image => image.complete && image.naturalWidth") == 900
        assert page.locator("#settings pre").is_hidden()
        page.locator("#settings summary").click()
        assert "ratio: 0.77" in page.locator("#settings pre").inner_text()


def test_charts_are_drawn_with_lines_of_several_colours_and_dashes(report: Path, opened: Opened) -> None:
    with opened(report) as page:
        losses = page.locator("svg.chart").first
        lines = losses.locator("path.line").evaluate_all(
            "paths => paths.map(path => [getComputedStyle(path).stroke, getComputedStyle(path).strokeDasharray])"
        )
        assert len(lines) >= 2 and lines[0][0] != lines[1][0] and lines[0][1] != lines[1][1]
        box = losses.bounding_box()
        assert box["width"] > 200 and box["height"] > 100
        inside = losses.locator("text").evaluate_all(
            "texts => texts.every(text => { const box = text.getBoundingClientRect();"
            " const whole = text.ownerSVGElement.getBoundingClientRect();"
            " return box.left >= whole.left - 2 && box.right <= whole.right + 2 })"
        )
        assert inside, "numbers of the axes are not cut off"


def test_bars_are_as_long_as_their_numbers(report: Path, opened: Opened) -> None:
    with opened(report) as page:
        first = page.locator("#widths tbody tr").first.locator("td").first
        fill, outline = (first.locator(part).bounding_box()["width"] for part in ("i.fill", "i.outline"))
        assert fill == pytest.approx(outline * 40 / 160, abs=1)
        lengths = [one.bounding_box() for one in page.locator("#quantisation td:nth-child(2) i.fill").all()]
        widths = [0.0 if box is None else box["width"] for box in lengths]
        assert widths[:4] == sorted(widths[:4], reverse=True) and widths[3] > 0 and widths[4] == 0


@pytest.mark.parametrize("kind", ["finished", "failed", "evaluation"])
def test_a_phone_never_scrolls_sideways(tmp_path: Path, opened: Opened, kind: str) -> None:
    folder = tmp_path / "slimsam-r0.77-s0-12345678"
    if kind == "finished":
        source = finished(folder)
        log(folder / "embedding_aligning.jsonl", 1000, **{f"part_of_the_loss_number_{n}": 1.0 + n for n in range(9)})
    elif kind == "failed":
        source = failed(folder, f"TrainingDiverged: {'a_word_without_any_space_' * 20}")
    else:
        source = evaluation(folder)
    with opened(made(source), viewport=PHONE) as page:
        assert page.evaluate(OVERFLOW) == 0
        for summary in page.locator("summary").all():
            summary.click()
        assert page.evaluate(OVERFLOW) == 0


def test_dark_ground_and_light_ground_differ_and_lines_follow(report: Path, opened: Opened) -> None:
    found = []
    for scheme in ("light", "dark"):
        with opened(report, viewport=WIDE, color_scheme=scheme) as page:
            colours = "element => [getComputedStyle(element).color, getComputedStyle(element).backgroundColor]"
            line = page.locator("svg.chart path[style*='--c0']").first.evaluate("path => getComputedStyle(path).stroke")
            label = page.locator("svg.chart text").first.evaluate("text => getComputedStyle(text).fill")
            found.append([*page.locator("html").evaluate(colours), line, label])
    assert all(light != dark for light, dark in zip(*found, strict=True))


def test_it_reads_without_scripts(report: Path, opened: Opened) -> None:
    with opened(report, java_script_enabled=False) as page:
        assert page.locator("svg.chart").count() == 8 and page.locator("#comparison").is_visible()


def test_strings_of_files_are_text(tmp_path: Path, opened: Opened) -> None:
    source = finished(tmp_path / "run")
    layers = [{**QUANTISATION["layers"][0], "layer": EVIL}]
    (tmp_path / "run" / "quantisation.json").write_text(json.dumps({**QUANTISATION, "layers": layers}))
    log(tmp_path / "run" / "embedding_aligning.jsonl", 30, **{EVIL: 1.0, "$\\frac{": 2.0})
    widths = {"teacher": WIDTHS["teacher"], "student": {**WIDTHS["student"], "parts": {EVIL: 3}}}
    changes = {"config": {EVIL: EVIL}, "provenance": {"argv": [EVIL], "git_sha": EVIL}, "widths": widths}
    write_result(source, rows(run_id=EVIL, device=EVIL, student=EVIL, method=EVIL), about(**changes))
    with opened(made(source)) as page:
        assert page.title() == EVIL and page.locator("h1").inner_text() == EVIL
        assert page.locator("script").count() == 0 and page.locator("img").count() == 1
        assert EVIL in page.locator("#quantisation th").nth(5).inner_text()
        assert EVIL.replace("_", " ") in page.locator("#curves ul.legend").first.inner_text()


def test_a_failed_run_says_so_first(tmp_path: Path, opened: Opened) -> None:
    with opened(made(failed(tmp_path / "run", f"RuntimeError: {EVIL}"))) as page:
        alert = page.get_by_role("alert")
        assert EVIL in alert.inner_text() and alert.bounding_box()["y"] < 400
        assert page.locator("img").count() == 0 and page.title() == "run"
