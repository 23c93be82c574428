"""Learning of grids that is stopped and begun again."""

from pathlib import Path

import pytest
import torch

from compressors.distill.engine import Engine
from compressors.method import RunContext
from compressors.ptq import Ptq
from compressors.quantize import reconstruction
from core.checkpoint import weights_sha256
from tests.unit.tiny import Images, tiny_sam


def weights_and_steps(
    method: Ptq, folder: Path, monkeypatch: pytest.MonkeyPatch, stops: tuple[int, ...] = ()
) -> tuple[str, list[int]]:
    """Of the tiny SAM quantised, stopped before each of ``stops`` once: the weights' hash, and the steps that began."""
    loss, steps = reconstruction._Work.loss, list[int]()

    def stopping(self: reconstruction._Work, batch: reconstruction.UnitCalls, step: int) -> dict[str, torch.Tensor]:
        steps.append(step)
        if step in stops and steps.count(step) == 1:
            raise KeyboardInterrupt
        return loss(self, batch, step)

    with monkeypatch.context() as patched:
        patched.setattr(reconstruction._Work, "loss", stopping)
        context = RunContext(0, folder, Engine(folder, save_every_s=-1.0))
        for _ in stops:
            with pytest.raises(KeyboardInterrupt):
                method.compress(tiny_sam(), Images(), context)
        return weights_sha256(method.compress(tiny_sam(), Images(), context).student), steps
