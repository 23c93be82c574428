"""Where an exported image encoder spends its time, by kind of operator, in ONNX Runtime or OpenVINO.

``python -m benchmarks.runtime_profile FOLDER...``; needs the extra ``export``. Each folder (``export to=onnx``, or
``benchmarks.runtimes --keep``) encodes one image of random numbers ``--rounds`` times in one thread, with the runtime's
own profiler on, which slows it down a little. Without a folder ``sam_pocket`` is exported. Times are of one encoding,
in milliseconds; OpenVINO names what it computes a kind with and in (``brgemm_avx512_i8``).
"""

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from benchmarks._timing import busy, machine
from experiments.runs.checkpoints import find_model
from students.export.folder import export_model
from students.export.manifest import read_manifest
from students.export.runtimes import READS, sum_exactly

Times = Counter[str]
"""Milliseconds by kind of operator."""


def in_onnxruntime(path: Path, image: np.ndarray, rounds: int, scratch: Path) -> Times:
    """By ONNX Runtime's names of operators, after fusion."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.enable_profiling, options.profile_file_prefix = True, str(scratch / "profile")
    sum_exactly(options)
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantSharing"]
    )
    for _ in range(rounds):
        session.run(None, {session.get_inputs()[0].name: image})
    events = json.loads(Path(session.end_profiling()).read_text())
    found: Times = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found[event["args"]["op_name"]] += event["dur"] / 1e3 / rounds
    return found


def in_openvino(path: Path, image: np.ndarray, rounds: int, scratch: Path) -> Times:
    """By OpenVINO's names of what it executes."""
    import openvino

    core = openvino.Core()
    model = core.read_model(str(path))
    model.reshape(list(image.shape))
    settings = {"PERF_COUNT": "YES", "INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    found: Times = Counter()
    for _ in range(rounds):
        request.infer([image])
        for node in request.profiling_info:
            found[f"{node.node_type} {node.exec_type}"] += node.real_time.total_seconds() * 1e3 / rounds
    return found


PROFILES = {"onnxruntime": in_onnxruntime, "openvino": in_openvino}


def main() -> None:
    """Parse the command line, profile, print one line a kind."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtime_profile", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="exported with to=onnx")
    parser.add_argument("--runtime", choices=PROFILES, action="append", help="one of them (default: both)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", type=int, default=14, help="how many kinds are printed")
    options = parser.parse_args()
    print(f"one thread, {options.rounds} rounds; {machine(torch.device('cpu'))}")
    with tempfile.TemporaryDirectory() as scratch:
        folders: list[Path] = options.folders
        if not folders:
            folders = [Path(scratch) / "sam_pocket"]
            export_model(find_model("sam_pocket").model, folders[0], "onnx")
        for folder in folders:
            manifest = read_manifest(folder)
            size = manifest.frame
            image = np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)
            for runtime in options.runtime or READS[manifest.to]:
                times = PROFILES[runtime](folder / manifest.encoder.file, image, options.rounds, Path(scratch))
                print(f"{folder.name} in {runtime}, {manifest.precision}: {sum(times.values()):.1f} ms")
                for kind, milliseconds in times.most_common(options.kinds):
                    print(f"  {milliseconds:8.1f}  {kind}")
    print(busy())


if __name__ == "__main__":
    main()
