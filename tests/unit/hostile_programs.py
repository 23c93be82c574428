"""Programs of torch.export that would run something when they are opened or used."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from tests.unit.hostile_exports import export
from tests.unit.hostile_files import CANARY, Case
from tests.unit.hostile_pickles import TRAPS


def cases() -> Iterator[Case]:
    """All of them."""
    for name, change in programs().items():
        yield Case(f"program_{name}.pt2", "export", _program(change), "export it again")
    yield Case("program_of_a_later_zip.pt2", "export", _program(lambda m: m, later=True), "export it again")


def _archive() -> dict[str, bytes]:
    """Members of a program that PyTorch exported."""
    if not _KEPT:
        made = io.BytesIO()
        torch.export.save(torch.export.export(torch.nn.Linear(2, 2).eval(), (torch.zeros(1, 2),)), made)
        with zipfile.ZipFile(made) as archive:
            _KEPT.update({name.partition("/")[2]: archive.read(name) for name in archive.namelist()})
    return dict(_KEPT)


_KEPT: dict[str, bytes] = {}
_GRAPH, _WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
_CONSTANTS = "data/constants/model_constants_config.json"
Members = dict[str, bytes]


def _reported(members: Members, name: str, change: Callable[[Any], object]) -> Members:
    reported = json.loads(members[name])
    change(reported)
    return {**members, name: json.dumps(reported).encode()}


def programs() -> dict[str, Callable[[Members], Members]]:
    """Programs of torch.export that would run something when they are opened or used."""
    trap = io.BytesIO()
    torch.save(TRAPS["os.system"], trap)
    evil, plain = trap.getvalue(), pickle.dumps(TRAPS["os.system"])
    code = "__import__('os').system('touch marker')"

    def nodes(reported: Any) -> Any:
        return reported["graph_module"]["graph"]["nodes"]

    def targets(target: str) -> Callable[[Members], Members]:
        return lambda m: _reported(m, _GRAPH, lambda reported: nodes(reported)[0].update(target=target))

    def pickled(reported: Any) -> None:
        next(iter(reported["config"].values())).update(use_pickle=True)

    def sized(reported: Any) -> None:
        next(iter(reported["config"].values()))["tensor_meta"]["sizes"] = [{"as_int": 1 << 40}]

    def opaque(reported: Any) -> None:
        reported["config"]["c"] = {
            "path_name": "opaque_obj_0",
            "is_param": False,
            "use_pickle": True,
            "tensor_meta": None,
        }

    endless = "Pow(Pow(Integer(9), Integer(4)), Integer(4))"
    spec = json.dumps([1, {"type": "builtins.tuple", "context": json.dumps({"__enum__": True, "fqn": f"{CANARY}:A"})}])
    return {
        "weights_as_a_pickle": lambda m: _reported({**m, "data/weights/weight_0": evil}, _WEIGHTS, pickled),
        "old_weights": lambda m: {**m, "data/weights/model.pt": evil},
        "inputs_as_a_pickle": lambda m: {**m, "data/sample_inputs/model.pt": evil},
        "inputs_as_a_bare_pickle": lambda m: {**m, "data/sample_inputs/model.pt": plain},
        "opaque_object": lambda m: _reported({**m, "data/constants/opaque_obj_0": plain}, _CONSTANTS, opaque),
        "compiled_library": lambda m: {**m, "data/aotinductor/model/model.so": b"\x7fELF"},
        "extra_file": lambda m: {**m, "extra/../../escaped": b"x"},
        "second_graph": lambda m: {**m, "models/other.json": m[_GRAPH]},
        "older_format": lambda m: {"serialized_exported_program.json": m[_GRAPH], "version": b"8.0"},
        "loads_the_hub": targets("torch.hub.load"),
        "loads_a_file": targets("torch.ops.aten.from_file.default"),
        "saves_a_file": targets("torch.ops.aten.save.default"),
        "calls_os": targets("torch.serialization.os.system"),
        "calls_methods": targets("_operator.methodcaller"),
        "another_library": targets("torch.ops.evil.run.default"),
        "expression": lambda m: _reported(m, _GRAPH, lambda t: nodes(t)[0].update(x={"expr_str": code})),
        "power": lambda m: _reported(m, _GRAPH, lambda t: nodes(t)[0].update(x={"expr_str": "9**9**9"})),
        "named_power": lambda m: _reported(m, _GRAPH, lambda t: nodes(t)[0].update(x={"expr_str": endless})),
        "guard": lambda m: _reported(m, _GRAPH, lambda t: t.update(guards_code=[code])),
        "name": lambda m: _reported(m, _GRAPH, lambda t: nodes(t)[0].update(name="x; import os")),
        "structure": lambda m: _reported(m, _GRAPH, lambda t: t["graph_module"].update(in_spec=spec)),
        "huge_weight": lambda m: _reported(m, _WEIGHTS, sized),
        "no_weight": lambda m: {name: part for name, part in m.items() if name != "data/weights/weight_0"},
        "no_graph": lambda m: {name: part for name, part in m.items() if name != _GRAPH},
        "deep": lambda m: {**m, _GRAPH: b"[" * 100_000},
        "empty": lambda m: {},
    }


def _program(change: Callable[[Members], Members], later: bool = False) -> Callable[[Path], Path]:
    """A program of changed members; ``later`` has them ask for a version of zip that there is not."""

    def make(folder: Path) -> Path:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            for name, content in change(_archive()).items():
                archive.writestr(f"model/{name}", content)
                archive.getinfo(f"model/{name}").extract_version = 99 if later else 20
        return export(folder, "torch", {"encoder": made.getvalue(), "decoder": made.getvalue()})

    return make
