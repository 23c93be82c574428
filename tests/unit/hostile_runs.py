"""What a run leaves behind, changed by somebody: states, grids, cached embeddings, results, records."""

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressors.distill.state import Progress, save_state
from compressors.quantize.calibration import GridCheckpoint
from core.checkpoint import write_safetensors
from core.result import ResultRow
from data.embeddings import DiskEmbeddings
from experiments.result_file import write_result
from students.quantized.plan import planned_copy
from students.quantized.scheme import Scheme
from teachers.sam import Sam
from tests.unit.hostile_files import Case
from tests.unit.hostile_folders import special
from tests.unit.hostile_pickles import TRAPS
from tests.unit.tiny import tiny_sam
from tests.unit.torch_files import torch_zip

CHANNELS, GRID, KEY = 4, 4, b"k" * 32
INSTANCE = {"image_id": 1, "annotation_id": 2, "area": 3.0, "iou": 0.5, "iou_pred": 0.5, "mask_index": 0}
Bytes = Callable[[bytes], bytes]


def parts() -> dict[str, Any]:
    """A model and its optimizer."""
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    return {"model": model, "optimizer": torch.optim.AdamW(model.parameters())}


def quantized() -> Sam:
    """A model whose grids are to be found."""
    return planned_copy(tiny_sam(), Scheme())


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _states()
    yield from _grids()
    yield from _shards()
    yield from _results()
    yield from _records()


def _states() -> Iterator[Case]:
    def saved(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            save_state(folder / "a.state", "key", parts(), Progress(step=3))
            torch.save(change(torch.load(folder / "a.state")), folder / "a.state")
            return folder / "a.state"

        return make

    begins: dict[str, Callable[[dict[str, Any]], Any]] = {
        "other_key": lambda s: s | {"key": "other"},
        "key_of_a_tensor": lambda s: s | {"key": torch.zeros(3)},
        "a_list": lambda s: [s],
        "parts_of_a_number": lambda s: s | {"parts": 3},
        "other_parts": lambda s: s | {"parts": {"model": {}}},
        "no_progress": lambda s: {k: v for k, v in s.items() if k != "progress"},
        "progress_of_text": lambda s: s | {"progress": s["progress"] | {"step": "3"}},
        "negative_progress": lambda s: s | {"progress": s["progress"] | {"step": -3}},
        "unknown_progress": lambda s: s | {"progress": s["progress"] | {"__class__": 1}},
    }
    refused: dict[str, Callable[[dict[str, Any]], Any]] = {
        "other_shape": lambda s: (
            s | {"parts": s["parts"] | {"model": {"weight": torch.zeros(9), "bias": torch.ones(2)}}}
        ),
        "no_weights": lambda s: s | {"parts": s["parts"] | {"model": {}}},
        "model_of_text": lambda s: s | {"parts": s["parts"] | {"model": "text"}},
        "optimizer_of_another": lambda s: s | {"parts": s["parts"] | {"optimizer": {"state": {}, "param_groups": []}}},
        "random_of_text": lambda s: s | {"random": "text"},
        "short_random": lambda s: s | {"random": torch.zeros(3, dtype=torch.uint8)},
    }
    for name, change in begins.items():
        yield Case(f"state_{name}", "state", saved(change), "step=0", read=True)
    for name, change in refused.items():
        yield Case(f"state_{name}", "state", saved(change), "does not fit its stage .* remove it")
    trap = pickle.dumps(TRAPS["os.system"], 2)
    yield Case("state_trap", "state", lambda f: torch_zip(f / "a.state", trap), "step=0", read=True)
    yield Case("state_empty", "state", _written("a.state", b""), "step=0", read=True)
    for kind in ("pipe", "/dev/zero", "folder"):
        yield Case(f"state_{kind.strip('/')}", "state", _special("a.state", kind), "step=0", read=True)


def _grids() -> Iterator[Case]:
    def saved(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            found = GridCheckpoint(folder / "grids.safetensors", "key", quantized())
            tensors, reported = found._grids(), {"key": "key", "done": [], "errors": []}
            reported |= {"done": ["image_encoder.blocks.0.mlp.lin1"], "errors": [{}]}
            change(tensors, reported)
            write_safetensors(folder / "grids.safetensors", tensors, reported)
            return folder / "grids.safetensors"

        return make

    for name, change in {
        "other_key": lambda t, reported: reported.update(key="other"),
        "unknown": lambda t, reported: t.update(x=torch.zeros(1)),
        "missing": lambda t, reported: t.pop(next(iter(t))),
        "other_shape": lambda t, reported: t.update({next(iter(t)): torch.zeros(1, 1, 1)}),
        "nan": lambda t, reported: t.update({next(iter(t)): next(iter(t.values())) * float("nan")}),
        "done_of_text": lambda t, reported: reported.update(done="all"),
        "done_of_another": lambda t, reported: reported.update(done=["os.system"]),
        "more_errors": lambda t, reported: reported.update(errors=[{}, {}]),
    }.items():
        yield Case(f"grids_{name}", "grids", saved(change), r"^\[\]$", read=True)
    yield Case("grids_damaged", "grids", _written("grids.safetensors", b"\xff" * 100), r"^\[\]$", read=True)


def _shards() -> Iterator[Case]:
    def changed(change: Bytes) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            cache = DiskEmbeddings(folder, CHANNELS, GRID)
            cache.put(KEY, torch.ones(CHANNELS, GRID, GRID), torch.ones(GRID, GRID, dtype=torch.bool))
            (shard,) = folder.glob("*.shard")
            shard.write_bytes(change(shard.read_bytes()))
            return folder

        return make

    for name, change in {
        "flipped_value": lambda c: c[:80] + bytes([c[80] ^ 1]) + c[81:],
        "flipped_sum": lambda c: c[:-1] + bytes([c[-1] ^ 1]),
        "torn": lambda c: c[:-5],
        "only_its_header": lambda c: c[:30],
        "other_shape": lambda c: c[:22] + b"\xff" * 8 + c[30:],
        "pickle": lambda c: pickle.dumps(TRAPS["os.system"]),
        "empty": lambda c: b"",
    }.items():
        yield Case(f"shard_{name}", "shard", changed(change), "made again", read=True)
    for kind in ("pipe", "/dev/zero", "/etc/passwd", "loop", "folder"):
        make = _special("a.shard", kind)
        yield Case(f"shard_{kind.strip('/')}", "shard", lambda f, m=make: m(f).parent, "made again", read=True)  # type: ignore[misc]


def _results() -> Iterator[Case]:
    row = ResultRow(method="teacher", status="finished")

    def reported(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            write_result(folder / "result.json", [row], {})
            content = change(json.loads((folder / "result.json").read_text()))
            (folder / "result.json").write_text(content if isinstance(content, str) else json.dumps(content))
            return folder / "result.json"

        return make

    def column(**values: Any) -> Callable[[dict[str, Any]], Any]:
        return lambda c: {"rows": [c["rows"][0] | values]}

    for name, change in {
        "list": lambda c: [],
        "no_rows": lambda c: {"rows": []},
        "row_of_text": lambda c: {"rows": ["os.system"]},
        "deep": lambda c: '{"rows": ' + "[" * 100_000,
        "long": lambda c: " " * (9 << 20),
        "twice": lambda c: '{"rows": [], "rows": []}',
        "not_json": lambda c: "import os",
        "unknown": column(**{"\x1b]0;evil\x07\nerror": 1}),
        "status": column(status="<script>alert(1)</script>"),
        "long_status": column(status="x" * 1_000_000),
        "miou_of_nan": column(miou=float("nan")),
        "miou_of_text": column(miou="1"),
        "huge_number": column(parameters=1.5),
        "version": column(schema_version=[99]),
    }.items():
        yield Case(f"result_{name}", "result", reported(change), "again")
    for kind in ("pipe", "/dev/zero", "/etc/passwd", "loop", "folder"):
        yield Case(f"result_{kind.strip('/')}", "result", _special("result.json", kind), "again")


def _records() -> Iterator[Case]:
    for name, line in {
        "not_json": "import os",
        "list": "[1]",
        "deep": "[" * 100_000,
        "no_protocol": json.dumps(INSTANCE),
        "unknown": json.dumps({"protocol": "a", **INSTANCE, "__class__": 1}),
        "text": json.dumps({"protocol": "a", **INSTANCE, "iou": "<script>"}),
        "not_utf8": "\udcff",
    }.items():
        content = f"{line}\n".encode(errors="surrogateescape")
        yield Case(f"records_{name}", "instances", _written("instances.jsonl", content), "evalua")
        lines = json.dumps({"key": "key"}).encode() + b"\n" + content
        yield Case(f"part_{name}", "parts", _written("part-0.jsonl", lines), r"^\{\}$", read=True)
    for kind in ("pipe", "/dev/zero", "folder", "loop"):
        yield Case(
            f"records_{kind.strip('/')}", "instances", _special("instances.jsonl", kind), "give the folder|evalua"
        )
        yield Case(f"part_{kind.strip('/')}", "parts", _special("part-0.jsonl", kind), r"^\{\}$", read=True)


def _written(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _special(name: str, kind: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        special(folder / name, kind)
        return folder / name

    return make
