"""Result files as runs, failed runs and evaluations leave them, with names that no page may take for markup."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.result import ResultRow
from experiments.result_file import FAILED, NAME, write_result

THIRD = 1 / 3
HOSTILE = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(1)> | `x`'
ABOUT = {
    "config": {"seed": 0},
    "provenance": {
        "argv": ["method=slimsam", "name=a b"],
        "git_dirty": True,
        "versions": {"torch": "2.15.0", "python": "3.11.7"},
        "utc": "2026-11-20T08:00:00+00:00",
    },
    "student_sha256": "a" * 64,
    "teacher_sha256": "b" * 64,
    "paper": "arXiv 2312.05284",
}


def rows_of(run: str, seed: int, latency: float = 12.345678901234567, **columns: Any) -> list[ResultRow]:
    """Four rows as a run has them; ``columns`` are of the student's."""
    shared: dict[str, Any] = {
        "run_id": run, "data": "shapes", "protocol": "box_point@1", "status": "finished", "git_sha": "f" * 40,
        "instances": 7, "images": 2,
    }  # fmt: skip
    machine: dict[str, Any] = {"device": "a processor", "precision": "float32", "encoder_latency_ms": latency}
    machine |= {"latency_reference": "sam_pocket"}
    student: dict[str, Any] = {
        "ratio": 0.77, "student": "sam_pocket-slimsam-0.77", "seed": seed, "miou": 0.1 + 0.2 + seed / 7,
        "miou_point": THIRD / (1 + seed), "parameters": 1_000_001, "macs_full": 100_000_007, "macs_modules": 90_000_001,
        "encoder_latency_ratio": latency / 24.691357802469134, "size_bytes": 4_000_003,
        "images_seen": 6000, "skipped": {"crowd": 2, "a, b": 1},
    }  # fmt: skip
    return [
        ResultRow(method="filled_box", miou=0.6, **shared),
        ResultRow(method="filled_ellipse", miou=2 * THIRD, **shared),
        ResultRow(
            method="teacher", teacher="sam_pocket", miou=0.9, miou_point=0.8, parameters=2_863_849,
            macs_full=639_485_184, macs_modules=573_585_476, size_bytes=11_458_176,
            encoder_latency_ratio=1.0, **shared, **machine,
        ),
        ResultRow(**{"method": "slimsam", "teacher": "sam_pocket", **shared, **machine, **student, **columns}),
    ]  # fmt: skip


def write_runs(runs: Path) -> Path:
    """Two seeds of one model, another model, one with a hostile name, a failed run and an evaluation; the folder."""
    for seed in (0, 1):
        name = f"slimsam-r0.77-s{seed}-0000000{seed}"
        write_result(runs / name / NAME, rows_of(name, seed, 12.3 + seed), ABOUT)
    other = {"method": "mobilesam", "ratio": None, "student": "sam_pocket-tiny_vit", "macs_full": 50_000_000}
    write_result(runs / "mobilesam-s0-00000002" / NAME, rows_of("mobilesam-s0-00000002", 0, miou=0.75, **other), ABOUT)
    hostile = {"variant": HOSTILE, "miou": 1e-07, "macs_full": 70_000_000, "student": IMAGE}
    write_result(runs / "hostile-00000003" / NAME, rows_of(IMAGE, 0, **hostile), ABOUT)
    failed = ResultRow(
        run_id="slimsam-r0.5-s3-00000004", method="slimsam", ratio=0.5, teacher="sam_pocket", data="shapes",
        seed=3, status="failed", reason=f"TrainingDiverged: {HOSTILE}\nat step 7",
    )  # fmt: skip
    write_result(runs / str(failed.run_id) / FAILED, [failed], ABOUT)
    scored = replace(
        rows_of("x", 0)[2], run_id=None, status="evaluated", data="coco", protocol="detector_box_single@1", miou=None,
        miou_point=None, ap=0.1 * THIRD, ap_small=0.0, detections=800, instances=None, axes={"boxes": "detected"},
    )  # fmt: skip
    write_result(runs / "evaluations" / "sam_pocket-coco-00000005" / NAME, [scored], ABOUT)
    return runs


def page_data(html: str) -> dict[str, Any]:
    """What the page's scripts read."""
    text = html.partition('<script type="application/json" id="leaderboard">')[2].partition("</script>")[0]
    found: dict[str, Any] = json.loads(text)
    return found


def page_rows(html: str) -> list[dict[str, Any]]:
    """The rows of the page, each with the columns that any of them has."""
    rows = page_data(html)["rows"]
    columns = {
        name: [values["of"][place] for place in values["at"]] if isinstance(values, dict) else values
        for name, values in rows["columns"].items()
    }
    return [{name: values[place] for name, values in columns.items()} for place in range(rows["count"])]


def page_csv(html: str) -> str:
    """The CSV that the page holds for download."""
    return base64.b64decode(html.partition("data:text/csv;charset=utf-8;base64,")[2].partition('"')[0]).decode()
