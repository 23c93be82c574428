"""Comparison tables: seeds together, teachers beside, published figures apart, and every format by itself."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from core.provenance import ROOT
from core.result import ResultRow
from evaluation.protocols import PROTOCOLS
from experiments.cli.command_line import main
from experiments.config.groups import DATA
from experiments.reporting import results
from experiments.reporting.columns import MEASURED, MODEL_COLUMNS, PUBLISHED
from experiments.reporting.documents import lines_of, table_csv, table_latex, table_markdown
from experiments.reporting.models import are_different, model_label, models_frame
from experiments.reporting.results import FIGURES, gather, published_models, settings_behind
from experiments.reporting.terminal import print_tables
from experiments.reporting.text_tables import csv_text, latex_escaped, markdown_table
from experiments.result_file import write_result

Call = Callable[..., tuple[int, str, str]]


def row(method: str = "slimsam", seed: int | None = 0, **columns: Any) -> ResultRow:
    usual = {"teacher": "sam_pocket", "data": "shapes", "protocol": "box_point@1", "instances": 10, "images": 2}
    usual |= {"status": "finished", "device": "a CPU", "precision": "float32"}
    usual |= {"run_id": f"{method}-s{seed}-00000000"} if method != "teacher" else {}
    return ResultRow(method=method, seed=seed, **{**usual, **columns})


class Line(SimpleNamespace):
    """A model's line, its columns as attributes."""


def table_rows(rows: list[ResultRow], settings: dict[str, Any] | None = None) -> list[Line]:
    """The lines of rows that were read from files; ``settings`` are those of runs, by their names."""
    known = settings or {}
    frame = pd.DataFrame([{**vars(row), "settings": known.get(str(row.run_id))} for row in rows], dtype=object)
    return as_lines(models_frame(frame))


def as_lines(models: pd.DataFrame) -> list[Line]:
    return [Line(**line) for line in lines_of(models)]


TEACHER = row("teacher", None, miou=0.75, miou_point=0.5, parameters=2_000_000, macs_full=7, size_bytes=8_000_000)


def student(seed: int, miou: float, **columns: Any) -> ResultRow:
    usual = {"ratio": 0.5, "student": "sam_pocket-slimsam-0.5", "miou_small": miou, "parameters": 1_000_000}
    return row(seed=seed, miou=miou, **{**usual, "images_seen": 100, **columns})


def only(rows: list[Line], method: str) -> Line:
    (found,) = (line for line in rows if line.method == method)
    return found


def test_seeds_are_one_line_beside_their_teacher() -> None:
    runs = [student(0, 0.5, encoder_latency_ms=3.0), student(1, 0.75, encoder_latency_ms=5.0)]
    lines = table_rows([*runs, TEACHER, TEACHER])
    assert [line.method for line in lines] == ["teacher", "slimsam"], "best first"
    line = only(lines, "slimsam")
    assert (line.source, line.model, line.seeds) == (MEASURED, "slimsam 0.5", (0, 1))
    assert line.run_ids == ("slimsam-s0-00000000", "slimsam-s1-00000000")
    assert (line.score, line.small, line.metric, line.point) == (0.625, 0.625, "miou", None)
    assert line.score_spread == pytest.approx(0.125 * 2**0.5)
    assert (line.to_teacher, line.point_to_teacher, line.encoder_latency_ms) == (-12.5, None, 4.0)
    teacher = only(lines, "teacher")
    assert (teacher.seeds, teacher.score_spread, teacher.to_teacher, teacher.run_ids) == ((), None, None, ())
    assert (teacher.size_bytes, teacher.macs_full, teacher.macs_modules) == (8_000_000, 7, None)


@pytest.mark.parametrize(
    "other", [{"instances": 11}, {"data": "coco"}, {"protocol": "box_single@1"}, {"teacher": "sam_vit_b"}]
)
def test_no_teacher_under_other_conditions(other: dict[str, Any]) -> None:
    lines = table_rows([student(0, 0.5), row("teacher", None, **{"miou": 0.75, **other})])
    assert only(lines, "slimsam").to_teacher is None


def test_baselines_stand_beside_the_only_teacher() -> None:
    filled = row("filled_box", None, miou=0.25, teacher=None, device=None, precision=None)
    assert only(table_rows([filled, TEACHER]), "filled_box").to_teacher == -50
    two = [filled, TEACHER, row("teacher", None, miou=0.5, teacher="sam_vit_b")]
    assert only(table_rows(two), "filled_box").to_teacher is None
    # Nor has a model of its own making a teacher here.
    assert only(table_rows([row("mobile_sam", None, miou=0.5, teacher=None), TEACHER]), "mobile_sam").to_teacher is None


def test_other_settings_are_other_lines() -> None:
    others: list[dict[str, Any]] = [{}, {"images_seen": 50}, {"variant": "taylor"}, {"device": "a GPU"}, {"ratio": 0.7}]
    others.append({"weight_bits": 8, "activation_bits": 8})
    apart = [student(0, 0.5, **other) for other in others]
    assert len(table_rows(apart)) == len(apart)
    # The same seed with another score: something differs that no column tells, so nothing is averaged.
    other = student(0, 0.625, run_id="slimsam-s0-11111111")
    lines = table_rows([student(0, 0.5), other, student(1, 0.5)])
    assert [line.score for line in lines] == [0.625, 0.5, 0.5] and not any(line.score_spread for line in lines)
    assert lines[0].model == "slimsam 0.5, slimsam-s0-11111111"
    # The same run in two folders counts once, and so does a variant that is the method as it is.
    twice = [student(0, 0.5), student(0, 0.5), student(0, 0.5, variant="slimsam"), student(1, 0.75)]
    assert only(table_rows(twice), "slimsam").seeds == (0, 1)


def test_seeds_of_two_machines_are_one_line_whose_times_are_of_one() -> None:
    rows = [student(0, 0.5, encoder_latency_ms=2.0), student(1, 0.75, encoder_latency_ms=4.0)]
    rows.append(student(2, 1.0, device="another CPU", encoder_latency_ms=100.0))
    line = only(table_rows(rows), "slimsam")
    assert (line.seeds, line.score, line.device) == ((0, 1, 2), 0.75, "a CPU and another CPU")
    assert line.encoder_latency_ms == 3.0


def test_a_teacher_that_scores_alike_on_two_machines_is_one_line() -> None:
    again = replace(TEACHER, device="another CPU")
    assert len(table_rows([TEACHER, again])) == 1
    assert len(table_rows([TEACHER, replace(again, miou=0.125)])) == 2


def test_choices_of_a_protocol_are_reported_where_they_differ() -> None:
    kinds = [
        row("teacher", None, protocol="tinysam@1", ap=0.25, miou=None, axes={"boxes": b, "score": "x"}) for b in "12"
    ]
    assert {line.choices for line in table_rows(kinds)} == {"boxes=1", "boxes=2"}
    assert {line.metric for line in table_rows(kinds)} == {"ap"}
    assert table_rows(kinds[:1])[0].choices is None


def test_one_name_for_two_data_sets_makes_no_mean_and_no_difference() -> None:
    """Two folders of COCO's layout with as many instances: a student is set beside the teacher of its own."""
    rows = [
        row(method, data="coco", axes={"data_sha256": content * 64}, **scores)
        for content, of_teacher, of_student in (("a", 0.75, 0.5), ("b", 0.25, 0.125))
        for method, scores in (
            ("teacher", {"miou": of_teacher}),
            ("slimsam", {"miou": of_student, "seed": 0 if content == "a" else 1, "run_id": f"slimsam-{content}"}),
        )
    ]
    lines = {(line.method, line.choices): line for line in table_rows(rows)}
    assert len(lines) == 4
    for content, score, difference in (("a", 0.5, -25.0), ("b", 0.125, -12.5)):
        line = lines["slimsam", f"data_sha256={content * 12}"]
        assert (line.score, line.to_teacher, len(line.seeds)) == (score, difference, 1)
    # Where all are of one, nothing is printed.
    assert {line.choices for line in table_rows(rows[:2])} == {None}


def test_runs_that_were_trained_on_other_images_are_no_seeds_of_one_thing() -> None:
    about = {"config": {"data": {"root": "coco"}}, "identity": 2, "training_pictures_sha256": "a" * 64}
    settings = {
        f"slimsam-s{seed}": settings_behind(about | {"training_images_sha256": content * 64})
        for seed, content in enumerate("ab")
    }
    rows = [student(seed, 0.5 + seed / 4, run_id=f"slimsam-s{seed}") for seed in range(2)]
    assert [line.seeds for line in table_rows(rows, settings)] == [(1,), (0,)]
    assert are_different(settings.values())
    # Earlier versions had another name for it; of the earliest the hash is one of names.
    assert ["images" in settings_behind(each) for each in (about, about | {"identity": None})] == [True, False]


def test_labels_say_what_differs() -> None:
    label = {
        "teacher sam_pocket": TEACHER,
        "slimsam 0.5": student(0, 0.5),
        "slimsam 0.5, taylor": student(0, 0.5, variant="taylor"),
        "filled box": row("filled_box", teacher=None),
        "mobilesam, tiny_vit_5m": row("mobilesam", student="sam_pocket-tiny_vit_5m"),
        "slimsam+ptq 0.77, W8A8": row(
            "slimsam+ptq", ratio=0.77, student="sam_pocket-slimsam-0.77-w8a8", weight_bits=8, activation_bits=8
        ),
        "ptq, ptq_mse, W4A4": row(
            "ptq", student="sam_pocket-w4a4", variant="ptq_mse", weight_bits=4, activation_bits=4
        ),
    }
    assert {model_label(vars(one)): one for one in label.values()} == label


def test_rows_come_from_runs_evaluations_and_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path)
    folders = {"results/slimsam/one.json": student(0, 0.5), "runs/two/result.json": student(1, 0.75)}
    later = student(1, 0.25, protocol="box_single@1", status="evaluated", images_seen=None)
    folders |= {"runs/evaluations/three/result.json": later}
    folders |= {"runs/four/result.json": row(miou=None, status="failed"), "results/published/no.json": TEACHER}
    for name, content in folders.items():
        write_result(tmp_path / name, [content], {})
    (tmp_path / "runs" / "five").mkdir()
    (tmp_path / "runs" / "five" / "result.json").write_text("{")
    (tmp_path / "results" / "everything").mkdir()
    (tmp_path / "results" / "everything" / "other.json").write_text('{"columns": "of its own"}')
    # What a fresh start has set aside.
    write_result(tmp_path / "runs" / ".six" / "result.json", [student(5, 0.625)], {})
    found = gather(tmp_path / "runs", published=False)
    assert list(zip(found.rows["seed"], found.rows["miou"], strict=True)) == [
        *((1, 0.25), (0, None), (1, 0.75), (None, 0.75), (0, 0.5)),
    ]
    images = {line.protocol: line.images_seen for line in as_lines(found.models) if line.method == "slimsam"}
    assert images == {"box_point@1": 100, "box_single@1": 100}, "as the run of the same name says"
    assert "left out" in capsys.readouterr().err
    assert len(gather(None, published=False).rows) == 2
    assert len(gather(tmp_path / "runs", results=False, published=False).rows) == 3


def test_runs_that_were_given_different_things_are_not_averaged(tmp_path: Path) -> None:
    usual = {
        "method": {"_target_": "a.B", "optimisation": {"rate": 0.1}, "init": "here"},
        "data": {"root": "x", "count": 8},
    }

    def lines(**other: Any) -> list[Line]:
        for seed, config in enumerate((usual, usual | other)):
            run = student(seed, 0.5 + seed / 4)
            write_result(tmp_path / str(run.run_id) / "result.json", [run], {"config": config, "teacher_sha256": "a"})
        return as_lines(gather(tmp_path, results=False, published=False).models)

    assert only(lines(), "slimsam").seeds == (0, 1)
    renamed = {"_target_": "a.B", "optimisation": {"lr": 0.1}, "init": "here"}
    assert only(lines(method=renamed), "slimsam").seeds == (0, 1), "a setting that had another name is the same one"
    # Another machine's paths, and a file of earlier code, which had fewer settings.
    assert (
        only(lines(data={"root": "y", "count": 8}, method={"_target_": "a.B", "init": "there"}), "slimsam").score
        == 0.625
    )
    for other in ({"method": {"optimisation": {"lr": 0.2}}}, {"data": {"count": 9}}):
        assert [(line.model, line.score) for line in lines(**other)] == [
            ("slimsam 0.5, slimsam-s1-00000000", 0.75),
            ("slimsam 0.5, slimsam-s0-00000000", 0.5),
        ]


def test_published_figures_are_the_shared_ones_with_a_protocol(shared: Path) -> None:
    with open(FIGURES, encoding="utf-8", newline="") as stream:
        ours = list(csv.reader(stream))
    with open(shared / "published.csv", encoding="utf-8", newline="") as stream:
        theirs = list(csv.reader(stream))
    assert ours[0] == [*theirs[0], "protocol"]
    assert [line[:-1] for line in ours] == theirs


def test_published_figures_stand_under_protocols_that_ask_alike() -> None:
    with open(FIGURES, encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    prompts = {"point": ("annotated_point",), "detector_box": ("detector_box",), "gt_box": ("box",)}
    for line in (line for line in lines if line["protocol"]):
        protocol = PROTOCOLS[line["protocol"]]
        assert protocol.prompt in prompts[line["prompt"]] and protocol.choice == line["mask_choice"]
        assert protocol.is_detected == (line["metric"] == "ap") and line["dataset"] in DATA
    reported = {(line["dataset"], line["source"].split(" ")[0], line["protocol"]) for line in lines}
    assert ("coco", "EdgeSAM", "") in reported and ("sa1b", "SlimSAM", "slimsam@1") in reported
    assert {line["protocol"] for line in lines if "2410.04960" in line["source"] or line["prompt"] == "supervised"} == {
        ""
    }
    assert len(published_models()) == sum(bool(line["protocol"]) for line in lines) < len(lines)


def test_published_figures_are_shares_and_counted_by_one_counter() -> None:
    published = [Line(**line) for line in published_models()]
    found = {(line.model, line.data, line.protocol): line for line in published}
    quantised = found["Q-TinySAM-W8A8", "coco", "tinysam@1"]
    assert (quantised.source, quantised.metric, quantised.paper) == (
        PUBLISHED,
        "ap",
        "TinySAM arXiv 2312.13789v3 Table 1",
    )
    assert (quantised.score, quantised.small) == pytest.approx((0.414, 0.256))
    assert (quantised.macs_full, quantised.macs_modules, quantised.macs_full_scaled_by_bits) == (
        None,
        None,
        20_300_000_000,
    )
    pruned = found["SlimSAM-77", "sa1b", "slimsam@1"]
    assert (pruned.macs_full, pruned.macs_modules, pruned.parameters) == (None, 23_000_000_000, 9_100_000)
    other = found["SlimSAM-77", "coco", "tinysam@1"]
    assert (other.macs_full, other.macs_modules, other.published_macs_counter) == (51_700_000_000, None, "full")
    assert found["MobileSAM", "coco", "nanosam@2"].published_macs_counter is None


PAPER = {"source": PUBLISHED, "data": "shapes", "protocol": "box_point@1", "model": "A|b_c & 5%", "metric": "miou"}
PAPER |= {"score": 0.5, "paper": "=a", "seeds": (), "run_ids": ()}
LINES = pd.DataFrame(
    [
        *map(vars, table_rows([student(0, 0.5, variant="a_b"), student(1, 0.75, variant="a_b"), TEACHER])),
        {**dict.fromkeys(MODEL_COLUMNS), **PAPER},
    ],
    dtype=object,
)


def test_csv_is_raw_marked_and_harmless() -> None:
    text = table_csv(LINES)
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    assert text.count("\r\n") == 4 and [line["kind"] for line in lines] == [MEASURED, MEASURED, PUBLISHED]
    assert (lines[1]["score_0_to_1"], lines[1]["difference_to_teacher_points"]) == ("0.625", "-12.5")
    assert (lines[0]["size_mb"], lines[1]["seeds"], lines[1]["parameters_count"]) == ("8.0", "0 1", "1000000")
    assert (lines[2]["model"], lines[2]["source"], lines[2]["macs_full_count"]) == ("A|b_c & 5%", "'=a", "")
    raw = csv_text(["a", "b"], [['"quoted", with comma', -1.5], ["-x", None], ["@SUM(A1)", 2], ["+1", "a\nb"]])
    assert raw == 'a,b\r\n"""quoted"", with comma",-1.5\r\n\'-x,\r\n\'@SUM(A1),2\r\n\'+1,"a\nb"\r\n'


def test_markdown_marks_and_escapes() -> None:
    text = table_markdown(LINES, "python -m experiments table")
    assert "never how good real SAM is" in text and "`python -m experiments table`" in text
    cells = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(cells) == 5 and cells[0].startswith("| kind | model |")
    assert cells[3].startswith("| measured | slimsam 0.5, a_b | 2 seeds | 10 | 100 | 0.6250 ± 0.1768 | ")
    assert cells[4].startswith("| published | A\\|b_c & 5% |")
    assert markdown_table(["a"], [["x|y\nz <b>"]]) == "| a |\n| --- |\n| x\\|y z &lt;b> |"


def test_latex_has_a_rule_between_and_escapes() -> None:
    text = table_latex(LINES, "python -m experiments table")
    body = text[text.index("\\toprule") :].splitlines()
    assert text.startswith("% Made by") and "\\begin{tabular}{ll" in text and body[-1] == "\\end{tabular}"
    assert [line for line in body if line.startswith("\\")] == [
        *("\\toprule", "\\midrule", "\\midrule", "\\bottomrule", "\\end{tabular}")
    ]
    assert body[-4].startswith("\\midrule") and body[-3].startswith("published & A\\textbar{}b\\_c \\& 5\\% &")
    columns = text[text.index("{tabular}{") + 10 :].partition("}")[0]
    table = [line for line in body if line.endswith("\\\\")]
    assert {line.replace("\\&", "").count("&") for line in table} == {len(columns) - 1} and len(table) == 4
    assert "0.6250 $\\pm$ 0.1768" in text
    assert latex_escaped("\\{}_%&#$~^") == (
        "\\textbackslash{}\\{\\}\\_\\%\\&\\#\\$\\textasciitilde{}\\textasciicircum{}"
    )


def test_a_terminal_of_eighty_characters_is_enough() -> None:
    stream = io.StringIO()
    print_tables(LINES, stream)
    text = stream.getvalue()
    assert text.index("measured: 10 instances, 2 images") < text.index("published, not measured here: =a")
    tables = [line for line in text.splitlines() if not line.startswith("±")]
    assert max(map(len, tables)) <= 80 and "-12.50" in text and "how good" in text


@pytest.fixture
def call(command: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """``table`` from an empty folder, with one committed row."""
    write_result(tmp_path / "house" / "results" / "slimsam" / "one.json", [TEACHER, student(0, 0.5)], {})
    monkeypatch.setattr(results, "ROOT", tmp_path / "house")
    return partial(command, "table")


def test_the_command_filters_and_writes(call: Call) -> None:
    status, out, err = call("data=shapes")
    assert status == 0 and not err and "slimsam 0.5" in out and "published" not in out
    status, out, err = call("format=json", "protocol=tinysam", "data=lvis", "runs=none")
    rows = json.loads(out)["rows"]
    assert status == 0 and {(r["kind"], r["data"], r["protocol"]) for r in rows} == {(PUBLISHED, "lvis", "tinysam@1")}
    _, everything, _ = call("format=csv")
    listed = list(csv.DictReader(io.StringIO(everything, newline="")))
    assert [line["kind"] for line in listed[:3]] == [MEASURED, MEASURED, PUBLISHED], "tables with measured rows first"
    for form in ("table", "csv", "markdown", "latex", "json"):
        status, out, err = call(f"format={form}", "data=shapes", f"out=new/{form}.txt")
        written = Path("new", f"{form}.txt").read_bytes().decode()
        assert status == 0 and not err and "slimsam 0.5" in written
        assert bool(out) is (form == "json") and (not out or out == written)
    assert (
        "table protocol=box_point data=shapes format=latex;"
        in call("data=shapes", "protocol=box_point", "format=latex")[1]
    )


def test_what_is_wrong_is_refused_in_one_line(call: Call) -> None:
    Path("file").write_text("")
    refused = {
        "data=shape": ["data=shape: no row has it", "did you mean shapes?"],
        "protocol=box_pointt": ["protocol=box_pointt", "box_point@1"],
        "runs=nowhere": ["runs=nowhere: no such folder", "runs=none"],
        "format=xml": ["format=xml", "csv, markdown, latex, json"],
        "results=perhaps": ["results=perhaps", "true or false"],
        "out=file/x.md": ["out=file/x.md", "cannot be written"],
        "colour=red": ["colour is no setting"],
        "shapes": ["'shapes' is no setting"],
    }
    for words, said in refused.items():
        status, out, err = call(*words.split(" "))
        assert status == 2 and not out and err.startswith("error: ") and err.count("\n") == 1, words
        assert all(part in err for part in said), err


def test_the_committed_page_is_made_from_the_committed_rows(tmp_path: Path) -> None:
    command = ["table", "runs=none", "format=markdown"]
    for name in ("one.md", "two.md"):
        assert main([*command, f"out={tmp_path / name}"]) == 0
    made = (tmp_path / "one.md").read_text(encoding="utf-8")
    assert made == (tmp_path / "two.md").read_text(encoding="utf-8")
    reported = f"make it anew: python -m experiments {' '.join(command)} out=docs/comparison.md"
    assert made == (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8"), reported
