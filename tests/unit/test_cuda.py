"""What only an accelerator can show: fused attention, mixed precision with loss scaling, pinned transfers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compressors.distill.engine import Engine
from compressors.distill.optimizer import OptimizerConfig
from compressors.method import RunContext
from compressors.slimsam import SlimSam
from evaluation.latency import measure_latency
from teachers.attention import attend_by_definition, attend_folded
from tests.unit.tiny import Images, tiny_sam

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here; run `pytest -m gpu` where there is"),
]
CUDA = torch.device("cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_fused_way_is_the_definition(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [*[(2, 3, 20 * 20, 16)] * 3, (2, 3, 20, 20, 20), (2, 3, 20, 20, 20)]
    exact = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    out = attend_folded(*(tensor.to(CUDA, dtype) for tensor in exact))
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(out.double().cpu(), attend_by_definition(*exact), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_training_on_the_device_ends_near_training_on_the_cpu(tmp_path: Path, precision: str) -> None:
    method = SlimSam(0.5, importance="magnitude", steps=4, batch=2, optimisation=OptimizerConfig(lr=1e-3, clip=1.0))
    losses = []
    for device, of in ((torch.device("cpu"), "float32"), (CUDA, precision)):
        folder = tmp_path / device.type
        engine = Engine(folder, device, of, workers=2, log_every=1)
        teacher = tiny_sam().to(device)
        compressed = replace(method).compress(teacher, Images(), RunContext(0, folder, engine))
        images = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)
        student = compressed.student
        losses.append((student.encode(images.to(device)) - teacher.encode(images.to(device))).square().mean().item())
        assert compressed.peak_memory_bytes > 0
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_latency_on_the_device() -> None:
    latency = measure_latency(tiny_sam().to(CUDA), runs=2, device=CUDA, precision="bfloat16")
    assert latency.encoder_latency_ms > 0
    assert latency.peak_memory_bytes > 0
