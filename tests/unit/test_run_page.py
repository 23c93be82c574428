"""What the page of a run says, of whole folders and of damaged ones."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from core.errors import InputError
from core.provenance import ROOT
from experiments.cli.command_line import main
from experiments.reporting.bars import quantisation_part
from experiments.reporting.charts import line_chart
from experiments.reporting.run_page import FILES, MOST_BYTES, as_yaml, image_data, run_page, write_run_page
from experiments.reporting.run_record import read_stage, stage_names
from experiments.result_file import write_result
from tests.unit.leaderboard_files import page_data, write_runs
from tests.unit.run_files import QUANTISATION, WIDTHS, about, evaluation, failed, finished, rows

SECTIONS = (
    "figures",
    "comparison",
    "masks",
    "curves",
    "widths",
    "quantisation",
    "next",
    "provenance",
    "settings",
    "files",
)


def sections(page: str) -> dict[str, str]:
    """The page's sections by name."""
    return dict(re.findall(r'<section id="(\w+)">(.*?)</section>(?=\n)', page, re.DOTALL))


def test_a_finished_run_shows_every_part(tmp_path: Path) -> None:
    page = run_page(finished(tmp_path / "slimsam-r0.77-s0-12345678"))
    found = sections(page)
    assert tuple(found) == SECTIONS
    assert "<h1>slimsam-r0.77-s0-12345678</h1>" in page and "pocket scale" in page
    assert "0.8701" in found["figures"] and "teacher 0.9148" in found["figures"] and "-4.47 points" in found["figures"]
    assert "35.7 %" in found["figures"] and "AMD EPYC" in found["figures"]
    assert 'title="0.9148276346829911">0.9148<' in found["comparison"], "the raw value is there to read"
    assert found["comparison"].count("<td") > 20 and "filled box" in found["comparison"]
    assert "8 of 5 × 32" in found["widths"] and "150 of 640" in found["widths"] and "700 of 3 k" in found["widths"]
    assert "image_encoder.blocks.3.attn.qkv" in found["quantisation"] and "-1.2 dB" in found["quantisation"]
    assert "python -m experiments method=slimsam ratio=0.77" in found["provenance"]
    assert "changes that are not committed" in found["provenance"] and "ab" * 32 in found["provenance"]
    assert "betas: [0.9, 0.999]" in found["settings"] and "images: null" in found["settings"]
    assert 'href="student.safetensors"' in found["files"] and "4,096 bytes" in found["files"]
    student = "runs/slimsam-r0.77-s0-12345678/student.safetensors"
    for word in ("evaluate checkpoint=", "export checkpoint=", "convert checkpoint=", "method=ptq method.init="):
        assert f"python -m experiments {word}{student}" in found["next"]


def test_a_time_is_beside_the_ratio_that_the_table_has(tmp_path: Path) -> None:
    # 11.25 ms of 23.44 ms would be 48 %; over rounds in turns the student took 60 %.
    timed = rows(latency_reference="sam_pocket", encoder_latency_ratio=0.6)
    path = tmp_path / "result.json"
    write_result(path, timed, about())
    figures = sections(run_page(path))["figures"]
    assert "60 %" in figures and "in turns" in figures and "48 %" not in figures


def test_curves_show_every_stage_in_order_with_its_losses_and_scores(tmp_path: Path) -> None:
    curves = sections(run_page(finished(tmp_path / "run")))["curves"]
    assert curves.index("embedding aligning") < curves.index("bottleneck aligning")
    assert curves.count('<svg class="chart"') == 8, "losses, scores, rate and speed of two stages"
    assert "window qkv" in curves and "mIoU, one point" in curves and "peak memory 123.46 MB" in curves
    assert "100 steps, 400 images" in curves
    # Colours are the page's, so that it fits both grounds.
    drawn = "".join(re.findall(r'<svg class="chart".*?</svg>', curves, re.DOTALL))
    assert "var(--c0)" in drawn and "#" not in drawn and "font" not in drawn


@pytest.mark.parametrize("logarithmic", [False, True])
def test_a_chart_of_one_step_has_one_tick_an_axis(logarithmic: bool) -> None:
    chart = line_chart({"embedding": [(8, 0.3216)]}, logarithmic)
    assert [words for _, words in chart["across"]] == ["8"] and [words for _, words in chart["down"]] == ["0.3216"]


def test_the_page_is_the_same_each_time(tmp_path: Path) -> None:
    source = finished(tmp_path / "run")
    first = run_page(source)
    (tmp_path / "run" / "report.html").write_text(first)
    assert run_page(source) == first


def test_the_order_of_stages_is_reported_or_that_of_their_last_lines(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    (tmp_path / "run" / "instances.jsonl").touch()
    assert stage_names(tmp_path / "run") == ["embedding_aligning", "bottleneck_aligning"]
    backwards = {"stages": ["bottleneck_aligning", "embedding_aligning"]}
    assert stage_names(tmp_path / "run", backwards) == backwards["stages"]


def test_a_committed_result_file_shows_what_it_holds_and_needs_no_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    # Logs and images that lie beside it are not its own.
    finished(tmp_path / "slimsam")
    path = tmp_path / "slimsam" / "slimsam-r0.77-s0-12345678.json"
    write_result(path, rows(), {key: value for key, value in about().items() if key != "widths"})
    found = sections(run_page(path))
    assert tuple(found) == ("figures", "comparison", "next", "provenance", "settings", "files")
    assert "slimsam-r0.77-s0-12345678.json" in found["files"]


@pytest.mark.parametrize("name", ["slimsam", "mobilesam+ptq", "evaluations", "tinysam"])
def test_the_committed_results_have_pages(name: str) -> None:
    for path in sorted((ROOT / "results" / name).glob("*.json"))[:3]:
        found = sections(run_page(path))
        assert {"figures", "comparison", "provenance", "settings"} <= set(found)
        shown = json.loads(path.read_text())["rows"][-1]
        figure = shown["ap"] if shown["miou"] is None else shown["miou"]
        assert f'title="{figure}"' in found["comparison"]


def test_a_failed_run_shows_its_reason_and_how_far_it_came(tmp_path: Path) -> None:
    page = run_page(failed(tmp_path / "run", "TrainingDiverged: loss is nan at step 30"))
    found = sections(page)
    assert "This run failed" in page and "TrainingDiverged: loss is nan at step 30" in page
    assert "embedding aligning" in found["curves"] and "next" not in found and "comparison" in found
    assert "mIoU" not in found["figures"]


def test_an_evaluation_shows_its_protocols(tmp_path: Path) -> None:
    page = run_page(evaluation(tmp_path / "sam_pocket-coco-00000000"))
    found = sections(page)
    assert "<h1>sam_pocket on coco</h1>" in page and "2 protocols on coco: 80 images" in page
    assert (
        "mIoU, box_single@1" in found["figures"] and "0.2918" in found["figures"] and "teacher" not in found["figures"]
    )
    assert '<td class="differs">oracle</td>' in found["protocols"] and "<td>pillow</td>" in found["protocols"]
    assert "crowd 11" in found["protocols"] and "curves" not in found and "next" not in found
    assert "python -m experiments evaluate checkpoint=sam_pocket" in found["provenance"]


def test_links_lead_from_where_the_page_lies(tmp_path: Path) -> None:
    source = finished(tmp_path / "runs" / "a run?")
    assert 'href="../../runs/a%20run%3F/masks.png"' in run_page(source, tmp_path / "pages" / "runs")
    assert 'href="masks.png"' in run_page(source)


def test_every_file_that_a_method_leaves_has_a_line() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "compressors").glob("*.py"))
    left = re.findall(r'context\.folder / "([^"]+)"', code)
    assert len(left) > 2
    table = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")
    for name in left:
        assert name in FILES, f"experiments/reporting/run_page.py: FILES has no line for {name}"
        assert f"\n| `{name}` | " in table, f"docs/runs.md has no line for {name}"


def test_damaged_files_hide_only_their_own_part(tmp_path: Path) -> None:
    source = finished(tmp_path / "run")
    log = tmp_path / "run" / "embedding_aligning.jsonl"
    log.write_text(log.read_text() + '{"step": 110, "lo')
    (tmp_path / "run" / "quantisation.json").write_text('{"layers": [{"layer": "a"}]}')
    (tmp_path / "run" / "masks.png").write_bytes(b"no image")
    write_result(source, rows(), about(widths={"teacher": WIDTHS["teacher"]}))
    page = run_page(source)
    found = sections(page)
    assert "embedding_aligning.jsonl: 1 unreadable line(s) left out" in page
    for name in ("quantisation", "masks", "widths"):
        assert "This part cannot be shown" in found[name], name
    assert found["curves"].count('<svg class="chart"') == 8 and "0.8701" in found["figures"]
    for damaged, said in (
        ("[1, 2", "cannot be read"),
        ("[]", "cannot be read (no mapping)"),
        ('{"layers": [], "layers": []}', "has the key"),
        (" " * (9 << 20), "is longer than"),
    ):
        (tmp_path / "run" / "quantisation.json").write_text(damaged)
        page = run_page(source)
        assert "quantisation" not in sections(page) and "quantisation.json" in page and said in page


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b"nonsense\n",
        b"[1]\n",
        b'{"loss": 1}\n',
        b'{"step": "1"}\n',
        b"\xff\xfe\n",
        b'{"step": NaN}\n',
        b"[" * 99999,
    ],
)
def test_a_log_that_is_none_draws_nothing(tmp_path: Path, content: bytes) -> None:
    source = finished(tmp_path / "run")
    (tmp_path / "run" / "bottleneck_aligning.jsonl").write_bytes(content)
    curves = sections(run_page(source))["curves"]
    assert curves.count('<svg class="chart"') == 4


def test_values_that_are_no_figures_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "stage.jsonl"
    whole = 10**400
    path.write_text(f'{{"step": 1, "a": 2.5, "b": NaN, "c": "x", "d": {whole}, "e": true}}\n{{"step": 2, "a": -1}}\n')
    stage = read_stage(path)
    assert stage.series == {"a": [(1, 2.5), (2, -1)]} and stage.unreadable == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"provenance": None},
        {"provenance": {"argv": "words", "versions": 3, "git_dirty": []}},
        {"config": [1]},
        {"config": {"runs": None, "evaluation": 3}},
        {"widths": 3},
        {"widths": {"teacher": WIDTHS["teacher"], "student": {**WIDTHS["student"], "attention": [1]}}},
        {"widths": {"teacher": WIDTHS["teacher"], "student": {**WIDTHS["student"], "attention": ["x", "y"]}}},
        {"stages": "embedding_aligning"},
        {"stages": [["x"]]},
    ],
)
def test_facts_of_another_kind_break_nothing(tmp_path: Path, changes: dict[str, object]) -> None:
    source = finished(tmp_path / "run")
    write_result(source, rows(), about(**changes))
    assert "0.8701" in sections(run_page(source))["figures"]


def test_a_damaged_result_file_is_named(tmp_path: Path) -> None:
    source = finished(tmp_path / "run")
    source.write_text('{"rows": []}')
    with pytest.raises(InputError, match=r"result\.json: holds no rows"):
        run_page(source)


def test_what_keeps_a_page_from_being_made_is_reported_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = finished(tmp_path / "run")
    source.write_text("{")
    write_run_page(source)
    assert "report.html was not written (InputError" in capsys.readouterr().err
    assert not (tmp_path / "run" / "report.html").exists()


def test_strings_of_files_are_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>&\"'\ud800"
    source = finished(tmp_path / "run")
    layers = [{**QUANTISATION["layers"][0], "layer": evil, "kind": evil}]
    (tmp_path / "run" / "quantisation.json").write_text(json.dumps({**QUANTISATION, "metric": evil, "layers": layers}))
    (tmp_path / "run" / "embedding_aligning.jsonl").write_text(json.dumps({"step": 1, evil: 2.0, "$x_{": 3.0}) + "\n")
    (tmp_path / "run" / "<img src=x>.txt").touch()
    parts = {
        "teacher": WIDTHS["teacher"],
        "student": {**WIDTHS["student"], "parts": {evil: 3}, "kind": evil, "channels": [1]},
    }
    provenance = {"argv": [evil], "git_sha": evil, "versions": {evil: evil}, "utc": evil}
    changes = {"config": {evil: evil, "runs": evil}, "provenance": provenance, "widths": parts, evil: evil}
    # Of rows, text that is not UTF-8 is refused; beside them it is not.
    text = evil.removesuffix("\ud800")
    write_result(source, rows(run_id=text, student=text, method=text, device=text, variant=text), about(**changes))
    write_run_page(source)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "<img src=x" not in page
    shown = "&lt;script&gt;alert(1)&lt;/script&gt;&amp;&#34;&#39;"
    assert page.count(shown) > 12 and page.count(f"{shown}?") > 6


def test_a_large_image_is_made_smaller(tmp_path: Path) -> None:
    path = tmp_path / "masks.png"
    noise = Image.effect_noise((2400, 1200), 90)
    noise.convert("RGBA").save(path)
    assert path.stat().st_size > MOST_BYTES
    shown = image_data(path)
    assert shown.startswith("data:image/jpeg;base64,") and len(shown) < MOST_BYTES
    path.write_bytes(path.read_bytes()[: MOST_BYTES + 10])
    with pytest.raises(ValueError, match="truncated"):
        image_data(path)


def test_settings_read_like_yaml() -> None:
    nested = {"a": {"b": 1, "c": {}}, "d": None, "e": True, "f": [1, "x"], "g": 1e-6, "h": 1, "i": 0}
    assert as_yaml(nested) == "a:\n  b: 1\n  c: {}\nd: null\ne: true\nf: [1, x]\ng: 1.0e-06\nh: 1\ni: 0\n"
    assert yaml.safe_load(as_yaml(nested)) == nested and as_yaml({}) == ""


def test_a_leaderboard_without_pages_links_to_none(tmp_path: Path) -> None:
    runs, out = write_runs(tmp_path / "runs"), tmp_path / "out"
    assert main(["leaderboard", f"runs={runs}", "results=false", f"out={out}", "pages=false"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["leaderboard.csv", "leaderboard.html", "leaderboard.md"]
    assert page_data((out / "leaderboard.html").read_text())["pages"] == {}


@pytest.mark.parametrize(
    ("more", "along", "about"),
    [
        ({}, "bit-operations, % of eight bits everywhere", "1 of 2 layers have eight bits, within 40 % of the bit-op"),
        ({"bits": {"a": 8}}, "bit-operations, % of eight bits everywhere", "1 of 2 layers have eight bits, within"),
        (
            {"bits": {"a": 8, "b": 6}, "chosen": ["a", "b"]},
            "bit-operations, % of eight bits everywhere",
            "1 of 2 layers have eight bits, 1 have 6, within 40 % of the bit-operations that eight bits",
        ),
        ({"of": "bytes"}, "bytes, % of eight bits everywhere", "within 40 % of the bytes that eight bits everywhere"),
        (
            {"of": "milliseconds", "budget": 0.9, "runtime": "openvino"},
            "milliseconds of all layers in openvino, % of those in float",
            "1 of 2 layers are float, within 0.9 ms of openvino for all layers (0.5 with eight bits everywhere, 2 in",
        ),
    ],
)
def test_what_a_budget_buys_is_drawn_against_what_it_is_of(more: dict[str, Any], along: str, about: str) -> None:
    front = [{"layer": "a", "spent": 1.0, "expected_loss": 3.0}, {"layer": "b", "spent": 2.0, "expected_loss": 1.0}]
    mixed = {"budget": 0.4, "lowest": 0.5, "highest": 2.0, "expected_loss": 4.0, "front": front, "chosen": ["a"]}
    part = quantisation_part({**QUANTISATION, "mixed_precision": {**mixed, **more}})
    assert part is not None and part["mixed"]["along"] == along
    assert about in part["mixed"]["about"]
    (line,) = part["mixed"]["chart"]["lines"]
    # From eight bits, or few, everywhere through both layers: three places, the last one at the right end.
    assert len(line["points"]) == 3 and line["last"] == 1.0
