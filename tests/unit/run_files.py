"""Folders of runs as the framework leaves them, made without a model: for tests of what is shown of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from core.result import ResultRow
from experiments.result_file import FAILED, NAME, write_result

WIDTHS: dict[str, Any] = {
    "teacher": {
        "kind": "vit",
        "embedding": 160,
        "heads": 5,
        "attention": [160, 160],
        "mlp": [640, 640],
        "parts": {"blocks 0": 3000, "blocks 1": 3000, "mask decoder": 1000},
    },
    "student": {
        "kind": "vit",
        "embedding": 40,
        "heads": 5,
        "attention": [40, 35],
        "mlp": [150, 140],
        "parts": {"blocks 0": 700, "blocks 1": 650, "mask decoder": 1000},
    },
}
QUANTISATION: dict[str, Any] = {
    "images": 8,
    "metric": "hessian",
    "order": "parallel",
    "layers": [
        {
            "layer": f"image_encoder.blocks.{number}.attn.qkv",
            "kind": "linear",
            "weight_bits": 6,
            "activation_bits": 6,
            "weight_sqnr_db": 30.0 + number,
            "output_sqnr_db": 21.5 - number,
        }
        for number in range(4)
    ]
    + [
        {
            "layer": "mask_decoder.transformer.layers.0.cross_attn_token_to_image.scores",
            "kind": "product",
            "weight_bits": None,
            "activation_bits": 6,
            "weight_sqnr_db": None,
            "output_sqnr_db": -1.25,
        }
    ],
}


def rows(**student: Any) -> list[ResultRow]:
    """A filled box, a teacher and a student of one run."""
    shared: dict[str, Any] = {
        "run_id": "slimsam-r0.77-s0-12345678",
        "status": "finished",
        "data": "shapes",
        "protocol": "box_point@1",
        "git_sha": "0123abc",
        "instances": 892,
        "images": 200,
    }
    machine = {"device": "AMD EPYC", "precision": "float32", "teacher": "sam_pocket"}
    of_teacher = {
        "miou": 0.9148276346829911,
        "miou_point": 0.8844,
        "parameters": 2864416,
        "macs_full": 639485184,
        "macs_modules": 573585476,
        "size_bytes": 11458176,
        "encoder_latency_ms": 23.438854499545414,
    }
    of_student = {
        "method": "slimsam",
        "student": "sam_pocket-slimsam-0.77",
        "ratio": 0.77,
        "seed": 0,
        "miou": 0.8701,
        "miou_point": 0.8216,
        "parameters": 1023000,
        "macs_full": 114500000,
        "macs_modules": 113800000,
        "size_bytes": 4090000,
        "encoder_latency_ms": 11.25,
        "images_seen": 5600,
    }
    return [
        ResultRow(method="filled_box", miou=0.5702, **shared),
        ResultRow(method="teacher", **shared, **machine, **of_teacher),  # type: ignore[arg-type]
        ResultRow(**{**shared, **machine, **of_student, **student}),  # type: ignore[arg-type]
    ]


def about(**changes: Any) -> dict[str, Any]:
    """What stands beside the rows."""
    return {
        "config": {
            "runs": "runs",
            "method": {"_target_": "compressors.slimsam.SlimSam", "ratio": 0.77, "betas": [0.9, 0.999]},
            "evaluation": {"data": {"_target_": "data.shapes.Shapes"}, "images": None},
            "force": False,
        },
        "provenance": {
            "git_sha": "0123abc",
            "git_dirty": True,
            "versions": {"python": "3.11", "torch": "2.15.0"},
            "device": "AMD EPYC",
            "argv": ["method=slimsam", "ratio=0.77"],
            "utc": "2026-01-02T03:04:05+00:00",
        },
        "student_sha256": "ab" * 32,
        "stages": ["embedding_aligning", "bottleneck_aligning"],
        "widths": WIDTHS,
        **changes,
    }


def log(path: Path, steps: int = 100, **parts: float) -> None:
    """A stage's log: an entry every tenth step, and the student's score every fiftieth."""
    lines: list[Mapping[str, Any]] = []
    for step in range(10, steps + 1, 10):
        figures = {name: first / step for name, first in (parts or {"loss": 5.0, "embedding": 3.0}).items()}
        reported = {"step": step, "images": 4 * step, "rate": 0.002 / step, "images_per_s": 20.0 + step % 7}
        lines.append({**reported, "peak_memory_bytes": 123456789, **figures})
        if step % 50 == 0:
            lines.append({"step": step, "miou": 0.5 + step / 1000, "miou_point": 0.4 + step / 1000})
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def finished(folder: Path, **changes: Any) -> Path:
    """A finished run with everything a run can leave; returns its result file."""
    folder.mkdir(parents=True)
    write_result(folder / NAME, rows(), about(**changes))
    log(folder / "embedding_aligning.jsonl")
    log(folder / "bottleneck_aligning.jsonl", 60, loss=2.0, window_qkv=1.0, mlp=0.5)
    (folder / "quantisation.json").write_text(json.dumps(QUANTISATION))
    (folder / "student.safetensors").write_bytes(bytes(4096))
    Image.new("RGB", (900, 600), (200, 120, 40)).save(folder / "masks.png")
    return folder / NAME


def failed(folder: Path, reason: str) -> Path:
    """A run that ended in an error; returns its file."""
    folder.mkdir(parents=True)
    row = ResultRow(run_id=folder.name, method="slimsam", teacher="sam_pocket", status="failed", reason=reason)
    write_result(folder / FAILED, [row], about())
    log(folder / "embedding_aligning.jsonl", 30)
    return folder / FAILED


def evaluation(folder: Path) -> Path:
    """One of ``evaluate``'s: a model under two protocols; returns its result file."""
    folder.mkdir(parents=True)
    shared: dict[str, Any] = {
        "method": "teacher",
        "teacher": "sam_pocket",
        "status": "evaluated",
        "data": "coco",
        "images": 80,
        "instances": 804,
        "parameters": 2864416,
        "skipped": {"crowd": 11},
    }
    axes = {"prompt": "box", "resize": "pillow"}
    found = [
        ResultRow(**shared, protocol="box_single@1", miou=0.2437, axes={**axes, "choice": "single"}),
        ResultRow(**shared, protocol="box_oracle@1", miou=0.2918, axes={**axes, "choice": "oracle"}),
    ]
    write_result(folder / NAME, found, about(provenance={"argv": ["checkpoint=sam_pocket"]}, widths=None))
    (folder / "instances.jsonl").write_text('{"iou": 0.5}\n')
    return folder / NAME
