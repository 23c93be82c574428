"""``evaluate`` as a user types it: any protocol, with a detector's boxes, by one process and by two."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from core import distributed
from core.errors import InputError
from core.result import ResultRow
from evaluation.protocols import PROTOCOLS
from evaluation.records import DETECTIONS, INSTANCES, read_instances, write_records
from experiments.cli.command_line import main
from experiments.result_file import NAME, read_rows
from experiments.runs.build import build_data
from experiments.runs.folder import LOCK, lock_run_dir
from tests import warm_processes
from tests.unit.truthful import drawn_labels, write_coco, write_detections

QUICK = ["evaluation.latency_runs=1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("drawn") / "coco", drawn_labels(6))


@pytest.fixture(scope="module")
def boxes(root: Path) -> Path:
    return write_detections(root.parent / "boxes.json", root)


def evaluated(out: Path, *arguments: str) -> list[ResultRow]:
    """The rows of a command that must succeed."""
    assert main(["evaluate", "checkpoint=sam_pocket", f"out={out}", *QUICK, *arguments]) == 0
    return read_rows(out / "result.json")


@pytest.mark.slow
def test_a_detectors_boxes_by_one_process_and_by_two(root: Path, boxes: Path, tmp_path: Path) -> None:
    names = "box_single,point_oracle,clicks_2,detector_box_single,detector_box_best_of_3"
    requested = ["evaluation=coco", f"evaluation.protocols=[{names}]", f"detections={boxes}", f"data.root={root}"]
    one = evaluated(tmp_path / "one", *requested)
    words = ("evaluate", "checkpoint=sam_pocket", f"out={tmp_path / 'two'}", *QUICK, *requested)
    first, second = warm_processes.ranks(tmp_path / "place", words)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    two = read_rows(tmp_path / "two" / "result.json")
    for name in (INSTANCES, DETECTIONS):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert [row.miou for row in one[:3]] == [row.miou for row in two[:3]]
    for row, other in zip(one[3:], two[3:], strict=True):
        figures = [name for name in row.to_dict() if name.startswith(("ap", "average_"))]
        assert row.ap is not None and row.average_recall is not None and row.miou is None
        assert {name: getattr(row, name) for name in figures} == {name: getattr(other, name) for name in figures}
        assert (
            (row.detections, row.images) == (other.detections, other.images) == (len(json.loads(boxes.read_text())), 6)
        )
    assert not list((tmp_path / "two").glob("part-*"))


@pytest.mark.slow
def test_backends_agree_and_axes_are_reported(
    root: Path, boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requested = ["evaluation=tinysam", f"detections={boxes}", f"data.root={root}"]
    rows = [evaluated(tmp_path / b, *requested, f"evaluation.backend={b}")[0] for b in ("faster", "official")]
    assert rows[0].ap == rows[1].ap and rows[0].average_recall == rows[1].average_recall
    shown = capsys.readouterr().out
    for axis, value in (rows[0].axes or {}).items():
        assert axis == "name" or f"{axis}={value}" in shown.replace("\n", " ")


def test_the_protocol_of_runs_is_kept_image_by_image(root: Path, tmp_path: Path) -> None:
    model, *fillings = evaluated(tmp_path / "out", "evaluation=coco", f"data.root={root}")
    assert [row.method for row in (model, *fillings)] == ["teacher", "filled_box", "filled_ellipse"]
    kept = json.loads((tmp_path / "out" / "result.json").read_text())["by_image"]
    assert sum(kept["instances"]) == model.instances and len(kept["image"]) == model.images
    for name in ("miou", "miou_point"):
        mean = sum(n * iou for n, iou in zip(kept["instances"], kept[name], strict=True)) / sum(kept["instances"])
        assert mean == pytest.approx(getattr(model, name), abs=1e-5)


def test_several_protocols_in_one_pass_with_records(root: Path, tmp_path: Path) -> None:
    names = ["box_single", "efficientvit_sam_box", "box_best_of_3", "clicks_2"]
    alike = [n for n in names if not PROTOCOLS[f"{n}@1"].crowd]
    rows = evaluated(
        tmp_path / "out", "evaluation=coco", f"data.root={root}", f"evaluation.protocols=[{','.join(alike)}]"
    )
    records = read_instances(tmp_path / "out")
    assert [row.protocol for row in rows] == list(records) == [f"{name}@1" for name in alike]
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(f"mIoU, {name}@1" in page for name in alike) and "instances.jsonl" in page
    for row in rows:
        of_row = records[str(row.protocol)]
        assert row.instances == len(of_row) and row.miou == pytest.approx(sum(r.iou for r in of_row) / len(of_row))
        assert row.miou_low is not None and row.miou_high is not None and row.miou is not None
        assert row.miou_low <= row.miou <= row.miou_high
        assert row.miou_categories is not None and row.miou_images is not None
        assert {record.category_id for record in of_row} == {1, 2}


def test_average_precision_names_the_evaluators_own_rules(
    root: Path, boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requested = ["evaluation.protocols=[detector_box_single]", f"detections={boxes}", "evaluation.images=2"]
    (row,) = evaluated(tmp_path / "out", "evaluation=coco", f"data.root={root}", *requested)
    own = dict.fromkeys(("crowd", "least_area", "bounds", "average"), "as coco")
    assert row.axes is not None and row.axes.items() >= own.items()
    assert "bounds=as coco, average=as coco" in capsys.readouterr().out


def test_rows_say_which_annotations_counted(root: Path, tmp_path: Path) -> None:
    """Other rules than the protocol's are axes, by which tables keep rows apart."""
    requested = ["evaluation=coco", f"data.root={root}", "evaluation.images=2"]
    rules = ["evaluation.data.crowd=true", "evaluation.data.least_area=30"]
    usual, *_ = evaluated(tmp_path / "usual", *requested)
    assert usual.axes is not None and not usual.axes.keys() & {"crowd", "least_area"}
    own = evaluated(tmp_path / "own", *requested, *rules)
    assert all(row.axes is not None and row.axes["crowd"] == "true" and row.axes["least_area"] == "30.0" for row in own)
    (named,) = evaluated(tmp_path / "named", *requested, *rules, "evaluation.protocols=[box_single]")
    assert named.axes is not None and (named.axes["crowd"], named.axes["least_area"]) == ("true", "30.0")
    (crowds,) = evaluated(tmp_path / "crowds", *requested, "evaluation.protocols=[efficientvit_sam_box]")
    assert crowds.axes is not None and (crowds.axes["crowd"], crowds.axes["least_area"]) == ("true", "1.0")


@pytest.mark.slow
def test_jitter_is_seeded_and_named(root: Path, tmp_path: Path) -> None:
    requested = ["evaluation=coco", f"data.root={root}", "evaluation.protocols=[box_single]", "evaluation.jitter=0.2"]
    requested += ["evaluation.images=2"]
    one, again, other = (
        evaluated(tmp_path / str(i), *requested, f"evaluation.seed={seed}")[0] for i, seed in enumerate((0, 0, 1))
    )
    assert one.protocol == "box_single@1+jitter_0.2" and one.miou == again.miou != other.miou


def test_the_reference_protocol_compares_with_a_model(root: Path, tmp_path: Path) -> None:
    requested = ["evaluation=coco", f"data.root={root}", "evaluation.protocols=[mobilesam]"]
    (row,) = evaluated(tmp_path / "out", *requested, "evaluation.reference=sam_pocket")
    assert row.miou == 1.0 and (row.axes or {})["reference"] == "sam_pocket"


@pytest.mark.slow
def test_lvis_over_two_folders(root: Path, boxes: Path, tmp_path: Path) -> None:
    lvis = tmp_path / "lvis"
    (lvis / "annotations").mkdir(parents=True)
    content = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    for folder in ("train2017", "val2017"):
        (lvis / folder).mkdir()
    for image in content["images"]:
        folder = "train2017" if image["id"] % 2 else "val2017"
        name = image.pop("file_name")
        (lvis / folder / name).write_bytes((root / "val2017" / name).read_bytes())
        image |= {"coco_url": f"http://images.cocodataset.org/{folder}/{name}"}
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    for category, frequency in zip(content["categories"], "rf", strict=True):
        category["frequency"] = frequency
    (lvis / "annotations" / "lvis_v1_val.json").write_text(json.dumps(content))
    rows = evaluated(tmp_path / "out", "evaluation=lvis_detector_box", f"detections={boxes}", f"data.root={lvis}")
    assert all(row.ap is not None and row.ap_rare is not None and row.ap_common is None for row in rows)
    (row,) = evaluated(tmp_path / "gt", "evaluation=lvis_box", f"data.root={lvis}", "evaluation.protocols=[box_single]")
    (same,) = evaluated(
        tmp_path / "coco", "evaluation=coco_box", f"data.root={root}", "evaluation.protocols=[box_single]"
    )
    assert (row.miou, row.instances) == (same.miou, same.instances)


def test_rows_never_stand_beside_the_records_of_another_evaluation(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(folder: Path, records: Any) -> None:
        write_records(folder, records)
        raise KeyboardInterrupt

    requested = ["evaluation=coco", f"data.root={root}", "evaluation.images=3"]
    evaluated(tmp_path / "out", *requested, "evaluation.protocols=[box_single]")
    other = [*requested, "evaluation.protocols=[point_single]"]
    with monkeypatch.context() as patch:
        patch.setattr("experiments.evaluate.write_records", stopped)
        assert main(["evaluate", "checkpoint=sam_pocket", f"out={tmp_path / 'out'}", *QUICK, *other]) == 130
    assert list(read_instances(tmp_path / "out")) == ["point_single@1"] and not (tmp_path / "out" / NAME).exists()
    assert [row.protocol for row in evaluated(tmp_path / "out", *other)] == ["point_single@1"]


def test_one_evaluation_at_a_time_in_a_folder(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requested = ["evaluation=coco", f"data.root={root}", "evaluation.images=1", f"out={tmp_path / 'out'}"]
    with lock_run_dir(tmp_path / "out", fresh=False):
        assert main(["evaluate", "checkpoint=sam_pocket", *QUICK, *requested]) == 2
    assert "out: another process works on this run; wait for it" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]


@pytest.mark.slow
def test_evaluations_at_once_leave_what_one_leaves(root: Path, tmp_path: Path) -> None:
    requested = ("evaluate", "checkpoint=sam_pocket", *QUICK, "evaluation=coco", f"data.root={root}", "format=json")
    alone = warm_processes.run(tmp_path / "alone", [*requested, "out=out"])
    assert alone.returncode == 0, alone.stderr
    begun = [warm_processes.begin(tmp_path / "both", [*requested, "out=out"]) for _ in range(2)]
    both = [command.ended() for command in begun]
    assert {done.returncode for done in both} in ({0}, {0, 2}), [done.stderr for done in both]
    for done in both:
        assert "Traceback" not in done.stderr
        assert done.returncode == 0 or "another process works on this run" in done.stderr
    names = [sorted(path.name for path in (tmp_path / place / "out").iterdir()) for place in ("alone", "both")]
    assert names[0] == names[1] and not [name for name in names[0] if name.endswith(".part")]
    records = [(tmp_path / place / "out" / INSTANCES).read_bytes() for place in ("alone", "both")]
    assert records[0] == records[1]
    figures = [[row.miou for row in read_rows(tmp_path / place / "out" / NAME)] for place in ("alone", "both")]
    assert figures[0] == figures[1]


def test_processes_meet_before_there_is_data_and_the_first_one_has_the_ground_truth(
    root: Path, boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps: list[str] = []

    def listed(*given: Any) -> Any:
        steps.append("data")
        return build_data(*given)

    def on_main(make: Any) -> None:
        make()
        raise InputError("enough is known")

    monkeypatch.setattr(distributed, "init", lambda device: steps.append(device.type))
    monkeypatch.setattr(distributed, "on_main", on_main)
    monkeypatch.setattr("experiments.evaluate.build_data", listed)
    requested = ["evaluation=coco_detector_box", f"detections={boxes}", f"data.root={root}", f"out={tmp_path / 'out'}"]
    assert main(["evaluate", "checkpoint=sam_pocket", "engine.device=cpu", *requested]) == 2
    assert steps == ["cpu", "data"] and "enough is known" in capsys.readouterr().err


REFUSED: dict[str, list[str]] = {
    r"detections is missing: detector_box_single@1 needs .* give detections=FILE": ["evaluation=coco_detector_box"],
    r"detections=.*boxes\.json: box_single@1, .* take none": ["evaluation=coco_box", "detections=BOXES"],
    r"protocol box_of_2 is unknown; choose of box_single@1": ["evaluation.protocols=[box_of_2]", "evaluation=coco"],
    r"box_single@1 occurs twice": ["evaluation.protocols=[box_single,box_single@1]", "evaluation=coco"],
    r"count other instances than each other": ["evaluation.protocols=[box_single,nanosam]", "evaluation=coco"],
    r"nothing\.json: no such": ["evaluation=coco_detector_box", "detections=nothing.json"],
    r"evaluation\.reference=NAME": ["evaluation=coco", "evaluation.protocols=[mobilesam]"],
    r"name no points": ["evaluation=coco", "evaluation.protocols=[slimsam]"],
    r"no protocol here compares with a model's masks; leave it": ["evaluation=coco", "evaluation.reference=sam_pocket"],
    r"no protocol here takes ground-truth boxes": ["evaluation=coco_point", "evaluation.jitter=0.1"],
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_done_is_reported_in_one_line(
    message: str, root: Path, boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [text.replace("BOXES", str(boxes)) for text in REFUSED[message]]
    given: list[Any] = ["evaluate", "checkpoint=sam_pocket", f"data.root={root}", f"out={tmp_path / 'out'}", *arguments]
    assert main(given) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and re.search(message, lines[0])
