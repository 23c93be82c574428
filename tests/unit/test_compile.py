"""Compiled training gives the losses of uncompiled training. Slow: a C++ compiler writes every kernel."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compressors.distill.engine import Engine, compiled
from compressors.distill.optimizer import OptimizerConfig
from compressors.method import RunContext
from compressors.slimsam import SlimSam
from tests.unit.tiny import Images, tiny_encoder, tiny_sam

METHOD = SlimSam(0.5, importance="magnitude", steps=4, batch=2, optimisation=OptimizerConfig(lr=1e-3))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU; install g++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_the_same_losses(tmp_path: Path) -> None:
    losses = {}
    for expected in (False, True):
        folder = tmp_path / str(expected)
        engine = Engine(folder, compile=expected, log_every=1)
        compressed = replace(METHOD).compress(tiny_sam(), Images(), RunContext(0, folder, engine))
        assert compressed.student.image_encoder._compiled_call_impl is None
        logs = [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
        losses[expected] = [entry["loss"] for entry in logs]
    assert len(losses[True]) == 8
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)


def test_a_model_is_left_as_it_was() -> None:
    encoder = tiny_encoder()
    with compiled(encoder, True):
        assert encoder._compiled_call_impl is not None
        with torch.compiler.set_stance("force_eager"):
            assert encoder(torch.zeros(1, 3, 64, 64)).shape == (1, 16, 4, 4)
    assert encoder._compiled_call_impl is None
    with compiled(encoder, False):
        assert encoder._compiled_call_impl is None
