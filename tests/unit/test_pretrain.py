"""The teacher's training: batches by step, prompts that mean their targets, and a run that can be stopped."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from compressors.distill.engine import Engine
from compressors.distill.losses import binary_cross_entropy, dice_loss, focal_loss, mask_iou
from core.checkpoint import read_safetensors, weights_sha256
from core.geometry import PIXEL_MEAN, PIXEL_STD
from core.protocols import Prompt
from data.shapes import Shapes
from experiments import pretrain as module
from experiments.pretrain import pretrain
from experiments.pretrain_shapes import Pool, PromptedBatch, ShapesBatches, ShapesTraining, make_pool, prompted_loss
from teachers.catalog import MODELS, NamedModel
from teachers.image_encoder import EncoderConfig
from teachers.mask_decoder import Decoded
from teachers.sam import Sam, SamConfig
from tests.unit.tiny import Killed

FRAME = 32
CONFIG = SamConfig(EncoderConfig(FRAME, 8, 16, 2, (16, 16), (32, 32), 3, (1,), 16), 2, 20, 12)
RECIPE = ShapesTraining(steps=6, images=5, easy_images=3, easy_share=0.4, batch=2, masks=2, warmup=2)


def painted(prefix: str, count: int = 4) -> Pool:
    """Images in which instance ``k`` has the grey ``40 * (k + 1)``, of two sizes and without symmetry."""
    labels = np.zeros((count, FRAME, FRAME), np.uint8)
    sizes = np.array([[FRAME, FRAME], [24, FRAME]] * (count // 2))
    for i, of_image in enumerate(labels):
        of_image[1 : 8 + i, 2:9], of_image[10:23, 4:7], of_image[5:18, 13:30] = 1, 2, 3
        of_image[7:9, 15:20] = 0
    return Pool((40 * labels)[..., None].repeat(3, 3), labels, sizes, prefix)


def batch_of(step: int, recipe: ShapesTraining = RECIPE) -> PromptedBatch:
    return ShapesBatches(recipe, painted("easy"), painted("hard"), FRAME, FRAME // 2).of_step(step)


def label_maps(batch: PromptedBatch) -> NDArray[np.int64]:
    """Read back from the images; the padding is -1."""
    grey = (batch.images * torch.tensor(PIXEL_STD)[:, None, None] + torch.tensor(PIXEL_MEAN)[:, None, None]).round()
    padding = (batch.images == 0).all(1)
    assert (grey[:, 0][~padding] % 40 == 0).all()
    return torch.where(padding, -1, grey[:, 0] / 40).long().numpy()


def same(a: PromptedBatch, b: PromptedBatch) -> bool:
    def tensors(batch: PromptedBatch) -> list[Tensor]:
        prompt = batch.prompt
        return [batch.images, batch.targets, *(t for t in (prompt.boxes_xyxy, prompt.points_xy) if t is not None)]

    pairs = list(zip(tensors(a), tensors(b), strict=True))
    return a.names == b.names and all(x.shape == y.shape and torch.equal(x, y) for x, y in pairs)


def coverage(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    return mask.reshape(FRAME // 2, 2, FRAME // 2, 2).mean((1, 3))


def test_a_batch_is_a_function_of_the_step() -> None:
    in_order = [batch_of(step) for step in range(8)]
    torch.manual_seed(5)
    np.random.seed(5)
    for step in reversed(range(8)):
        assert same(batch_of(step), in_order[step])
    assert not same(batch_of(0, replace(RECIPE, seed=1)), in_order[0])
    assert len({step.images.numpy().tobytes() for step in in_order}) == 8


def test_there_are_no_more_clear_images_than_others() -> None:
    assert (ShapesTraining().images, ShapesTraining().easy_images) == (10000, 2000)
    few = ShapesTraining(images=1, batch=1)
    assert few.easy_images == 1 and replace(few, seed=3).easy_images == 1
    batches = ShapesBatches.load(few, FRAME, FRAME // 2)
    assert (len(batches.easy), len(batches.hard)) == (1, 1)


def test_processes_share_a_batch() -> None:
    """Images, and with each its own prompts and targets."""
    recipe = replace(RECIPE, batch=4)
    batches = ShapesBatches(recipe, painted("easy"), painted("hard"), FRAME, FRAME // 2)
    whole, first, second = batches(range(8, 12)), batches(range(8, 10)), batches(range(10, 12))
    assert same(whole, batches.of_step(2)) and whole.names == first.names + second.names
    assert torch.equal(whole.images, torch.cat([first.images, second.images]))
    assert torch.equal(whole.targets, torch.cat([first.targets, second.targets])) and len(first.targets) == 4
    for name in ("boxes_xyxy", "points_xy"):
        parts = [getattr(batch.prompt, name) for batch in (whole, first, second)]
        assert parts[0] is None or torch.equal(parts[0], torch.cat(parts[1:]))


def test_clear_images_come_first() -> None:
    prefixes = [{name[:4] for name in batch_of(step).names} for step in range(6)]
    # The first 40 % of six steps are 0, 1 and 2 (2 < 2.4).
    assert prefixes == [{"easy"}] * 3 + [{"hard"}] * 3


def test_targets_are_the_coverage_of_the_mask_that_is_meant() -> None:
    """Without jitter a box is the tight one of its mask, and every point of a prompt lies on it."""
    recipe, kinds = replace(RECIPE, box_jitter=0.0), set()
    for step in range(30):
        batch = batch_of(step, recipe)
        assert batch.targets.shape == (2 * 2, FRAME // 2, FRAME // 2)
        for image, labels in enumerate(label_maps(batch)):
            meant = []
            for row in (2 * image, 2 * image + 1):
                if batch.prompt.boxes_xyxy is not None:
                    (instance,) = [
                        k for k in (1, 2, 3) if np.array_equal(coverage(labels == k), batch.targets[row].numpy())
                    ]
                    y, x = np.nonzero(labels == instance)
                    tight = [x.min(), y.min(), x.max() + 1, y.max() + 1]
                    assert batch.prompt.boxes_xyxy[row].tolist() == tight
                    kinds.add("box")
                else:
                    assert batch.prompt.points_xy is not None
                    points = batch.prompt.points_xy[row].long().numpy()
                    (instance,) = {int(labels[py, px]) for px, py in points}
                    assert instance >= 1
                    assert np.array_equal(coverage(labels == instance), batch.targets[row].numpy())
                    kinds.add(f"{len(points)} points")
                meant.append(instance)
            assert len(set(meant)) == 2
    assert kinds == {"box", "1 points", "2 points", "3 points"}


def test_prompts_lie_inside_the_image() -> None:
    for step in range(40):
        batch = batch_of(step, replace(RECIPE, box_jitter=0.5))
        for image, labels in enumerate(label_maps(batch)):
            height, width = ((labels >= 0).any(1).sum(), (labels >= 0).any(0).sum())
            assert sorted((height, width)) in ([24, 32], [32, 32])
            for row in (2 * image, 2 * image + 1):
                if batch.prompt.boxes_xyxy is not None:
                    x0, y0, x1, y1 = batch.prompt.boxes_xyxy[row].tolist()
                    assert 0 <= x0 <= x1 - 0.999
                    assert 0 <= y0 <= y1 - 0.999
                    assert x1 <= width
                    assert y1 <= height
                else:
                    assert batch.prompt.points_xy is not None
                    assert batch.prompt.labels is not None
                    assert (batch.prompt.labels[row] == 1).all()
                    assert (batch.prompt.points_xy[row] >= 0).all()
                    assert (batch.prompt.points_xy[row] < torch.tensor([width, height])).all()


def test_instances_repeat_only_where_there_are_too_few() -> None:
    batch = batch_of(0, replace(RECIPE, masks=5))
    for image in range(2):
        of_image = batch.targets[5 * image : 5 * image + 5]
        assert len({target.numpy().tobytes() for target in of_image}) == 3


def test_augmentation_turns_image_and_labels_alike() -> None:
    pool = painted("a")
    rng = np.random.Generator(np.random.PCG64(0))
    seen = set()
    for _ in range(100):
        image, labels = pool.augmented(1, rng)
        assert image.shape == (*labels.shape, 3)
        assert labels.shape in ((24, 32), (32, 24))
        assert np.array_equal(image, (40 * labels)[..., None].repeat(3, 2))
        seen.add((labels.shape, labels.tobytes()))
    assert len(seen) == 8


def test_augmentation_permutes_the_channels() -> None:
    pool = painted("a")
    pool.images[..., 1] += 1
    pool.images[..., 2] += 2
    rng = np.random.Generator(np.random.PCG64(0))
    assert len({tuple(pool.augmented(0, rng)[0][0, 0].tolist()) for _ in range(100)}) == 6


def test_a_pool_holds_the_data_set() -> None:
    pool, data = make_pool("train", 4, 3, 0.5, 48), Shapes("train", 4, seed=3, size=48, difficulty=0.5)
    assert len(pool) == 4
    for i in range(4):
        image, labels = data.label_map(i)
        height, width = pool.sizes[i]
        assert pool.name(i) == data.image_name(i)
        assert (height, width) == labels.shape
        assert np.array_equal(pool.images[i, :height, :width], image)
        assert np.array_equal(pool.labels[i, :height, :width], labels)
        assert not pool.labels[i, height:].any()
        assert not pool.labels[i, :, width:].any()


def test_the_loss_is_of_the_single_mask_and_the_best_of_three() -> None:
    logits, iou_pred = torch.randn(4, 4, 8, 8), torch.rand(4, 4)
    targets = (torch.rand(4, 8, 8) > 0.5).float()
    # The third candidate of the first two prompts, the fourth of the others.
    logits[:2, 2], logits[2:, 3] = (2 * targets[:2] - 1) * 9, (2 * targets[2:] - 1) * 9

    def decode_frame(embedding: Tensor, prompt: Prompt) -> Decoded:
        assert embedding.tolist() == [[1.0], [2.0]]
        return Decoded(logits, iou_pred, torch.zeros(0))

    model = SimpleNamespace(encode=lambda images: torch.tensor([[1.0], [2.0]]), decode_frame=decode_frame)
    batch = PromptedBatch(("a", "b"), torch.zeros(2, 3, 16, 16), Prompt(boxes_xyxy=torch.zeros(4, 4)), targets)
    terms = prompted_loss(cast(Sam, model), batch)
    best = torch.stack([*logits[:2, 2], *logits[2:, 3]])
    for name, weight, loss in (("focal", 5, focal_loss), ("dice", 1, dice_loss), ("bce", 2, binary_cross_entropy)):
        expected = weight * (loss(logits[:, 0], targets).mean() + loss(best, targets).mean())
        torch.testing.assert_close(terms[name], expected)
    ious = mask_iou(logits, targets[:, None].expand_as(logits))
    assert ious[0, 2] == ious[3, 3] == 1
    torch.testing.assert_close(terms["iou"], (iou_pred - ious).square().mean())


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of two blocks, four images to validate on, and a state saved at every step."""
    monkeypatch.setitem(MODELS, "tiny", NamedModel(CONFIG))
    monkeypatch.setattr(module, "Shapes", lambda split, count, seed: Shapes(split, 4, seed=seed, size=FRAME))
    monkeypatch.setattr(module, "Engine", partial(Engine, save_every_s=-1.0, log_every=1))


def run(folder: Path) -> Sam:
    return pretrain(RECIPE, "tiny", folder, "float32", torch.device("cpu"))


def log(folder: Path) -> list[Any]:
    lines = [json.loads(line) for line in (folder / "pretrain.jsonl").read_text().splitlines()]
    return [(line["step"], line.get("loss"), line.get("validation")) for line in lines]


@pytest.mark.usefixtures("small")
def test_a_stopped_run_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = run(tmp_path / "a")
    assert all(tensor.isfinite().all() for tensor in undisturbed.state_dict().values())

    steps: list[int] = []

    of_step = ShapesBatches.of_step

    def killed(batches: ShapesBatches, step: int) -> PromptedBatch:
        if step == 4 and steps.count(4) == 0:
            steps.append(4)
            raise Killed
        steps.append(step)
        return of_step(batches, step)

    monkeypatch.setattr(ShapesBatches, "of_step", killed)
    with pytest.raises(Killed):
        run(tmp_path / "b")
    torch.manual_seed(99)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    resumed = run(tmp_path / "b")
    assert torch.get_num_threads() == threads, "it goes on as it began"
    assert steps == [0, 1, 2, 3, 4, 4, 5]
    assert weights_sha256(resumed) == weights_sha256(undisturbed)
    assert log(tmp_path / "b") == log(tmp_path / "a")

    # The file holds what was returned, and says how it came about.
    tensors, metadata = read_safetensors(tmp_path / "b" / "tiny.safetensors")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in resumed.state_dict().items())
    assert json.loads(metadata["name"]) == "tiny"
    assert ShapesTraining(**json.loads(metadata["recipe"])) == RECIPE
    assert json.loads(metadata["images_seen"]) == 12

    # A finished run is not trained again.
    steps.clear()
    assert weights_sha256(run(tmp_path / "b")) == weights_sha256(resumed)
    assert steps == []


@pytest.mark.usefixtures("small")
def test_training_changes_every_part_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Sam] = []
    before: dict[str, Tensor] = {}
    original = module.initialise_sam

    def remembered(model: Sam) -> None:
        original(model)
        made.append(model)
        before.update({name: tensor.clone() for name, tensor in model.named_parameters()})

    monkeypatch.setattr(module, "initialise_sam", remembered)
    run(tmp_path)
    same_as_before = {name for name, tensor in made[0].named_parameters() if torch.equal(tensor, before[name])}
    heads = "mask_decoder.output_hypernetworks_mlps."
    # No prompt is a mask or a background point, and a candidate that never was the best one learns nothing.
    assert {name for name in same_as_before if not name.startswith(("prompt_encoder.", heads))} == set()
    assert not any(name.startswith(f"{heads}0.") for name in same_as_before)
    assert len({name.removeprefix(heads)[0] for name in same_as_before if name.startswith(heads)}) < 3
    for corner in ("2", "3"):
        assert f"prompt_encoder.point_embeddings.{corner}.weight" not in same_as_before
