"""The command ``everything``: files of an image and of a folder, going on after a stop, scores, and refusals."""

import dataclasses
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as mask_api

from core.storage import NotWritten
from data.shapes import Shapes
from evaluation.everything import EverythingGenerator, EverythingSettings
from experiments.cli.command_line import main
from experiments.config.files import CONF
from experiments.everything import figure as everything_figure
from tests.unit.truthful import drawn_labels, write_coco

Call = Callable[..., tuple[int, str, str]]
QUICK = ("checkpoint=sam_pocket", "generator.points_per_side=3", "generator.pred_iou_thresh=0.3",
         "generator.stability_score_thresh=0.3")  # fmt: skip
KEYS = ["segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"]


@pytest.fixture
def call(command: Call) -> Call:
    """``everything`` from an empty folder."""
    return partial(command, "everything")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images of one stem, one broken image, one file that is none, and one folder."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    data = Shapes("validation", 2)
    for index, name in enumerate(("a.png", "a.jpg")):
        Image.fromarray(data.image(index)).save(folder / name)
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:3000])
    (folder / "notes.txt").touch()
    return folder


def test_an_image(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "scene.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(Shapes("validation", 1).image(0)).resize((90, 60)).save(file, exif=exif)
    status, out, err = call(*QUICK, f"image={file}")
    assert status == 0 and not err and out.count("\n") == 1 and "everything/scene.json, everything/scene.png" in out
    content = json.loads(Path("everything/scene.json").read_text())
    assert content["model"] == "sam_pocket" and content["prompts"] == 9 and content["settings"]["points_per_side"] == 3
    # Turned as viewers show it.
    assert content["image"] | {"sha256": ""} == {"file": "scene.png", "height": 90, "width": 60, "sha256": ""}
    assert content["annotations"]
    for record in content["annotations"]:
        assert list(record) == KEYS
        mask = mask_api.decode(record["segmentation"])
        assert mask.shape == (90, 60) and mask.sum() == record["area"] > 0
        rows, columns = np.nonzero(mask)
        x, y = int(columns.min()), int(rows.min())
        assert record["bbox"] == [x, y, int(columns.max()) - x, int(rows.max()) - y]
    with Image.open("everything/scene.png") as drawing:
        assert drawing.height == 512 + 30
    before = {path: path.stat().st_mtime_ns for path in Path("everything").iterdir()}
    status, out, _ = call(*QUICK, f"image={file}")
    assert status == 0 and "kept from an earlier call" in out
    assert {path: path.stat().st_mtime_ns for path in Path("everything").iterdir()} == before
    # The drawing alone is made again from the masks, and other settings make both again.
    Path("everything/scene.png").unlink()
    assert "kept" in call(*QUICK, f"image={file}")[1] and Path("everything/scene.png").is_file()
    assert "kept" not in call(*QUICK, f"image={file}", "generator=hierarchical")[1]
    assert json.loads(Path("everything/scene.json").read_text())["settings"]["strategy"] == "hierarchical"


@pytest.mark.parametrize("size_hw", [(1, 1), (40, 50)])
def test_a_blank_image(call: Call, size_hw: tuple[int, int], tmp_path: Path) -> None:
    Image.fromarray(np.full((*size_hw, 3), 127, np.uint8)).save(tmp_path / "blank.png")
    words = ("generator.pred_iou_thresh=2", "draw=false") if size_hw[0] > 1 else ()
    status, out, _ = call(*QUICK, *words, f"image={tmp_path / 'blank.png'}", "format=json")
    assert status == 0
    (row,) = json.loads(out)["rows"]
    content = json.loads(Path(row["annotations"]).read_text())
    assert len(content["annotations"]) == row["masks"] and (row["masks"] == 0 or not words)
    assert (row["drawing"] is None) == bool(words)


def test_a_folder_goes_on(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, images = EverythingGenerator.run, []

    def stopping(generator: EverythingGenerator, image: np.ndarray) -> object:
        images.append(image)
        if len(images) == 2:
            raise KeyboardInterrupt
        return run(generator, image)

    monkeypatch.setattr(EverythingGenerator, "run", stopping)
    status, _, err = call(*QUICK, f"image={folder}", "out=made")
    assert status == 130 and "goes on" in err
    assert sorted(path.name for path in Path("made").iterdir()) == ["a.jpg.json", "a.jpg.png"]
    status, out, err = call(*QUICK, f"image={folder}", "out=made", "format=json")
    rows = json.loads(out)["rows"]
    assert status == 0 and [row["status"] for row in rows] == ["kept", "segmented", "unreadable"]
    assert "b.png: truncated or damaged" in err and "b.png" in rows[2]["reason"] and len(images) == 3
    assert sorted(path.name for path in Path("made").glob("*.json")) == ["a.jpg.json", "a.png.json"]
    status, out, _ = call(*QUICK, f"image={folder}", "out=made")
    assert status == 0 and len(images) == 3
    assert out.splitlines()[-1] == "3 images: 2 kept, 1 unreadable; 2 other entries of the folder left alone"
    status, out, _ = call(*QUICK, f"image={folder}", "out=made", "force=true", "draw=false")
    assert status == 0 and len(images) == 5 and "2 segmented" in out


@pytest.mark.slow
def test_an_image_replaced_under_its_name_is_segmented_and_drawn_anew(call: Call, folder: Path) -> None:
    def status(*words: str) -> str:
        found, out, _ = call(*QUICK, f"image={folder / 'a.png'}", "format=json", *words)
        assert found == 0
        return str(json.loads(out)["rows"][0]["status"])

    path = folder / "a.png"
    assert status("out=made") == "segmented"
    before = path.stat()
    Image.fromarray(Shapes("validation", 9).image(8)).save(path)
    path.write_bytes(path.read_bytes().ljust(before.st_size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    # Without a drawing, the one of the earlier image stays for now.
    assert status("out=made", "draw=false") == "segmented"
    assert status("out=made") == "kept"
    assert status("out=alone") == "segmented"
    for file in ("a.json", "a.png"):
        assert Path("made", file).read_bytes() == Path("alone", file).read_bytes()
    drawn = Path("made/a.png").stat().st_mtime_ns
    assert status("out=made") == "kept" and Path("made/a.png").stat().st_mtime_ns == drawn


@pytest.mark.slow
def test_scores_are_of_what_is_scored(call: Call, tmp_path: Path) -> None:
    def scored(root: Path) -> str:
        found, out, _ = call(*QUICK, "evaluation=coco", f"data.root={root}", "out=scores", "format=json")
        assert found == 0
        return str(json.loads(out)["rows"][0]["run_id"])

    root = write_coco(tmp_path / "coco", drawn_labels(2))
    before = scored(root)
    assert scored(root.rename(tmp_path / "moved")) == before and len(list(Path("scores").iterdir())) == 1
    annotations = tmp_path / "moved/annotations/instances_val2017.json"
    content = json.loads(annotations.read_text())
    content["annotations"] = content["annotations"][:-1]
    annotations.write_text(json.dumps(content))
    assert scored(tmp_path / "moved") != before
    instances = {json.loads(path.read_text())["rows"][0]["instances"] for path in Path("scores").iterdir()}
    assert instances == {7, 8}


def test_scores(call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    words = (*QUICK, "evaluation=shapes", "evaluation.images=2", "out=scores")
    status, out, _ = call(*words, "format=json")
    (row,) = json.loads(out)["rows"]
    assert status == 0 and row["protocol"] == "everything@1" and row["prompts"] == 9 and row["encodings"] == 1
    assert 0 < row["average_recall_100"] <= row["mean_best_iou"] + 0.5 and row["images"] == 2 and row["instances"] > 2
    assert row["mean_best_iou_low"] < row["mean_best_iou"] < row["mean_best_iou_high"] and row["seconds"] > 0
    assert row["peak_memory_bytes"] > 11e6 and row["settings"]["pred_iou_thresh"] == 0.3
    (file,) = Path("scores").iterdir()
    assert file.stem == row["run_id"] and file.stem.startswith("sam_pocket-dense-3-")
    assert json.loads(file.read_text())["rows"] == [row]
    # The sweep's option stands before the word; what is there is read, and one table has all strategies.
    capfd.readouterr()
    assert main(["-m", "everything", *words, "generator=dense,hierarchical"]) == 0
    out, err = capfd.readouterr()
    assert "there already" in err and len(list(Path("scores").iterdir())) == 2
    last = out.rpartition("| strategy |")[2]
    assert "| dense 3 |" in last and "| hierarchical 1/3 8.5 |" in last


@pytest.mark.slow
def test_scores_that_were_stopped_go_on(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_coco(tmp_path / "coco", drawn_labels(4))
    run, images = EverythingGenerator.run, []

    def counting(generator: EverythingGenerator, image: np.ndarray) -> object:
        images.append(image)
        return run(generator, image)

    monkeypatch.setattr(EverythingGenerator, "run", counting)
    words = (*QUICK, "evaluation=coco", f"data.root={root}", "format=json")
    (expected,) = json.loads(call(*words, "out=undisturbed")[1])["rows"]
    # One more is run first and not timed.
    assert len(images) == 5
    last = root / "val2017" / f"{3:012d}.png"
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    for more in (4, 0):
        images.clear()
        status, _, err = call(*words, "out=scores")
        assert status == 2 and f"{last}: truncated or damaged image" in err and len(images) == more
    monkeypatch.setattr(
        "experiments.everything.score.write_row", lambda *_: (_ for _ in ()).throw(NotWritten(last, 28))
    )
    last.write_bytes(whole)
    images.clear()
    status, _, err = call(*words, "out=scores")
    assert status == 2 and "No space left" in err and len(images) == 2
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.setattr(EverythingGenerator, "run", lambda *_: 1 / 0)
    (row,) = json.loads(call(*words, "out=scores")[1])["rows"]
    (file,) = Path("scores").iterdir()
    assert file.stem == row["run_id"]
    timed = ("seconds", "processor_seconds", "peak_memory_bytes")
    assert {k: v for k, v in row.items() if k not in timed} == {k: v for k, v in expected.items() if k not in timed}


def test_what_is_left_out_is_counted_once_also_by_a_scoring_that_goes_on(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_coco(tmp_path / "coco", drawn_labels(4))
    source = root / "annotations" / "instances_val2017.json"
    content = json.loads(source.read_text())
    # Counted when the file is read, when the first image is, and when the second one is; of each image there are four.
    more = [(content["annotations"][place], number) for place, number in ((0, 900), (0, 901), (4, 902))]
    content["annotations"].append({**more[0][0], "id": more[0][1], "iscrowd": 1})
    for raw, number in more[1:]:
        height, width = raw["segmentation"]["size"]
        empty = {"size": [height, width], "counts": [height * width]}
        content["annotations"].append({**raw, "id": number, "segmentation": empty})
    source.write_text(json.dumps(content))
    images = sorted((root / "val2017").iterdir())
    whole = images[2].read_bytes()
    images[2].write_bytes(whole[: len(whole) // 2])
    words = (*QUICK, "evaluation=coco", f"data.root={root}", "evaluation.data.missing=skip", "out=scores")
    run, stopped = EverythingGenerator.run, []

    def stopping(generator: EverythingGenerator, image: np.ndarray) -> object:
        stopped.append(image)
        # Once untimed, then one image; the second one is read when the command is stopped.
        if len(stopped) == 3:
            raise KeyboardInterrupt
        return run(generator, image)

    monkeypatch.setattr(EverythingGenerator, "run", stopping)
    assert call(*words)[0] == 130
    status, out, _ = call(*words)
    assert status == 0
    (file,) = Path("scores").glob("*.json")
    (row,) = json.loads(file.read_text())["rows"]
    counts = {"crowd": 1, "empty_mask": 2, "unreadable_image": 4, "image_left_out": 1}
    assert row["skipped"] == counts and (row["images"], row["instances"]) == (3, 12)
    line = "left out or changed by rule: "
    assert line in out and all(f"{name} {n}" in out.partition(line)[2] for name, n in counts.items())


def test_scores_of_nothing_are_refused_before_the_first_image(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_coco(tmp_path / "coco", drawn_labels(3))
    source = root / "annotations" / "instances_val2017.json"
    content = json.loads(source.read_text())
    content["annotations"] = [raw for raw in content["annotations"] if raw["image_id"] == 2]
    source.write_text(json.dumps(content))
    monkeypatch.setattr(EverythingGenerator, "run", lambda *_: 1 / 0)
    status, _, err = call(*QUICK, "evaluation=coco", f"data.root={root}", "evaluation.images=2", "out=scores")
    assert status == 2 and "coco: none of the 2 requested images has an instance; give a larger" in err
    assert not Path("scores").exists()


def test_the_figure(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(everything_figure, "WIDTH", 100)
    out = tmp_path / "figure.png"
    words = ["--images", str(folder / "a.png"), "--checkpoints", "sam_pocket", "sam_pocket", "--out", str(out)]
    everything_figure.main([*words, "generator.points_per_side=2"])
    with Image.open(out) as image:
        assert image.width == 212
    with pytest.raises(SystemExit, match=r"error: generator.points is no setting|error: .*points"):
        everything_figure.main([*words, "generator.points=2"])


GIVEN = "checkpoint=sam_pocket image=a.png"
REFUSED = [
    ("checkpoint=sam_pocket", ["neither images nor a data set", "image=FILE", "evaluation=shapes"]),
    (f"{GIVEN} evaluation=shapes", ["image=", "leave out image or evaluation"]),
    ("image=a.png", ["checkpoint is missing", "sam_pocket"]),
    ("checkpoint=sam_pocket image=b.png", ["b.png: truncated or damaged"]),
    ("checkpoint=sam_pocket image=nowhere.png", ["image=", "nowhere.png: no such file or folder"]),
    ("checkpoint=sam_pocket image=below", ["no image among its 0 entries"]),
    (f"{GIVEN} out=notes.txt", ["out=", "notes.txt", "cannot be written"]),
    (f"{GIVEN} generator=sparse", ["generator=sparse is unknown", "dense"]),
    (f"{GIVEN} generator.points_per_side=0", ["generator.points_per_side is 0", "at least 1"]),
    (f"{GIVEN} generator.box_nms_thresh=2", ["generator.box_nms_thresh is 2", "0 to 1"]),
    (f"{GIVEN} generator.points_per_side=many", ["generator.points_per_side=many", "a whole number"]),
    (f"{GIVEN} generator.strategy=all", ["generator.strategy is 'all'", "hierarchical"]),
    (f"{GIVEN} generator.points=3", ["generator.points is no setting"]),
    (f"{GIVEN} imges=3", ["imges is no setting", "image"]),
    (f"{GIVEN} experiment=slimsam_table2", ["is not for the command everything", "experiments experiment=slimsam"]),
    ("checkpoint=sam_pocket evaluation=coco", ["evaluation.data.root is missing"]),
    ("checkpoint=sam_pocket evaluation=shapes evaluation.images=0", ["evaluation.images=0", "at least 1"]),
    ("checkpoint=sam_pocket evaluation=shapes evaluation.protocol=box@9", ["protocol=box@9", "everything@1"]),
    ("checkpoint=sam_pocket evaluation=shapes evaluation.precision=int8", ["evaluation.precision=int8"]),
]


def test_what_is_wrong_is_refused_in_one_line(call: Call, folder: Path) -> None:
    wrong = []
    for command, said in REFUSED:
        for name in ("a.png", "b.png", "below", "notes.txt"):
            command = command.replace(f"={name}", f"={folder / name}")
        status, out, err = call(*command.split(" "))
        ok = status == 2 and not out and err.count("\n") == 1 and err.startswith("error: ")
        if not ok or not all(part in err for part in said):
            wrong.append(f"{command}: status {status}, said {err!r} and {out!r}")
        assert not list(Path.cwd().iterdir()), f"{command}: left files"
    assert not wrong, "\n".join(wrong)


def test_a_preset_of_this_command_is_no_run(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment=everything_strategies"]) == 2
    assert "give python -m experiments everything experiment=everything_strategies" in capfd.readouterr().err


def test_a_folder_without_a_readable_image(call: Call, folder: Path) -> None:
    for name in ("a.png", "a.jpg"):
        (folder / name).unlink()
    status, _, err = call(*QUICK, f"image={folder}")
    assert status == 2 and "none of its 1 images can be read" in err and "left out" in err


def test_fields_of_the_group_are_those_of_the_generator() -> None:
    shown = yaml.safe_load((CONF / "generator" / "dense.yaml").read_text())
    del shown["defaults"]
    assert shown == {k: v for k, v in dataclasses.asdict(EverythingSettings()).items() if k != "output"}
