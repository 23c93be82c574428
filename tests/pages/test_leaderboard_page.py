"""The leaderboard in a browser: every figure in plot and table, sorted and narrowed down by controls, text as text."""

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.reporting.commands import write_leaderboard
from experiments.reporting.documents import lines_of
from experiments.reporting.leaderboard_page import FILE, leaderboard_page
from experiments.reporting.models import front
from experiments.reporting.results import Results, gather
from experiments.result_file import NAME, write_result
from tests.pages.conftest import PHONE, WIDE, Opened
from tests.unit.leaderboard_files import HOSTILE, IMAGE, rows_of, write_runs

COMMAND = "python -m experiments leaderboard"
POINTS = "document.querySelectorAll('#plot .points path.point').length"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file of a leaderboard of a few runs and the published figures."""
    place = tmp_path_factory.mktemp("leaderboard")
    write_leaderboard(board_of(write_runs(place / "runs")), place / "out", COMMAND)
    return place


@pytest.fixture(scope="module")
def shown(folder: Path, opened: Opened) -> Iterator[Any]:
    """The page, opened once: loading it takes longer than what most tests do with it."""
    with opened(folder / "out" / FILE) as page:
        yield page


def wait_until(page: Any, expression: str) -> None:
    """Playwright's own waiting evaluates strings inside the page, which forbids that."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {expression}")


@pytest.fixture
def page(shown: Any) -> Any:
    """The page as it is when it was just opened."""
    shown.set_viewport_size(WIDE)
    shown.emulate_media(color_scheme="light")
    shown.evaluate("location.hash = '#data='")
    wait_until(shown, "document.getElementById('data').value === ''")
    shown.evaluate("location.hash = ''")
    wait_until(shown, "document.getElementById('data').value === 'shapes'")
    return shown


def board_of(runs: Path) -> Results:
    return gather(runs, results=False)


def shapes(board: Results) -> list[dict[str, Any]]:
    """The models that were scored on it."""
    return lines_of(board.models[board.models["data"] == "shapes"])


def column(page: Any, name: str) -> list[str | None]:
    """The raw values of a column, from above; None where a cell is empty."""
    cells = page.locator(f"#rows tbody td[data-column={name}]")
    found: list[str | None] = cells.evaluate_all("cells => cells.map((cell) => cell.dataset.value ?? null)")
    return found


def models(page: Any) -> list[str]:
    found: list[str] = page.locator("#rows tbody th").evaluate_all("cells => cells.map((cell) => cell.dataset.value)")
    return found


def settle(page: Any) -> None:
    """Until what was typed has been looked for."""
    page.wait_for_timeout(200)


def test_every_model_is_a_line_with_its_exact_figures(folder: Path, page: Any) -> None:
    board = board_of(folder / "runs")
    lines = sorted(shapes(board), key=lambda line: -line["score"])
    assert page.title() == "sampress leaderboard"
    shown = models(page)
    assert shown[:-1] == [line["model"] for line in lines] and "slimsam 0.5" in shown[-1], "failed ones stand last"
    for name in ("score", "point", "to_teacher", "parameters", "macs_full", "size_bytes", "encoder_latency_ratio"):
        expected = [line[name] for line in lines]
        given = [None if value is None else float(value) for value in column(page, name)]
        assert given == [*expected, None], name
    spread = page.locator("#rows tr:has(td[data-spread]) td[data-column=score]").first.get_attribute("data-spread")
    assert float(spread) == max(line["score_spread"] or 0 for line in lines)
    assert page.locator("#shown").inner_text() == f"{len(shown)} of {len(board.models) + 1} models, 1 failed"


def test_the_plot_has_every_row_with_both_figures(folder: Path, page: Any) -> None:
    board = board_of(folder / "runs")
    lines = shapes(board)
    rows = [board.rows.loc[place] for line in lines for place in line["rows"]]
    for cost in ("macs_full", "macs_modules", "parameters", "encoder_latency_ratio", "size_bytes", "images_seen"):
        for score, of_row in (("score", "miou"), ("point", "miou_point")):
            page.locator("#cost").select_option(cost)
            page.locator("#score").select_option(score)
            with_both = [line for line in lines if None not in (line[cost], line[score])]
            assert page.evaluate(POINTS) == len(with_both) > 1, (cost, score)
            page.locator("input[value=runs]").check()
            assert page.evaluate(POINTS) == sum(None not in (row[cost], row[of_row]) for row in rows)
            page.locator("input[value=means]").check()
    assert page.evaluate("document.getElementById('plot').layout.xaxis.type") == "log"


def test_points_front_and_spread_are_those_of_the_rows(folder: Path, page: Any) -> None:
    lines = [line for line in shapes(board_of(folder / "runs")) if line["macs_full"] is not None]
    points = [(float(line["macs_full"]), line["score"]) for line in lines]
    traces = page.evaluate(
        "document.getElementById('plot').data.map(({x, y, mode, name, error_y, marker}) => "
        "({x, y, mode, name, spread: error_y?.array, symbol: marker?.symbol}))"
    )
    drawn = [
        pair for trace in traces if trace["mode"] == "markers" for pair in zip(trace["x"], trace["y"], strict=True)
    ]
    assert sorted(map(tuple, drawn)) == sorted(points)
    (best,) = (trace for trace in traces if trace["name"] == "best for its cost")
    assert list(zip(best["x"], best["y"], strict=True)) == [points[place] for place in front(points)]
    spreads = {spread for trace in traces for spread in trace["spread"] or () if spread is not None}
    assert spreads == {line["score_spread"] for line in lines if line["score_spread"] is not None}
    marks = [trace["symbol"] for trace in traces if trace["mode"] == "markers"]
    assert len(set(marks)) == len(marks) and not any("open" in mark for mark in marks)
    texts = page.evaluate("document.getElementById('plot').layout.annotations.map(({text}) => text)")
    assert sorted(texts) == ["filled box 0.6000", "filled ellipse 0.6667", "teacher sam_pocket 0.9000"]


def test_published_figures_are_hollow_and_by_themselves(folder: Path, page: Any) -> None:
    page.locator("#data").select_option("sa1b")
    assert page.locator("#protocol option:checked").inner_text().startswith("slimsam@1 · published")
    assert set(page.locator("#rows tbody tr").evaluate_all("rows => rows.map((row) => row.dataset.source)")) == {
        "published"
    }
    assert page.locator("#rows .tag").all_inner_texts() == ["published"] * 21
    # SlimSAM counts by modules, so that another cost is chosen than the usual one.
    assert page.locator("#cost").input_value() == "macs_modules"
    assert page.evaluate(POINTS) == 21
    marks = page.evaluate(
        "document.getElementById('plot').data.filter(({mode}) => mode === 'markers').map(({marker}) => marker.symbol)"
    )
    assert marks and all(mark.endswith("-open") for mark in marks)
    page.locator("#data").select_option("coco")
    page.locator("#protocol").select_option(label=page.locator("#protocol option", has_text="tinysam@1").inner_text())
    assert page.locator("#rows thead th").nth(1).inner_text() == "AP"


def test_heads_sort_by_mouse_and_by_keyboard(folder: Path, page: Any) -> None:
    assert page.locator("th[aria-sort]").get_attribute("data-column") == "score"
    for name, first in (("macs_full", "ascending"), ("point", "descending"), ("parameters", "ascending")):
        head = page.locator(f"th[data-column={name}]")
        for direction in (first, {"ascending": "descending", "descending": "ascending"}[first]):
            if name == "point":
                head.locator("button").focus()
                page.keyboard.press("Enter")
            else:
                head.locator("button").click()
            assert head.get_attribute("aria-sort") == direction and page.locator("th[aria-sort]").count() == 1
            values = column(page, name)
            known = [float(value) for value in values if value is not None]
            assert known == sorted(known, reverse=direction == "descending") and len(known) >= 4
            assert all(value is None for value in values[len(known) :]), "what is unknown stands last"
            assert page.evaluate("document.activeElement.closest('th')?.dataset.column") == name, "the focus stays"
    page.locator("th[data-column=model] button").click()
    names = [name for name in models(page) if "script" not in name]
    assert names[0].startswith("filled box") and names[-1].startswith("teacher")


def test_filters_act_on_table_and_plot(folder: Path, page: Any) -> None:
    everything = page.evaluate(POINTS)
    page.locator("#method").select_option("slimsam")
    assert all(name.startswith("slimsam") for name in models(page)) and 0 < page.evaluate(POINTS) < everything
    fronts = "document.getElementById('plot').data.filter(({name}) => name === 'best for its cost').length"
    assert page.evaluate(fronts) == 0, "what another method beats is best for its cost in no choice of rows"
    page.locator("#reset").click()
    assert page.evaluate(POINTS) == everything and page.evaluate(fronts) == 1
    page.locator("#search").fill("MOBILESAM s0")
    settle(page)
    assert models(page) == ["mobilesam, tiny_vit"] and page.evaluate(POINTS) == 1
    page.locator("#search").fill("nothing is called this")
    settle(page)
    assert models(page) == [] and page.locator("#plot").is_hidden()
    page.locator("#search").fill("")
    settle(page)
    page.locator("#source").select_option("failed")
    assert page.locator("#rows tbody tr.failed").count() == page.locator("#rows tbody tr").count() == 1
    assert page.locator("#rows .reason").inner_text().startswith("TrainingDiverged: <script>")
    page.locator("#source").select_option("")
    page.locator("#protocol").select_option("")
    page.locator("#data").select_option("")
    total = len(board_of(folder / "runs").models) + 1
    assert page.locator("#rows tbody tr").count() == total and page.locator("#plot").is_hidden()
    protocols = column(page, "protocol")
    assert None not in protocols[:-1] and len(set(protocols)) > 4, "other protocols stand beside each row"


def test_more_columns_and_every_run(folder: Path, page: Any) -> None:
    usual = page.locator("#rows thead th").count()
    assert page.locator("th[data-column=macs_modules]").count() == 0
    page.locator("#more").check()
    assert page.locator("#rows thead th").count() > usual + 5
    assert column(page, "macs_modules").count("90000001") == 3
    page.locator("input[value=runs]").check()
    runs = [run for run in column(page, "run_id") if run]
    assert {"slimsam-r0.77-s0-00000000", "slimsam-r0.77-s1-00000001", IMAGE} < set(runs)
    lines = list(csv.DictReader(io.StringIO((folder / "out" / "leaderboard.csv").read_text(encoding="utf-8"))))
    expected = {float(line["miou"]) for line in lines if line["data"] == "shapes" and line["miou"]}
    assert {float(value) for value in column(page, "score") if value} == expected


def test_names_from_files_are_text(folder: Path, page: Any) -> None:
    (name,) = (name for name in models(page) if HOSTILE in name)
    row = page.locator("#rows tbody tr", has_text="<script>alert(1)").first
    assert HOSTILE in row.inner_text() and IMAGE in name
    assert page.locator("main img, main script").count() == 0
    point = page.evaluate(
        "(() => { for (const trace of document.getElementById('plot').data) for (const words of trace.text ?? []) "
        "if (words.includes('alert')) return words; })()"
    )
    assert "<script" not in point and "&#60;script" in point
    page.locator("#search").fill(HOSTILE)
    settle(page)
    assert page.locator("#rows tbody tr").count() == 2
    page.locator("#more").check()
    assert HOSTILE in [value for value in column(page, "variant") if value]


def test_a_click_on_a_point_goes_to_its_row_and_on_to_its_page(folder: Path, page: Any) -> None:
    page.locator("#method").select_option("mobilesam")
    page.locator("#plot .points path.point").first.scroll_into_view_if_needed()
    box = page.locator("#plot .points path.point").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#plot .hoverlayer .hovertext")
    assert "mobilesam, tiny_vit" in page.locator("#plot .hoverlayer").text_content()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#rows tr.found")
    link = page.locator("#rows tr.found a").first.get_attribute("href")
    assert link == "pages/mobilesam-s0-00000002.html"
    page.locator("#reset").click()
    links = page.locator("#rows tbody a").evaluate_all("links => links.map((link) => link.getAttribute('href'))")
    assert {f"pages/slimsam-r0.77-s{seed}-0000000{seed}.html" for seed in (0, 1)} < set(links)
    assert all((folder / "out" / link).is_file() for link in links)


def test_the_csv_is_in_the_page(folder: Path, page: Any) -> None:
    with page.expect_download() as download:
        page.locator("#csv").click()
    assert download.value.suggested_filename == "leaderboard.csv"
    assert Path(download.value.path()).read_bytes() == (folder / "out" / "leaderboard.csv").read_bytes()


def test_a_link_keeps_the_view(folder: Path, page: Any) -> None:
    assert page.url.endswith(FILE) or page.url.endswith("#")
    page.locator("#method").select_option("slimsam")
    page.locator("#cost").select_option("size_bytes")
    page.locator("th[data-column=point] button").click()
    page.locator("input[value=runs]").check()
    shown, address = models(page), page.url
    page.goto("about:blank")
    page.goto(address)
    assert models(page) == shown and page.locator("#cost").input_value() == "size_bytes"
    assert page.locator("th[aria-sort]").get_attribute("data-column") == "point"
    page.goto("about:blank")
    page.goto(address.partition("#")[0] + "#cost=constructor&sort=__proto__&condition=7&data=%3Cb%3E&direction=up")
    assert page.locator("#rows tbody tr").count() > 0, "what nobody can have chosen is left aside"


def test_a_phone_needs_no_scrolling_sideways(folder: Path, page: Any) -> None:
    page.set_viewport_size(PHONE)
    wait_until(page, 'document.getElementById("plot").clientWidth < 400')
    assert page.evaluate(OVERFLOW) == 0
    inside = (
        "(() => { const one = document.querySelector('.scroll.tall'); return one.scrollWidth > one.clientWidth; })()"
    )
    assert page.evaluate(inside), "the table scrolls by itself"
    page.locator("#more").check()
    page.locator("#protocol").select_option("")
    page.locator("#data").select_option("")
    assert page.evaluate(OVERFLOW) == 0
    right = page.locator("#controls select").evaluate_all(
        "all => Math.max(...all.map((one) => one.getBoundingClientRect().right))"
    )
    assert right <= PHONE["width"]


def test_dark_and_light(folder: Path, page: Any) -> None:
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    grid = "document.getElementById('plot').layout.xaxis.gridcolor"
    found = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        # The plot follows a moment later.
        for other, _ in found.values():
            wait_until(page, f"{grid} !== '{other}'")
        found[scheme] = (page.evaluate(grid), page.evaluate(ground))
        page.locator("#theme").click()
        wait_until(page, f"{grid} !== '{found[scheme][0]}'")
        assert page.evaluate(ground) != found[scheme][1]
        page.locator("#theme").click()
        wait_until(page, f"{grid} === '{found[scheme][0]}'")
        assert page.evaluate(ground) == found[scheme][1]
        page.evaluate("location.hash = ''")
        wait_until(page, "!('theme' in document.documentElement.dataset)")
    assert found["light"] != found["dark"]


@pytest.mark.slow
def test_thousands_of_rows_come_in_parts(tmp_path: Path, opened: Opened) -> None:
    for number in range(310):
        row = replace(rows_of(f"run-{number}", number, miou=number / 1000)[3], ratio=(number + 1) / 1000, student=None)
        write_result(tmp_path / f"run-{number}" / NAME, [row], {})
    page_file = tmp_path / FILE
    page_file.write_text(leaderboard_page(gather(tmp_path, results=False, published=False), COMMAND), encoding="utf-8")
    with opened(page_file) as page:
        assert page.evaluate(POINTS) == 310 and page.locator("#rows tbody tr").count() == 300
        assert page.locator("#rest").inner_text().startswith("300 of 310 are shown")
        page.locator("#rest button").last.click()
        assert page.locator("#rows tbody tr").count() == 310 and page.locator("#rest button").count() == 0


def test_sam_2_is_a_second_family_in_the_same_plot(tmp_path: Path, opened: Opened) -> None:
    for number, teacher in enumerate(("sam_pocket", "sam2_pocket")):
        rows = rows_of(f"run-{number}", 0, teacher=teacher, student=None, miou=0.5 + number / 10)
        rows[2] = replace(rows[2], teacher=teacher, miou=0.8 + number / 10)
        write_result(tmp_path / f"run-{number}" / NAME, rows, {})
    page_file = tmp_path / FILE
    page_file.write_text(leaderboard_page(gather(tmp_path, results=False, published=False), COMMAND), encoding="utf-8")
    with opened(page_file) as page:
        names = page.locator("#plot .legendtext").all_text_contents()
        assert [name for name in names if "best" not in name] == [
            "teacher, SAM", "teacher, SAM 2", "slimsam, SAM", "slimsam, SAM 2",
        ]  # fmt: skip
        table = page.locator("#rows").inner_text()
        assert "slimsam 0.77 of sam_pocket" in table and "slimsam 0.77 of sam2_pocket" in table


def test_a_second_method_shows_and_what_was_only_timed_is_beside_no_score(tmp_path: Path, opened: Opened) -> None:
    for number, method in enumerate(("mobilesam", "mobilesam+tinysam", "mobilesam+tinysam+ptq")):
        rows = rows_of(f"run-{number}", 0, method=method, student="tiny_vit_pocket", miou=0.5 + number / 10)
        write_result(tmp_path / f"run-{number}" / NAME, rows, {})
    timed = replace(rows_of("timed", 0)[3], data=None, protocol=None, miou=None, miou_point=None, instances=None)
    write_result(tmp_path / "timed" / NAME, [timed], {})
    page_file = tmp_path / FILE
    page_file.write_text(leaderboard_page(gather(tmp_path, results=False, published=False), COMMAND), encoding="utf-8")
    with opened(page_file) as page:
        assert "slimsam 0.77" not in page.locator("#rows").inner_text()
        assert page.evaluate("board.items('means').length") == page.locator("#rows tbody tr").count() + 1
        page.locator("#data").select_option("")
        assert "slimsam 0.77" in page.locator("#rows").inner_text()
        looks = page.evaluate(
            "['mobilesam', 'tinysam', 'mobilesam+tinysam', 'mobilesam+tinysam+ptq'].map((name) => marks.of(name))"
        )
        mobilesam, tinysam, chain, quantised = looks
        assert chain["shape"] == mobilesam["shape"] != tinysam["shape"]
        assert chain["colour"] == tinysam["colour"] != mobilesam["colour"]
        assert quantised == {**chain, "dot": True}


def test_a_page_without_a_score_says_so(tmp_path: Path, opened: Opened) -> None:
    failed = replace(
        rows_of("run-0", 0)[3], status="failed", reason="no luck", miou=None, miou_point=None, protocol=None
    )
    write_result(tmp_path / "run-0" / NAME, [failed], {})
    page_file = tmp_path / FILE
    page_file.write_text(leaderboard_page(gather(tmp_path, results=False, published=False), COMMAND), encoding="utf-8")
    with opened(page_file) as page:
        assert page.locator("#rows tbody tr.failed").count() == 1 and page.locator("#plot").is_hidden()
        assert "no luck" in page.locator("#rows").inner_text() and page.locator("#about").inner_text()
