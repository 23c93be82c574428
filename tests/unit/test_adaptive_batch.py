"""Too little memory: fewer prompts and images at a time with equal figures, a line where one is too many."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compressors.distill.engine import Engine
from compressors.distill.optimizer import OptimizerConfig
from compressors.method import RunContext
from compressors.scratch import Scratch
from core.memory import OutOfDeviceMemory, is_out_of_memory, reraise_oom
from core.protocols import Masks, Prompt
from data.detections import ImageDetections
from evaluation.adaptive_batch import AdaptiveBatch
from evaluation.everything import EverythingGenerator, EverythingSettings
from evaluation.protocols import PROTOCOLS
from evaluation.records import PartialRecords
from evaluation.scorer import Scored, Scorer
from teachers.sam import Sam
from tests.unit.tiny import CONFIG, Images, LabelledImages, tiny_sam

NO_FILE: Any = object()
"""Stands for a detector's file where boxes are given one image at a time."""


class SmallDevice(Sam):
    """A model on a device that has memory for a few images and a few prompts at a time."""

    images, prompts = 64, 64

    def encode(self, images: Tensor) -> Tensor:
        if len(images) > self.images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return super().encode(images)

    def decode(self, embedding: Tensor, prompt: Prompt, size_hw: tuple[int, int], multimask: bool = False) -> Masks:
        if len(prompt) > self.prompts:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return super().decode(embedding, prompt, size_hw, multimask)


def small_device(images: int = 64, prompts: int = 64) -> SmallDevice:
    model = SmallDevice(CONFIG, "small").eval().requires_grad_(False)
    model.load_state_dict(tiny_sam().state_dict())
    model.images, model.prompts = images, prompts
    return model


def scored(model: Sam, folder: Path | None = None) -> Scored:
    protocols = [PROTOCOLS[name] for name in ("box_single@1", "box_oracle@1", "point_best_of_3@1")]
    data = LabelledImages(9)
    scorer = Scorer(model, protocols, prompt_batch_size=8, image_batch_size=4)
    return scorer.score(data, range(9), partial=PartialRecords(folder, "k") if folder else None)


def test_fewer_at_a_time_give_the_same_figures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    expected = scored(small_device())
    assert capsys.readouterr().err == ""
    found = scored(small_device(images=1, prompts=1), tmp_path)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "3 images together need more memory than the device has: 1 from here on "
        "(evaluation.image_batch_size=1 spares the attempt)",
        "2 prompts together need more memory than the device has: 1 from here on "
        "(evaluation.prompt_batch_size=1 spares the attempt)",
    ], "once a halving, and never again in the pass"
    for name, records in expected.records.items():
        others = found.records[name]
        assert [r.iou for r in others] == [r.iou for r in records]  # type: ignore[union-attr]
        assert [r.mask_index for r in others] == [r.mask_index for r in records]
        assert np.allclose([r.iou_pred for r in others], [r.iou_pred for r in records], rtol=1e-4)


def test_an_image_of_which_half_was_scored_is_not_scored_twice() -> None:
    requested: list[slice] = []

    def compute(part: slice) -> range:
        requested.append(part)
        if part.stop - part.start > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return range(part.start, part.stop)

    found = [number for _, part in AdaptiveBatch(8, "prompts", "a.setting").parts(11, compute) for number in part]
    assert found == list(range(11)) and requested[:3] == [slice(0, 8), slice(0, 4), slice(0, 2)]


def test_detected_boxes_are_answered_in_smaller_parts_too() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 30, (7, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 20, (7, 2))], 1)
    number = np.arange(7)
    found = ImageDetections(boxes, rng.uniform(size=7), number, number)
    protocols = [PROTOCOLS["detector_box_single@1"]]

    def answers(model: SmallDevice) -> Any:
        embeddings = {protocols[0].preprocessing: model.encode(torch.randn(1, 3, 64, 64, generator=generator()))}
        scorer = Scorer(model, protocols, NO_FILE, prompt_batch_size=7)
        return scorer.score_boxes(1, (64, 64), found, embeddings)

    expected, split = answers(small_device()), answers(small_device(prompts=2))
    for one, other in zip(expected["detector_box_single@1"], split["detector_box_single@1"], strict=True):
        assert (one.counts, one.index, one.score) == (other.counts, other.index, other.score)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("strategy", "tried"), [("dense", [16, 8, 4]), ("hierarchical", [4])])
def test_everything_asks_fewer_points_at_a_time(
    strategy: str, tried: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = EverythingSettings(
        strategy, points_per_side=8, points_per_batch=16, pred_iou_thresh=0.0, stability_score_thresh=0.0
    )
    images = [LabelledImages().sample(index).image for index in range(2)]
    expected = [EverythingGenerator(small_device(), settings).run(image) for image in images]
    assert capsys.readouterr().err == "" and all(answer.records for answer in expected)
    generator = EverythingGenerator(small_device(prompts=3), settings)
    found = [generator.run(image) for image in images]
    said = capsys.readouterr().err.splitlines()
    assert [int(line.partition(" ")[0]) for line in said] == tried, "once for all images"
    assert said[-1].endswith("2 from here on (generator.points_per_batch=2 spares the attempt)")
    for one, other in zip(expected, found, strict=True):
        assert one.prompts == other.prompts
        assert [r["segmentation"] for r in one.records] == [r["segmentation"] for r in other.records]
    with pytest.raises(OutOfDeviceMemory, match=r"one of the prompts; give engine\.device=cpu"):
        EverythingGenerator(small_device(prompts=0), settings).run(images[0])


def test_one_that_is_too_many_is_reported_with_what_to_do() -> None:
    with pytest.raises(
        OutOfDeviceMemory, match=r"too little memory for one of the prompts; give evaluation\.precision"
    ):
        scored(small_device(prompts=0))
    with pytest.raises(OutOfDeviceMemory, match="too little memory for one of the images"):
        scored(small_device(images=0))


def test_other_errors_of_a_model_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Masks:
        raise RuntimeError("shapes cannot be multiplied")

    model = small_device()
    monkeypatch.setattr(model, "decode", broken)
    sample = LabelledImages().sample(0)
    scorer = Scorer(model, [PROTOCOLS["box_single@1"]])
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        scorer.score_sample(sample, {("pillow", "nearest"): torch.zeros(1, 16, 4, 4)})


def test_the_ways_in_which_memory_is_missing() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory.")) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes")) and not is_out_of_memory(ValueError("no"))
    with pytest.raises(OutOfDeviceMemory) as reported, reraise_oom("this", "do that"):
        torch.empty(1 << 60, dtype=torch.uint8)
    assert str(reported.value) == "this: the device has too little memory; do that"


@pytest.fixture
def no_memory_for(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Makes training steps of more images than so many run out of memory."""
    step = Engine._step

    def limit(most: int) -> None:
        def limited(engine: Engine, stage: Any, *arguments: Any) -> None:
            if stage.batch_size > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            step(engine, stage, *arguments)

        monkeypatch.setattr(Engine, "_step", limited)

    yield limit


@pytest.mark.parametrize(
    ("batch", "most", "reported"),
    [
        (6, 3, "give method.batch=3 method.optimisation.accumulate=2: the same 6 images a step"),
        (5, 3, "give method.batch=1 method.optimisation.accumulate=5: the same 5 images a step"),
        (1, 0, "one image at a time is too much already; give engine.precision=bfloat16, or another device"),
    ],
)
def test_training_says_which_setting_takes_less(
    batch: int, most: int, reported: str, no_memory_for: Callable[[int], None], tmp_path: Path
) -> None:
    no_memory_for(most)
    method = Scratch(0.5, steps=1, batch=batch)
    with pytest.raises(OutOfDeviceMemory) as failed:
        method.compress(tiny_sam(), Images(), RunContext(0, tmp_path, Engine(tmp_path)))
    assert str(failed.value) == f"stage scratch, step 0: the device has too little memory; {reported}"


def test_what_is_reported_is_what_helps(no_memory_for: Callable[[int], None], tmp_path: Path) -> None:
    """The same images a step in smaller parts: the fix of the message runs."""
    no_memory_for(3)
    method = Scratch(0.5, steps=1, batch=3, optimisation=OptimizerConfig(accumulate=2))
    made = method.compress(tiny_sam(), Images(), RunContext(0, tmp_path, Engine(tmp_path)))
    assert made.images_seen == 12
