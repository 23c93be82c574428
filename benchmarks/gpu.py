"""All that only a GPU can show, in eight minutes: ``make gpu``, or ``python -m benchmarks.gpu``.

Each section leaves a file ``results/gpu/SECTION.json`` with the card, versions, commit and figures. A section
that fails is a file with its error, the others go on, and the exit status is 1. ``--device cpu`` runs the same sections
in small sizes, a dry run whose figures mean nothing: its files say so and stand elsewhere.
"""

import argparse
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks._models import random_sam
from benchmarks._timing import busy, default_device, seconds_in_turns
from benchmarks.distill import Case, encoders, engine_step
from compressors.distill.batch_norm import batch_norm
from compressors.distill.engine import Engine
from compressors.distill.optimizer import OptimizerConfig
from compressors.method import RunContext
from compressors.mobilesam import MobileSam
from core import distributed
from core.checkpoint import write_text
from core.cost import measure_cost
from core.provenance import ROOT, git_sha
from data.batches import ImageBatch
from data.embeddings import MemoryEmbeddings
from data.shapes import Shapes
from evaluation.latency import device_name, measure_latency
from evaluation.protocols import PROTOCOLS
from evaluation.scorer import Scorer
from students.student import Student
from teachers.weights import load_sam

LIMIT_S = 480.0
"""No section begins after this."""
TESTS_S = 150
VERSIONS = ("torch", "timm", "safetensors", "numpy")
Figures = dict[str, Any]


class Sections:
    """What is measured, a method each, in this order.

    Args:
        device: where.
        dry: in small sizes.
    """

    def __init__(self, device: torch.device, dry: bool) -> None:
        self.device, self.dry, self.rounds = device, dry, 1 if dry else 5
        # As in a run: float32 is not rounded to TF32.
        torch.backends.cudnn.allow_tf32 = False
        self.models = ("sam_pocket",) if dry else ("sam_vit_b", "sam_vit_h")

    def all(self) -> dict[str, Callable[[], Figures]]:
        """By name."""
        names = ("tests", "encoder", "embedding", "distillation", "evaluation", "float16", "nccl")
        return {name: getattr(self, name) for name in names}

    def tests(self) -> Figures:
        """The tests that need a device; a dry run only collects them."""
        files = [
            str(file) for file in sorted((ROOT / "tests").rglob("test_*.py")) if "pytest.mark.gpu" in file.read_text()
        ]
        words = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", *files, *(["--collect-only"] * self.dry)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=TESTS_S, check=False)
        if done.returncode:
            raise RuntimeError(f"pytest ended with status {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
        return {"summary": done.stdout.strip().splitlines()[-1]}

    def encoder(self) -> Figures:
        """Milliseconds and bytes of one image and one prompt."""
        found = {}
        for name in self.models:
            sam = random_sam(name).to(self.device)
            for precision in ("float32", "bfloat16"):
                latency = measure_latency(sam, runs=max(2, self.rounds), device=self.device, precision=precision)
                found[f"{name} {precision}"] = vars(latency)
        return found

    def embedding(self) -> Figures:
        """The teacher's cache: images a second in bfloat16, and the share of the measured peak of matrix products."""
        size = 256 if self.dry else 8192
        left, right = (torch.randn(size, size, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        peak = 2 * size**3 / seconds_in_turns({"peak": lambda: left @ right}, self.device, 5)["peak"]
        found: Figures = {"peak_flops": peak}
        for name in self.models:
            sam = random_sam(name)
            macs = measure_cost(sam).encoder_macs_full
            encoder, batches = sam.image_encoder.to(self.device), (1,) if self.dry else (1, 4, 8)
            for batch in batches:
                images = torch.randn(batch, 3, sam.input_size, sam.input_size, device=self.device)

                def work(encoder: Any = encoder, images: torch.Tensor = images) -> object:
                    with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16):
                        return encoder(images)

                rate = batch / seconds_in_turns({"encode": work}, self.device, self.rounds)["encode"]
                found[f"{name}, batch {batch}"] = {"images_per_s": rate, "share_of_peak": rate * 2 * macs / peak}
        return found

    def distillation(self) -> Figures:
        """SlimSAM's step with the teacher's embeddings cached, as the engine does it."""
        models = encoders(self.models[0], 0.77, self.device)
        config, count = models[0].config, 2 if self.dry else 4
        images = torch.randn(count, 3, config.image_size, config.image_size, device=self.device)
        valid = torch.ones(count, config.grid, config.grid, dtype=torch.bool, device=self.device)
        names = tuple(str(number) for number in range(count))
        batch = ImageBatch(names, images, valid, tuple(name.encode() for name in names))
        found: Figures = {"images_a_step": count}
        with tempfile.TemporaryDirectory() as folder:
            for precision in ("float32", "bfloat16"):
                engine = Engine(Path(folder), self.device, precision)
                for stage in (1, 2):
                    step = engine_step(Case(stage, True, models), batch, engine, MemoryEmbeddings())
                    taken = seconds_in_turns({"step": step}, self.device, self.rounds)["step"]
                    found[f"stage {stage}, {precision}"] = {"seconds": taken, "images_per_s": count / taken}
        return found

    def evaluation(self) -> Figures:
        """End to end with the teacher in the package: images read, encoded, prompted, decoded and compared."""
        count = 2 if self.dry else 200
        data = Shapes(split="validation", count=count)
        scorer = Scorer(load_sam("sam_pocket").to(self.device), [PROTOCOLS["box_single@1"]], image_batch_size=4)
        began = time.perf_counter()
        ious = [record.iou for record in scorer.score(data).instances("box_single@1")]
        taken = time.perf_counter() - began
        return {"images_per_s": count / taken, "instances": len(ious), "miou": sum(ious) / len(ious)}

    def float16(self) -> Figures:
        """Training in float16 with scaled losses ends with finite weights and a smaller loss."""
        with tempfile.TemporaryDirectory() as folder:
            precision = "bfloat16" if self.device.type == "cpu" else "float16"
            engine = Engine(Path(folder), self.device, precision, log_every=1)
            recipe = OptimizerConfig(lr=1e-3, optimizer="adamw", clip=1.0)
            method = MobileSam(
                Student(name="tiny_vit_pocket"), steps=1 if self.dry else 50, batch=4, optimisation=recipe
            )
            data = Shapes(split="train", count=16)
            compressed = method.compress(
                load_sam("sam_pocket").to(self.device), data, RunContext(0, Path(folder), engine)
            )
            lines = [json.loads(line) for line in (Path(folder) / "encoder.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
        if not all(weight.isfinite().all() for weight in compressed.student.parameters()):
            raise RuntimeError("weights are not finite")
        if not self.dry and losses[-1] >= losses[0]:
            raise RuntimeError(f"the loss did not fall: {losses[0]} to {losses[-1]}")
        return {
            "precision": precision,
            "losses": [losses[0], losses[-1]],
            "images_per_s": lines[-1].get("images_per_s"),
        }

    def nccl(self) -> Figures:
        """One process joins a group, exchanges tensors, and normalises a batch as PyTorch does alone."""
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        with tempfile.TemporaryDirectory() as folder:
            dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=0, world_size=1)
            try:
                sent = torch.arange(4.0, device=self.device)
                dist.all_reduce(sent)
                distributed.barrier()
                x = torch.randn(4, 3, 8, 8, device=self.device, requires_grad=True)
                mine, theirs = (
                    batch_norm(x, None, None, training=True),
                    torch.nn.functional.batch_norm(x, None, None, training=True),
                )
                difference = (mine - theirs).abs().max().item()
                gradients = [torch.autograd.grad((y * x.detach()).square().sum(), x)[0] for y in (mine, theirs)]
                difference = max(difference, (gradients[0] - gradients[1]).abs().max().item())
            finally:
                dist.destroy_process_group()
        if sent.tolist() != [0.0, 1.0, 2.0, 3.0] or difference > 1e-3:
            raise RuntimeError(f"{backend}: {sent.tolist()}, batch normalisation apart by {difference}")
        return {"backend": backend, "batch_norm_difference": difference}


def main() -> int:
    """Parse the command line, measure section by section, print a line each."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default=default_device())
    parser.add_argument("--out", type=Path, help="folder of the files; results/gpu, of a dry run runs/gpu_dry")
    parser.add_argument("--sections", nargs="+", help="some of them alone")
    options = parser.parse_args()
    device = torch.device(options.device)
    dry = device.type != "cuda"
    out = options.out or (Path("runs/gpu_dry") if dry else Path("results/gpu"))
    about = {
        "device": device_name(device),
        "dry_run": dry,
        "commit": git_sha(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS} | {"cuda": torch.version.cuda},
    }
    sections = Sections(device, dry).all()
    chosen = options.sections or list(sections)
    if unknown := [name for name in chosen if name not in sections]:
        parser.error(f"--sections {unknown[0]}: choose of {', '.join(sections)}")
    began, failed = time.monotonic(), False
    print(f"{about['device']}{', a dry run: figures mean nothing' if dry else ''}; files in {out}")
    for name in chosen:
        start = time.monotonic()
        found: Figures
        if start - began > LIMIT_S:
            found = {"error": f"not begun: {LIMIT_S:.0f} s are over"}
        else:
            try:
                found = {"figures": sections[name]()}
            except Exception as error:
                found = {"error": f"{type(error).__name__}: {error}"}
        failed |= "error" in found
        out.mkdir(parents=True, exist_ok=True)
        record = {"section": name, **about, "seconds": time.monotonic() - start, **found}
        write_text(out / f"{name}.json", json.dumps(record, indent=1) + "\n")
        print(f"{name:14} {record['seconds']:6.1f} s  {json.dumps(found)[:300]}", flush=True)
    return int(failed)


if __name__ == "__main__":
    status = main()
    print(busy())
    sys.exit(status)
