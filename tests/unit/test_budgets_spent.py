"""What a run spends a budget by: losses of all images, times and bytes, and the model that it ends with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from compressors import ptq
from compressors.distill.engine import Engine
from compressors.method import RunContext
from compressors.ptq import Ptq
from compressors.quantize.calibration import Calibration
from compressors.quantize.search import Search
from data.batches import ImageBatches
from students.quantized.plan import planned_copy
from tests.unit.tiny import Images, Killed, tiny_sam


def compress(method: Ptq, folder: Path) -> Any:
    return method.compress(tiny_sam(), Images(), RunContext(0, folder, Engine(folder))).student


def test_losses_are_of_each_layer_alone_over_all_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In sequential order too: layers of 8 bits behind those of 3 answer for their own errors alone."""
    method = Ptq(
        3, 3, metric="minmax", images=2, prompts=1, budget=0.5, order="sequential", eight_bit_layers=("mask_decoder.*",)
    )
    found: dict[str, float] = {}

    def spending(model: object, scheme: object, losses: Mapping[str, float], *others: object) -> None:
        found.update(losses)
        raise Killed

    monkeypatch.setattr(ptq, "choose_layers", spending)
    with pytest.raises(Killed):
        compress(method, tmp_path)
    batches = ImageBatches(Images(), 64, 4, 0)
    calibration = Calibration(Search("minmax"), order="parallel", prompts=1, sensitivity=True)
    copied = planned_copy(tiny_sam(), method.scheme())
    lines = calibration.run(copied, [batches(range(i, i + 1)) for i in range(2)], tmp_path / "alone", "key")
    assert found == {line["layer"]: line["expected_loss"] for line in lines} and max(found.values()) > 0
