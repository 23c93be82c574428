"""Pretraining on scenes: sources by name, batches by place, losses, and a run that begins where another ended."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.checkpoint import read_safetensors, write_safetensors
from core.errors import InputError
from data.scenes import SceneRecipe
from data.shapes import Shapes
from data.shapes_export import write_data_set
from experiments import pretrain as module
from experiments.pretrain_scenes import (
    SceneBatches,
    SceneTraining,
    Source,
    ellipse_coverage,
    local_cross_entropy,
    random_boxes,
    scene_loss,
)
from teachers.catalog import NamedModel
from teachers.image_encoder import EncoderConfig
from teachers.initial_weights import initialise_sam
from teachers.sam import Sam, SamConfig
from tests.unit.tiny import free_port

CONFIG = SamConfig(EncoderConfig(64, 16, 16, 2, (16, 16), (32, 32), 2, (1,), 16), 2, 20, 12)
RECIPE = SceneTraining(steps=3, batch=2, boxes=3, points=2, images=6, warmup=1, scenes=SceneRecipe(least_area=8.0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("shapes", Source("shapes", None, 1.0)),
        ("shapes:0.25", Source("shapes", None, 0.25)),
        ("sa1b=C:/data", Source("sa1b", "C:/data", 1.0)),
        ("coco=some where=x:3", Source("coco", "some where=x", 3.0)),
    ],
)
def test_a_source_is_a_name_a_folder_and_a_share(text: str, expected: Source) -> None:
    assert Source.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imagenet=x", "choose one of shapes, coco, sa1b"),
        ("coco", "give its folder: --data coco=DIR"),
        ("coco=", "give its folder: --data coco=DIR"),
        ("sa1b=:2", "give its folder: --data sa1b=DIR"),
        ("shapes=x", "shapes lie in no folder"),
        ("shapes=", "shapes lie in no folder"),
        ("shapes:0", "a share is a number above 0"),
        ("shapes:nan", "a share is a number above 0"),
    ],
)
def test_a_wrong_source_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Source.parse(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--batch 0", "argument --batch: 0 must be at least 1"),
        ("--steps 0", "argument --steps: 0 must be at least 1"),
        ("--ema 1", "argument --ema: 1 must be at least 0 and below 1"),
        ("--rate -1", "argument --rate: -1 must be above 0"),
        ("--rate abc", "argument --rate: 'abc' is no number; give one above 0"),
        ("--rate nan", "argument --rate: nan must be above 0"),
        ("--ema none", "argument --ema: 'none' is no number; give one from 0 to below 1"),
        ("--steps 2.5", "argument --steps: '2.5' is no whole number; give one of at least 1"),
        ("--mosaics 1,-1", "argument --mosaics: 1,-1: shares must be at least 0 and not all 0, such as 0.5,0.3,0.2"),
        ("--mosaics 0,0", "argument --mosaics: 0,0: shares must be at least 0 and not all 0"),
        ("--mosaics 1,nan", "argument --mosaics: 1,nan: shares must be at least 0"),
        ("--mosaics 1,two", "argument --mosaics: 'two' is no number; give shares such as 0.5,0.3,0.2"),
        ("--missing maybe", "argument --missing: invalid choice: 'maybe'"),
        ("--device foo", "argument --device: foo is unknown; choose cpu, cuda or cuda:0"),
        ("--validation sa1b=", "--validation sa1b=: give its folder: --validation sa1b=DIR"),
        ("--validation sa1b=D:0.5", "--validation sa1b=D:0.5: what is scored has no share; leave out :0.5"),
    ],
)
def test_wrong_settings_end_in_a_line(
    words: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["pretrain", "--model", "sam_photo", "--data", "shapes", *words.split()])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 2 and message in capsys.readouterr().err


def ended_with(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the command ends with; status 2."""
    monkeypatch.setattr("sys.argv", ["pretrain", *words])
    with pytest.raises(SystemExit) as ended:
        module.main()
    found = capsys.readouterr().err
    assert ended.value.code == 2 and found.count("\n") == 1
    return found


def test_a_start_that_cannot_be_read_ends_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "damaged.safetensors").write_bytes(b"no weights")
    for name in ("nowhere.safetensors", "folder", "damaged.safetensors"):
        words = ["--data", "shapes", "--start", str(tmp_path / name), "--out", str(tmp_path / "out")]
        found = ended_with(words, monkeypatch, capsys)
        assert found.startswith(f"--start {tmp_path / name}: ")
        if name != "damaged.safetensors":
            assert found.endswith("; give a weights file or a folder of SamModel\n")
    assert not (tmp_path / "out").exists()


def test_the_home_folder_may_be_typed_as_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_data_set(Shapes("train", 4, size=48), tmp_path / "data")
    for words in (["--data", "sa1b=~/data/sa1b"], ["--data", "shapes", "--validation", "sa1b=~/data/sa1b"]):
        found = ended_with([*words, "--start", "~/none.pt", "--out", "~/out"], monkeypatch, capsys)
        assert found.startswith(f"--start {tmp_path}/none.pt: no such file")
    assert len(Source.parse("sa1b=~/data/sa1b").open("train")) == 3
    assert len(Source.parse_validation("sa1b=~/data/sa1b").open("validation")) == 2
    (tmp_path / "file").touch()
    found = ended_with(["--data", "shapes", "--out", "~/file"], monkeypatch, capsys)
    assert found.startswith(f"--out {tmp_path}/file: cannot be written")


@pytest.mark.parametrize("more", [(), ("--data", "shapes")])
def test_a_place_that_takes_no_files_is_refused_by_its_option(
    more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        found = ended_with(["--out", str(out), *more], monkeypatch, capsys)
        assert found.startswith(f"--out {out}: cannot be written (") and found.endswith("); give another folder\n")


def test_what_cannot_be_used_is_refused_by_the_option_that_skips_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = write_data_set(Shapes("train", 4, size=48), tmp_path / "data")
    (root / "sa_000000.jpg").write_bytes(b"no image")
    content = json.loads((root / "sa_000001.json").read_text())
    content["annotations"][0]["bbox"] = None
    (root / "sa_000001.json").write_text(json.dumps(content))
    words = ["--data", f"sa1b={root}", "--out", str(tmp_path / "out"), "--steps", "1"]
    assert ended_with(words, monkeypatch, capsys).endswith(", or give --missing skip\n")
    assert ended_with([*words, "--missing", "skip"], monkeypatch, capsys).endswith(", or give --unusable skip\n")
    held_out = ["--data", "shapes", "--validation", f"sa1b={root}", *words[2:]]
    monkeypatch.setattr("experiments.pretrain_scenes.SHAPES_COUNT", 4)
    (root / "sa_000003.jpg").write_bytes(b"no image")
    assert ended_with(held_out, monkeypatch, capsys).endswith(", or give --missing skip\n")
    source = Source("sa1b", str(root), 1.0, missing="skip", unusable="skip")
    assert source.open("train").skipped["unusable_annotation"] == 1 and len(source.open("train")) == 2
    alone = ended_with(["--missing", "skip", "--unusable", "skip"], monkeypatch, capsys)
    assert alone == "--missing and --unusable: only with --data\n"


@pytest.fixture(scope="module")
def batches() -> SceneBatches:
    source = Source("shapes", None, 1.0)
    return SceneBatches.load([source], [source.open("train")], RECIPE, 64, 16, torch.device("cpu"))


def test_a_batch_is_a_function_of_its_places(batches: SceneBatches) -> None:
    both, second = batches(range(2, 4)), batches(range(3, 4))
    assert both.images.shape == (2, 3, 64, 64) and both.box_targets.shape == (6, 16, 16)
    assert torch.equal(both.images[1:], second.images) and torch.equal(both.box_targets[3:], second.box_targets)
    assert both.box_prompt.boxes_xyxy is not None and second.box_prompt.boxes_xyxy is not None
    assert torch.equal(both.box_prompt.boxes_xyxy[3:], second.box_prompt.boxes_xyxy)
    assert both.point_prompt.points_xy is not None and both.point_prompt.points_xy.shape[:1] == (4,)


def test_an_ellipse_covers_its_cells() -> None:
    # A circle of 16 pixels across in cells of 4: whole cells in the middle, area pi * 64 in all.
    coverage = ellipse_coverage(np.array([[8.0, 8.0, 24.0, 24.0]]), 32, 8)[0]
    assert coverage.shape == (8, 8) and coverage[3:5, 3:5].eq(1).all() and not coverage[:2].any()
    assert coverage.sum().item() * 16 == pytest.approx(np.pi * 64, rel=0.04)


def test_random_boxes_lie_within_the_image_and_are_small_as_often_as_large() -> None:
    boxes = random_boxes(4000, (300, 512), np.random.default_rng(0))
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [512, 300]).all()
    roots = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    # Half of a logarithmic scale from 7 to 300 lies below the root of their product.
    assert roots.min() >= 6.99 and np.mean(roots < (7 * 300) ** 0.5) == pytest.approx(0.5, abs=0.04)


def test_ellipses_take_the_place_of_masks_for_boxes_alone(batches: SceneBatches) -> None:
    masks = batches(range(0, 1))
    ellipses = replace(batches, recipe=replace(RECIPE, ellipses=True))(range(0, 1))
    assert torch.equal(masks.images, ellipses.images) and torch.equal(masks.point_targets, ellipses.point_targets)
    assert ellipses.box_prompt.boxes_xyxy is not None
    drawn = ellipse_coverage(ellipses.box_prompt.boxes_xyxy.double().numpy(), 64, 16)
    assert torch.equal(ellipses.box_targets, drawn)


def test_the_encoder_stays_as_it_is_while_a_decoder_learns_ellipses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MODELS", {"tiny": NamedModel(CONFIG)})
    monkeypatch.setattr("experiments.pretrain_scenes.SHAPES_COUNT", 4)
    recipe = replace(RECIPE, ellipses=True, rate=1e-2)
    sources = [Source("shapes", None, 1.0)]
    model = module.pretrain_on_scenes(recipe, sources, "tiny", None, tmp_path, "float32", torch.device("cpu"))
    torch.manual_seed(module.seed_for(0, "weights"))
    first = Sam(CONFIG)
    initialise_sam(first)
    trained, begun = model.state_dict(), first.state_dict()
    changed = {name for name in begun if not torch.equal(trained[name], begun[name])}
    assert changed and not any(name.startswith("image_encoder") for name in changed)


def test_local_cross_entropy_counts_the_surroundings_of_a_mask_as_much_as_everything() -> None:
    target = torch.zeros(1, 16, 16)
    target[0, 4:6, 7:9] = 1
    logits = torch.zeros(1, 16, 16)
    assert local_cross_entropy(logits, target).item() == pytest.approx(2 * 0.6931472, rel=1e-5)
    # Wrong by a margin far away: 1/256 of the whole, none of the surroundings (rows 1 to 8, columns 4 to 11).
    logits[0, 15, 15] = 100.0
    assert local_cross_entropy(logits, target, 3).item() == pytest.approx(
        0.6931472 + (255 * 0.6931472 + 100) / 256, rel=1e-5
    )


@pytest.mark.slow
def test_the_loss_falls_on_one_batch(batches: SceneBatches) -> None:
    torch.manual_seed(0)
    model = Sam(CONFIG)
    initialise_sam(model)
    batch = batches(range(0, 2))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    sums = []
    for _ in range(40):
        loss = sum(scene_loss(model, batch).values())
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        sums.append(loss.item())
    assert sums[-1] < 0.8 * sums[0]


def test_a_run_trains_on_files_and_another_begins_with_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = write_data_set(Shapes("train", 4, size=48), tmp_path / "data")
    other, _ = write_data_set(Shapes("validation", 2, size=48), tmp_path / "scored")
    monkeypatch.setattr(module, "MODELS", {"tiny": NamedModel(CONFIG)})
    sources = [Source("sa1b", str(root), 0.5), Source("shapes", None, 0.5)]
    monkeypatch.setattr("experiments.pretrain_scenes.SHAPES_COUNT", 4)
    cpu = torch.device("cpu")
    arguments = (sources, "tiny", None, tmp_path / "first", "float32", cpu, Source("sa1b", str(other), 1.0))
    written: list[set[str]] = []

    def write(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> None:
        written.append(set(metadata))
        write_safetensors(path, tensors, metadata)

    monkeypatch.setattr(module, "write_safetensors", write)
    module.pretrain_on_scenes(RECIPE, *arguments)
    # What is scored is kept, in case the training is stopped; then what it ended with.
    assert written == [{"name", "recipe", "validation"}, {"name", "recipe", "seconds", "images_seen"}]
    weights, about = read_safetensors(tmp_path / "first" / "tiny.safetensors")
    assert about["images_seen"] == "6" and about["name"] == '"tiny"'
    assert "sa1b: 3 images of 3, " in capsys.readouterr().err
    assert (tmp_path / "first" / "threads.json").is_file(), "as runs do, it goes on with the threads that it began with"
    log = (tmp_path / "first" / "pretrain.jsonl").read_text()
    assert '"validation"' in log
    start = tmp_path / "first" / "tiny.safetensors"
    still = replace(RECIPE, steps=1, rate=1e-12, warmup=0, ema=0.0)
    module.pretrain_on_scenes(still, sources, "tiny", start, tmp_path / "second", "float32", cpu)
    again, _ = read_safetensors(tmp_path / "second" / "tiny.safetensors")
    assert all(torch.allclose(weights[key], again[key], atol=1e-6) for key in weights)


def test_a_training_is_not_lost_to_other_settings_or_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MODELS", {"tiny": NamedModel(CONFIG)})
    root, _ = write_data_set(Shapes("train", 4, size=48), tmp_path / "data")

    def train(folder: Path, **changes: int) -> None:
        source, recipe = Source("sa1b", str(folder), 1.0), replace(RECIPE, steps=1, **changes)
        module.pretrain_on_scenes(recipe, [source], "tiny", None, tmp_path / "out", "float32", torch.device("cpu"))

    train(root)
    weights = (tmp_path / "out" / "tiny.safetensors").read_bytes()
    # However the folder is spelled, the same images are the same training.
    train(tmp_path / "data" / ".." / "data" / "sa1b")
    with pytest.raises(InputError, match=r"pretrain\.state: is of a training with other settings or images; .* --out"):
        train(root, seed=1)
    (root / "sa_000003.json").unlink(), (root / "sa_000003.jpg").unlink()
    with pytest.raises(InputError, match="other settings or images"):
        train(root)
    assert (tmp_path / "out" / "tiny.safetensors").read_bytes() == weights


@pytest.mark.parametrize("steps", [1, 250, 3500, 3501, 4000, 5000, 8000, 100_001])
def test_a_training_scores_at_most_fourteen_times(steps: int) -> None:
    every = module.scored_every(steps)
    # As the engine does: at multiples, and at the end.
    assert every >= 250 and len({*range(every, steps + 1, every), steps}) <= 14


def test_what_is_scored_is_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MODELS", {"tiny": NamedModel(CONFIG)})
    root, _ = write_data_set(Shapes("train", 4, size=48), tmp_path / "data")
    (tmp_path / "link").symlink_to(root)
    sources = [Source("shapes", None, 1.0), Source("sa1b", str(root), 1.0)]
    for validation in (root, tmp_path / "link"):
        held_out, cpu = Source("sa1b", str(validation), 1.0), torch.device("cpu")
        with pytest.raises(
            InputError, match=r"--validation: 1 of the images that are scored are trained on, such as .*sa_"
        ):
            module.pretrain_on_scenes(RECIPE, sources, "tiny", None, tmp_path / "out", "float32", cpu, held_out)


@pytest.mark.slow
@pytest.mark.parametrize("of_scenes", [("--data", "shapes", "--boxes", "2"), ("--precision", "float32")])
def test_two_processes_train_what_one_trains(tmp_path: Path, of_scenes: tuple[str, ...]) -> None:
    words = ("--images", "4", "--steps", "2", "--batch", "2", "--threads", "1", *of_scenes)
    command = [sys.executable, "-m", "experiments.pretrain", *words]
    apart = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [subprocess.Popen([*command, "--out", str(tmp_path / "one")])]
    for rank in ("0", "1"):
        variables = os.environ | apart | {"RANK": rank, "LOCAL_RANK": rank}
        started.append(subprocess.Popen([*command, "--out", str(tmp_path / "two")], env=variables))
    assert [process.wait(timeout=600) for process in started] == [0, 0, 0]
    (one, about), (two, shared) = (read_safetensors(tmp_path / of / "sam_pocket.safetensors") for of in ("one", "two"))
    assert about["images_seen"] == shared["images_seen"] == "4"
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5)
