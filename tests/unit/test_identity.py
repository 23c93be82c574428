"""What names a run is content: images, annotations where they are read, and weights, wherever they lie."""

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from PIL import Image

from compressors.ptq_settings import PtqSettings
from core.checkpoint import file_sha256
from core.errors import InputError
from core.result import ResultRow
from data.coco import Coco
from data.content import ImageContent
from data.sa1b import Sa1b
from experiments.config.compose import settings_of
from experiments.config.schema import RunConfig
from experiments.config.targets import register
from experiments.runs.data_content import FOLDER, contents_of_run, data_content
from experiments.runs.identity import _identity, file_identity, model_sha256, run_group, run_id
from experiments.runs.run import run_chain
from students.quantized.scheme import SINCE
from teachers.catalog import MODELS
from tests.unit.tiny import tiny_sam
from tests.unit.truthful import drawn_labels, write_coco

SCORED = 3
"""Images of the six for validation that a run scores."""
Identify = Callable[..., str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO's layout with six images for validation and four for training, and files in the place of weights."""
    folder = tmp_path_factory.mktemp("made")
    write_coco(folder / "coco", drawn_labels(6))
    other = write_coco(folder / "training", drawn_labels(4, seed=1))
    os.rename(other / "val2017", folder / "coco/train2017")
    os.rename(other / "annotations/instances_val2017.json", folder / "coco/annotations/instances_train2017.json")
    shutil.rmtree(other)
    for name in ("teacher.pth", "student.pth"):
        (folder / name).write_text(name)
    (folder / "hf").mkdir()
    (folder / "hf/config.json").write_text("{}")
    (folder / "hf/pytorch_model.bin").write_text("weights")
    return folder


@cache
def composed(*words: str) -> DictConfig:
    """The settings of a run."""
    register()
    data = [] if "data=shapes" in words else ["data=coco", "data.root=coco"]
    fixed = [f"evaluation.images={SCORED}", "teacher.checkpoint=teacher.pth", *data]
    with initialize_config_module("conf", version_base="1.3"):
        return compose("config", [*fixed, *words])


@pytest.fixture
def identify(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Identify:
    """The name of a run of some method in a copy of the folder, after whatever was done to it."""
    shutil.copytree(made, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    # The files of weights are no weights: only their content counts here.
    monkeypatch.setattr("experiments.runs.identity.read_model_metadata", lambda path: {})

    def identified(*words: str) -> str:
        cfg = composed(*words)
        return run_id(settings_of(cfg), torch.device("cpu"))

    return identified


def repaint(path: str) -> None:
    """Another image of the same size in pixels."""
    with Image.open(path) as image:
        Image.new("RGB", image.size, (200, 30, 90)).save(path)


def append(path: str) -> None:
    """More content; JSON stays what it is."""
    Path(path).write_text(f"{Path(path).read_text()}\n")


SCRATCH, TINYSAM = ("method=scratch", "ratio=0.5"), ("method=tinysam", "student.weights=student.pth")
ACROSS = ("method=mobilesam", "method.decoder_of=student.pth")
PTQ, OF_FOLDER = ("method=ptq", "method.init=student.pth"), ("method=ptq", "method.init=hf")
IMAGE = "coco/{}2017/00000000000{}.png"
ANNOTATIONS = "coco/annotations/instances_{}2017.json"


@pytest.mark.parametrize(
    ("method", "change", "path", "is_another"),
    [
        (SCRATCH, repaint, IMAGE.format("train", 3), True),
        (SCRATCH, repaint, IMAGE.format("val", SCORED - 1), True),
        (SCRATCH, repaint, IMAGE.format("val", SCORED), False),
        (SCRATCH, append, ANNOTATIONS.format("val"), True),
        (SCRATCH, append, ANNOTATIONS.format("train"), False),
        (SCRATCH, append, "teacher.pth", True),
        (SCRATCH, os.utime, IMAGE.format("train", 3), False),
        (SCRATCH, lambda path: os.rename(path, "elsewhere"), "coco", False),
        (SCRATCH, lambda path: os.rename(path, "other.pth"), "teacher.pth", False),
        (TINYSAM, append, ANNOTATIONS.format("train"), True),
        (TINYSAM, append, "student.pth", True),
        (ACROSS, append, "student.pth", True),
        (PTQ, append, "student.pth", True),
        (OF_FOLDER, append, "hf/pytorch_model.bin", True),
        (OF_FOLDER, append, "hf/config.json", True),
        (OF_FOLDER, lambda path: os.rename(path, "elsewhere"), "hf", False),
    ],
)
def test_a_run_is_another_one_where_what_it_uses_is(
    method: tuple[str, ...], change: Callable[[str], None], path: str, is_another: bool, identify: Identify
) -> None:
    before = identify(*method)
    change(path)
    moved = {
        "coco": "data.root=elsewhere",
        "teacher.pth": "teacher.checkpoint=other.pth",
        "hf": "method.init=elsewhere",
    }
    after = identify(*method, *([] if Path(path).exists() else [moved[path]]))
    assert (before != after) == is_another
    assert before.rpartition("-")[0] == after.rpartition("-")[0]


def test_settings_that_came_later_rename_no_run_without_them(identify: Identify) -> None:
    method = settings_of(composed("method=mobilesam")).method
    assert not {"decoder_of", "high_res"} & set(_identity(method)) and "padding" in _identity(method)
    weighed = settings_of(composed("method=mobilesam", "method.high_res=0.5", "method.decoder_of=sam_pocket")).method
    packaged = MODELS["sam_pocket"].packaged
    assert packaged is not None
    assert _identity(weighed) == {**_identity(method), "high_res": 0.5, "decoder_of": file_sha256(packaged)}


def test_what_an_image_is_replaced_by_counts_even_with_its_size_and_time(identify: Identify) -> None:
    before, path = identify(*SCRATCH), Path(IMAGE.format("train", 0))
    status, content = path.stat(), path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert identify(*SCRATCH) != before
    path.write_bytes(content)
    assert identify(*SCRATCH) == before


def test_hashes_lie_beside_the_runs_and_are_used(identify: Identify, monkeypatch: pytest.MonkeyPatch) -> None:
    before = identify(*SCRATCH)
    assert len(list(Path("runs", FOLDER).iterdir())) == 3
    monkeypatch.setattr("data.content._sha256", lambda path: pytest.fail(f"{path} was read"))
    assert identify(*SCRATCH) == before


def test_made_images_are_their_parameters(identify: Identify) -> None:
    plain = ("data=shapes", *SCRATCH)
    names = {
        identify(*plain, *more) for more in ((), ("data.seed=1",), ("data.count=9",), ("evaluation.data.size=64",))
    }
    assert len(names) == 4 and not Path("runs").exists()


def test_what_changed_since_is_refused_when_it_is_read(identify: Identify) -> None:
    trained_on, scored_on = contents_of_run(settings_of(composed(*SCRATCH)))
    path = IMAGE.format("train", 1)
    os.utime(path)
    assert len(trained_on.data.image(1)) == 48
    for change in (repaint, os.remove):
        change(path)
        with pytest.raises(InputError, match=r"0001\.png: was changed or removed after"):
            trained_on.data.image(1)
    # Of what was read in the beginning nothing is read again, and what does not count may change.
    append(ANNOTATIONS.format("val"))
    repaint(IMAGE.format("val", SCORED))
    assert [len(scored_on.data.sample(index).image) for index in range(SCORED + 1)] == [64, 48, 64, 64]


def test_annotations_that_change_while_they_are_read_are_refused(identify: Identify, tmp_path: Path) -> None:
    data = Coco("coco")
    append(ANNOTATIONS.format("val"))
    with pytest.raises(InputError, match=r"instances_val2017\.json: was changed"):
        data_content(data, range(3), True, tmp_path)
    data_content(data, range(3), False, tmp_path)


def test_sa1bs_annotations_are_each_images_own(tmp_path: Path) -> None:
    for number in (1, 2):
        Image.new("RGB", (8, 8)).save(tmp_path / f"sa_{number}.jpg")
        annotation = {"id": number, "bbox": [0, 0, 4, 4], "area": 16, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]}
        content = {"image": {"image_id": number, "width": 8, "height": 8}, "annotations": [annotation]}
        (tmp_path / f"sa_{number}.json").write_text(json.dumps(content))

    def identified(labels: bool) -> list[ImageContent]:
        data = Sa1b(tmp_path, "all", labels=labels)
        return data_content(data, range(2), labels, tmp_path / "runs").images

    before, bare = identified(True), identified(False)
    assert [image.image_id for image in before] == [1, 2] and before[0].annotations_sha256 is not None
    append(str(tmp_path / "sa_2.json"))
    assert [one == other for one, other in zip(before, identified(True), strict=True)] == [True, False]
    assert identified(False) == bare
    data = Sa1b(tmp_path, "all")
    data_content(data, range(2), True, tmp_path / "runs")
    append(str(tmp_path / "sa_1.json"))
    with pytest.raises(InputError, match=r"sa_1\.json: was changed"):
        data.sample(0)
    assert data.sample(1).annotation_ids == (2,)


def test_a_models_shape_counts_where_its_weights_do_not_show_it() -> None:
    model, same, other = tiny_sam(), tiny_sam(), tiny_sam()
    object.__setattr__(other, "config", torch.nn.Module)
    assert model_sha256(model) == model_sha256(same) != model_sha256(other)
    assert model_sha256(tiny_sam(1)) != model_sha256(model)


def test_a_name_that_is_no_file_stands_for_itself(tmp_path: Path) -> None:
    assert file_identity("mobile_sam") == "mobile_sam"
    (tmp_path / "a.pth").write_text("a")
    (tmp_path / "README.md").write_text("of the folder")
    before = file_identity(str(tmp_path))
    (tmp_path / "README.md").write_text("says something else")
    assert file_identity(str(tmp_path)) == before
    os.rename(tmp_path / "a.pth", tmp_path / "b.pth")
    assert file_identity(str(tmp_path)) != before


# One of every kind of setting that makes no other run, and one of every kind that does.
SAME = (
    "runs=other",
    "force=true",
    "cache=off",
    "engine.workers=3",
    "engine.cache_folder=x",
    "evaluation.latency_runs=3",
)
OTHER = (
    "seed=1",
    "method.steps=3",
    "engine.threads=3",
    "engine.compile=true",
    "evaluation.images=2",
    "data.missing=skip",
)


def test_which_settings_make_another_run(identify: Identify) -> None:
    before = identify(*SCRATCH)
    assert {word: identify(*SCRATCH, word) for word in SAME} == dict.fromkeys(SAME, before)
    others = [identify(*SCRATCH, word).rpartition("-")[2] for word in OTHER]
    assert len({*others, before.rpartition("-")[2]}) == len(OTHER) + 1


def group(*words: str, earlier: Sequence[Any] = ()) -> str:
    """The group of a run on made images."""
    settings = settings_of(composed("data=shapes", *words))
    return run_group(settings, torch.device("cpu"), contents_of_run(settings), earlier)


def test_runs_of_a_group_differ_by_seed_alone(identify: Identify) -> None:
    before = group(*SCRATCH)
    assert re.fullmatch(r"scratch-r0\.5-[0-9a-f]{8}", before)
    assert group(*SCRATCH, "seed=1") == group(*SCRATCH, "runs=other") == before
    others = ("method=slimsam", "name=mine", "name=scratch", "method.steps=3", "teacher=sam_photo")
    found = [group(*SCRATCH[1:], *(() if word.startswith("method=") else SCRATCH[:1]), word) for word in others]
    assert len({before, *found}) == 6
    assert found[1].startswith("mine-r0.5-") and found[-1].startswith("scratch-r0.5-sam_photo-")


def test_the_groups_of_a_chain_do_not_rest_on_the_file_in_between(identify: Identify) -> None:
    shutil.copy("teacher.pth", "other.pth")
    inits = ("method.init=student.pth", "method.init=other.pth")
    assert len({group("method=ptq", init) for init in inits}) == 2
    first, other = (
        settings_of(composed("data=shapes", *SCRATCH, word)).method for word in ("seed=1", "method.steps=3")
    )
    (same,) = {group("method=ptq", init, earlier=[first]) for init in inits}
    assert group("method=ptq", inits[0], earlier=[other]) != same
    assert group("method=ptq", "method.weight_bits=4", inits[0], earlier=[first]) != same


def test_every_method_of_a_chain_knows_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[list[str]] = []

    def run(settings: RunConfig, cfg: DictConfig, earlier: Sequence[Any] = (), wait: bool = False) -> list[ResultRow]:
        known.append([str(method._target_).rpartition(".")[2] for method in (*earlier, settings.method)])
        return [ResultRow(run_id="some", method="some", status="finished")]

    monkeypatch.setattr("experiments.runs.run.run", run)
    cfg = composed("data=shapes", *SCRATCH, "then=tinysam", "lastly=ptq")
    run_chain(settings_of(cfg), cfg)
    assert known == [["Scratch"], ["Scratch", "TinySam"], ["Scratch", "TinySam", "Ptq"]]


def test_what_a_teacher_proposes_counts_only_where_a_method_takes_it(identify: Identify) -> None:
    before = identify(*SCRATCH)
    assert identify(*SCRATCH, "teacher.recipe.prompts=3") == before == identify(*SCRATCH, "teacher.student=tiny_vit_5m")
    assert identify(*SCRATCH, "teacher.recipe.steps=3") != before


def test_a_setting_that_came_later_makes_another_run_only_where_it_is_used() -> None:
    later = {part.name for part in fields(PtqSettings) if part.metadata == SINCE}
    assert {"big", "pcc", "reconstruct"} <= later
    plain = _identity(settings_of(composed("data=shapes", "method=ptq")).method)
    assert plain.keys() == {part.name for part in fields(PtqSettings)} - later | {"_target_"}
    other = _identity(settings_of(composed("data=shapes", "method=ptq", "method.reconstruct=blocks")).method)
    assert other == {**plain, "reconstruct": "blocks"}


def test_a_run_named_as_its_method_is_another_row_than_the_nameless_one(identify: Identify) -> None:
    nameless, named, other = (identify(*SCRATCH, *name) for name in ((), ("name=scratch",), ("name=mine",)))
    front = "scratch-r0.5-s0-"
    assert nameless.startswith(front) and named.startswith(front) and named != nameless
    # A name that is no method's shows already.
    assert other == nameless.replace("scratch", "mine")


@pytest.mark.parametrize("name", ["../elsewhere", "a\\b", "a\x1b[2J", "a" * 201, ""])
def test_a_name_that_no_folder_can_have_is_refused(name: str) -> None:
    settings = settings_of(composed(*SCRATCH))
    settings.name = name
    with pytest.raises(InputError, match=r"^name=.*; give a short one without / and \\$"):
        run_id(settings, torch.device("cpu"), "0" * 64)
