"""Short runs of every method, by its own settings: ``python -m tests.golden.short_runs`` writes what they give.

What is written is committed; a change of behaviour shows as a difference to it. Write it again only where the change is
meant, and say so in the commit.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import torch

from compressors.distill.engine import Engine
from compressors.method import RunContext
from core.checkpoint import write_text
from experiments.config.compose import settings_of
from experiments.config.targets import build_method, register
from experiments.runs.build import build_data, build_teacher
from experiments.scoring import EvaluationSet, score_model

FILE = Path(__file__).with_name("short_runs.json")
SHARED = ("data.count=16", "evaluation.images=4", "method.batch=2", "method.steps=3", "method.optimisation.warmup=0")
RUNS: dict[str, tuple[str, ...]] = {
    "slimsam": ("method=slimsam", "ratio=0.5", "method.importance_images=4", *SHARED),
    "scratch": ("method=scratch", "ratio=0.77", *SHARED),
    "mobilesam": ("method=mobilesam", "method.decoder_steps=2", *SHARED),
    "tinysam": ("method=tinysam", *SHARED),
    "ptq": (
        *("method=ptq", "method.images=2", "method.prompts=2", "method.rounds=1", "method.candidates=10"),
        *("method.weight_bits=4", "method.activation_bits=6", "data.count=16", "evaluation.images=4"),
    ),
}
FIGURES = ("miou", "miou_point")


def short_run(name: str, folder: Path) -> dict[str, Any]:
    """The loss parts of every step of every stage, and the student's figures on four held-out images.

    In float32 on the CPU, on ``shapes``, with seed 0.
    """
    register()
    with hydra.initialize_config_module("conf", version_base="1.3"):
        cfg = hydra.compose("config", list(RUNS[name]))
    settings = settings_of(cfg)
    device = torch.device("cpu")
    teacher = build_teacher(settings.teacher, device)
    # With one thread an operator, the teacher computes in the thread that makes batches.
    context = RunContext(settings.seed, folder, Engine(folder, workers=1, log_every=1), cache="memory")
    compressed = build_method(settings.method).compress(teacher, build_data(settings.data), context)
    stored = EvaluationSet(
        build_data(settings.evaluation.data), "shapes", range(settings.evaluation.images), 64, "box_point@1"
    )
    scores, _ = score_model(compressed.student, replace(stored))
    return {
        "losses": {
            path.stem: [_losses(json.loads(line)) for line in path.read_text().splitlines()]
            for path in sorted(folder.glob("*.jsonl"))
        },
        "parameters": sum(p.numel() for p in compressed.student.parameters()),
        **{key: scores[key] for key in FIGURES},
    }


def _losses(entry: dict[str, float]) -> dict[str, float]:
    """A line of a log without what a clock or the schedule says."""
    other = ("step", "images", "rate", "images_per_s", "peak_memory_bytes")
    return {key: value for key, value in entry.items() if key not in other}


def main() -> None:
    """Write the file anew."""
    argparse.ArgumentParser(prog="python -m tests.golden.short_runs", description=__doc__).parse_args()
    found = {}
    for name in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = short_run(name, Path(folder))
    write_text(FILE, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
