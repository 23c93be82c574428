"""SlimSAM's training step: this engine against the plain loop of the reference.

``python -m benchmarks.distill``. The plain loop is the published one as it is described: float32, one image at a time
and gradients added up over the step, the frozen teacher run for every image of every epoch, attention with all its
logits in memory, Adam parameter by parameter. Both do the work of the same step: ``--images`` images, forward,
losses, backward, update. Four kinds of step are timed: both stages, in the half where intermediate features are aligned
and in the half where they are not; stages and halves are equally long in the recipe, so their sum is the cost of
training.

The engine's steps are timed twice: *cold*, each image seen for the first time, so that the teacher encodes it for the
cache; and *warm*, as in every later epoch (the published recipe has twenty).
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks._models import VITS, random_sam
from benchmarks._timing import busy, default_device, machine, seconds_in_turns
from compressors.aligning import Aligned, bottleneck_aligning, embedding_aligning
from compressors.distill.engine import Engine
from compressors.distill.teacher_outputs import TeacherEmbeddings
from compressors.prune.groups import find_groups
from compressors.prune.selection import keep_locally
from compressors.prune.surgery import prune
from data.batches import ImageBatch
from data.embeddings import MemoryEmbeddings
from evaluation.latency import PRECISIONS
from teachers.attention import Attention, attend_by_definition, relative_table
from teachers.image_encoder import ImageEncoder


@contextmanager
def textbook_attention() -> Iterator[None]:
    """Attention as the reference computes it: ``heads x tokens x tokens`` logits and their relative positions."""

    def forward(self: Attention, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        heads, tokens = self.num_heads, height * width
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        q_map = q.reshape(batch, heads, height, width, -1)
        rel_h = torch.einsum("bnhwd,hkd->bnhwk", q_map, relative_table(self.rel_pos_h, height))
        rel_w = torch.einsum("bnhwd,wkd->bnhwk", q_map, relative_table(self.rel_pos_w, width))
        out = attend_by_definition(q * self.scale, k, v, rel_h, rel_w)
        return self.proj(out.transpose(1, 2).reshape(batch, height, width, -1))

    with patch.object(Attention, "forward", forward):
        yield


class Case:
    """One kind of step: which encoders take part, and whether features are aligned."""

    def __init__(self, stage: int, aligned: bool, encoders: list[ImageEncoder]) -> None:
        self.stage, self.aligned, self.encoders = stage, aligned, encoders
        self.student = encoders[stage]

    def loss(self, target: Callable[[ImageBatch], Tensor]) -> Callable[[ImageBatch, int], object]:
        """The stage's loss; step 0 is in the aligned half, step 1 of 2 in the other."""
        v0, v1, student = self.encoders[0], self.encoders[1], self.student
        if self.stage == 1:
            return bottleneck_aligning(student, v0, target, aligned=Aligned(1))
        return embedding_aligning(student, v1, target, aligned=Aligned(1))

    @property
    def step(self) -> int:
        return 0 if self.aligned else 1


def plain_step(case: Case, batch: ImageBatch) -> Callable[[], None]:
    """The reference's step."""
    optimizer = torch.optim.Adam(case.student.parameters(), lr=1e-4, foreach=False)
    v0 = case.encoders[0]

    def target(batch: ImageBatch) -> Tensor:
        with torch.no_grad():
            return v0(batch.images)

    loss = case.loss(target)

    def run() -> None:
        with textbook_attention():
            for i in range(len(batch.names)):
                one = ImageBatch(batch.names[i : i + 1], batch.images[i : i + 1], batch.valid[i : i + 1])
                torch.stack(list(loss(one, case.step).values())).sum().backward()  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.zero_grad()

    return run


def engine_step(case: Case, batch: ImageBatch, engine: Engine, kept: MemoryEmbeddings | None) -> Callable[[], None]:
    """This engine's step, as its loop does it."""
    optimizer = torch.optim.Adam(case.student.parameters(), lr=1e-4, fused=True)
    loss = case.loss(TeacherEmbeddings(case.encoders[0], engine, kept))

    def run() -> None:
        with engine.autocast():
            terms = loss(batch, case.step)
        torch.stack([term.float() for term in terms.values()]).sum().backward()  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def encoders(name: str, ratio: float, device: torch.device) -> list[ImageEncoder]:
    """Teacher, student of stage 1 and student of stage 2, of random weights."""
    v0 = random_sam(name).image_encoder.to(device)
    groups, heads = find_groups(v0.config), v0.config.num_heads
    scores = {n: torch.rand(g.width) for n, g in groups.items()}
    embedding = {"embedding": scores.pop("embedding")}
    v1 = prune(v0, keep_locally(embedding, groups, ratio, heads))
    v2 = prune(v1, keep_locally(scores, groups, ratio, heads))
    return [v0, v1.requires_grad_(True), v2.requires_grad_(True)]


def main() -> None:
    """Parse the command line, measure, print one line a kind of step."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.distill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="sam_vit_b", choices=VITS)
    parser.add_argument("--ratio", type=float, default=0.77)
    parser.add_argument("--device", default=default_device())
    parser.add_argument("--precision", default="bfloat16", choices=tuple(PRECISIONS))
    parser.add_argument("--images", type=int, default=4, help="images a step; the engine takes them as one batch")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    device = torch.device(options.device)
    models = encoders(options.model, options.ratio, device)
    size, grid = models[0].config.image_size, models[0].config.grid
    images = torch.randn(options.images, 3, size, size, device=device)
    valid = torch.ones(options.images, grid, grid, dtype=torch.bool, device=device)
    names = tuple(f"image {i}" for i in range(options.images))
    batch = ImageBatch(names, images, valid, tuple(name.encode() for name in names))

    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(Path(folder), device, options.precision)
        where = f"{machine(device)}, {options.precision}"
        print(f"{options.model} at {size}, ratio {options.ratio}, {options.images} images a step; {where}")
        print(f"{'step':34} {'plain':>9} {'cold':>9} {'warm':>9} {'cold':>7} {'warm':>7}")
        totals = dict.fromkeys(("plain", "cold", "warm"), 0.0)
        for stage in (1, 2):
            for aligned in (True, False):
                case = Case(stage, aligned, models)
                works = {
                    "plain": plain_step(case, batch),
                    "cold": engine_step(case, batch, engine, None),
                    "warm": engine_step(case, batch, engine, MemoryEmbeddings()),
                }
                taken = seconds_in_turns(works, device, options.rounds)
                for name, value in taken.items():
                    totals[name] += value
                print(_line(f"stage {stage}, {'features aligned' if aligned else 'embedding alone'}", taken))
        print(_line("whole training", totals))


def _line(name: str, taken: dict[str, float]) -> str:
    ratios = " ".join(f"{taken['plain'] / taken[kind]:6.2f}x" for kind in ("cold", "warm"))
    return f"{name:34} {taken['plain']:8.3f}s {taken['cold']:8.3f}s {taken['warm']:8.3f}s {ratios}"


if __name__ == "__main__":
    main()
    print(busy())
