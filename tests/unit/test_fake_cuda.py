"""On a CUDA device nothing is left on the CPU: losses, the teacher's cache, encoding, decoding and scoring."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

from compressors.distill.engine import Engine, Stage
from compressors.distill.state import Progress
from compressors.distill.teacher_outputs import TeacherEmbeddings
from compressors.method import Compressor, RunContext
from compressors.mobilesam import MobileSam
from compressors.prune.groups import find_groups
from compressors.prune.selection import keep_locally
from compressors.prune.surgery import prune
from compressors.scratch import Scratch
from compressors.slimsam import SlimSam
from compressors.tinysam import TinySam
from data.batches import ImageBatches
from data.embeddings import MemoryEmbeddings
from evaluation.protocols import PROTOCOLS
from evaluation.scorer import Scorer
from students.student import Student
from teachers.image_encoder import ImageEncoder
from teachers.sam import Sam
from tests.unit.fake_cuda import CUDA, fake_cuda
from tests.unit.tiny import CONFIG, LabelledImages, TinyStudent, tiny_encoder, tiny_sam


def test_a_tensor_on_the_cpu_is_found() -> None:
    with fake_cuda(), pytest.raises(RuntimeError, match="at least two devices"):
        torch.ones(3, device=CUDA) + torch.ones(3)


class Losses(Engine):
    """In place of training, the losses of one batch in each half of each stage."""

    def fit(self, stage: Stage[Any]) -> Progress:
        with unset_fake_temporarily():
            batch = stage.batch(stage.places(0))
        stage.model.train()
        with self.autocast():
            for step in (0, stage.steps - 1):
                terms = stage.loss(batch.to(self.device), step)
                assert terms and {term.device for term in terms.values()} == {CUDA}, stage.name
                assert all(term.requires_grad for name, term in terms.items() if "earlier" not in name)
        return Progress()


METHODS: dict[str, Compressor] = {
    "slimsam": SlimSam(0.5, steps=2, batch=2),
    "scratch": Scratch(0.5, steps=2, batch=2),
    "mobilesam": MobileSam(TinyStudent(), steps=2, batch=2),
    "mobilesam root": MobileSam(TinyStudent(), loss="root", padding="count", steps=2, batch=2),
    "mobilesam coupled": MobileSam(TinyStudent(), distillation="coupled", decoder_steps=2, steps=2, batch=2),
    "mobilesam cnn": MobileSam(Student("timm", "test_resnet"), steps=2, batch=2),
    "tinysam": TinySam(TinyStudent(), steps=2, batch=2, prompts=2),
    "tinysam boxes": TinySam(TinyStudent(), boxes="alone", decoder="frozen", steps=2, batch=2, prompts=2),
    "tinysam random points": TinySam(TinyStudent(), boxes="none", hard_prompts=False, steps=2, batch=2, prompts=2),
}


def cut(self: SlimSam, teacher: Sam, encoder: ImageEncoder, parts: tuple[str, ...], *_: Any) -> ImageEncoder:
    """What is cut depends on values; any channels do for losses."""
    with unset_fake_temporarily():
        found, of_heads = tiny_encoder(), CONFIG.encoder.num_heads
        groups = find_groups(found.config)
        scores = {name: torch.rand(group.width) for name, group in groups.items()}
        chosen = {name: score for name, score in scores.items() if parts == ("attention", "mlp") or name == "embedding"}
        cut = prune(found, keep_locally(chosen, groups, self.ratio, of_heads))
    return cut.to(CUDA)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if " " in n or n == "slimsam" else []) for n in METHODS]
)
def test_losses(name: str, tmp_path: Path) -> None:
    with patch.object(SlimSam, "_cut", cut), fake_cuda():
        context = RunContext(0, tmp_path, Losses(tmp_path, CUDA), cache="off")
        compressed = METHODS[name].compress(tiny_sam().to(CUDA), LabelledImages(), context)
        assert {tensor.device for tensor in compressed.student.state_dict().values()} == {CUDA}


def test_the_teachers_cache(tmp_path: Path) -> None:
    batch = ImageBatches(LabelledImages(), 64, 4, 0)(range(3))
    with fake_cuda():
        kept = MemoryEmbeddings()
        embeddings = TeacherEmbeddings(tiny_sam().to(CUDA).image_encoder, Engine(tmp_path, CUDA), kept)
        for computed in (3, 3):
            found = embeddings(batch.to(CUDA))
            assert (found.device, found.dtype, found.shape) == (CUDA, torch.float32, (3, 16, 4, 4))
            assert embeddings.computed == computed
        assert {tensor.device.type for record in kept._kept.values() for tensor in record} == {"cpu"}


# One of each way that an answer goes.
SCORED = {
    (p.truth, p.upscaling, p.clicks > 1, p.choice): p.name
    for p in PROTOCOLS.values()
    if not p.is_detected and "annotated" not in p.prompt
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] if "clicks" in n or place > 2 else [])
        for place, n in enumerate(sorted(SCORED.values()))
    ],
)
def test_encoding_decoding_and_scoring(name: str) -> None:
    protocol = PROTOCOLS[name]
    data = LabelledImages(2)
    samples = [data.sample(index) for index in range(2)]
    with fake_cuda():
        teacher, reference = tiny_sam().to(CUDA), tiny_sam().to(CUDA)
        scorer = Scorer(teacher, [protocol], reference=reference if protocol.truth == "reference" else None)
        for sample in samples:
            frame = torch.zeros(1, 3, 64, 64, device=CUDA)
            embedding = teacher.encode(frame)
            records = scorer.score_sample(sample, {protocol.preprocessing: embedding}, embedding)
            assert len(records[name]) == len(sample.masks)
