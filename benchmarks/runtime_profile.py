"""Where an exported image encoder, or decoder, spends its time, by kind of operator, in ONNX Runtime or OpenVINO.

``python -m benchmarks.runtime_profile FOLDER...``; needs the extra ``export``. Each folder (``export to=onnx``, or
``benchmarks.runtimes --keep``) encodes one image of random numbers ``--rounds`` times in one thread, with the runtime's
own profiler on, which slows it down a little; with ``--prompts N`` it decodes N boxes instead. Without a folder
``sam_pocket`` is exported. Times are of one encoding, or one decoding of all boxes, in milliseconds; OpenVINO names
what it computes a kind with and in (``brgemm_avx512_i8``).
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
from students.export.manifest import Manifest, read_manifest
from students.export.parts import ENCODER_INPUT, PROMPT_INPUTS, map_names
from students.export.runtimes import READS, sum_exactly

Times = Counter[str]
"""Milliseconds by kind of operator."""


Inputs = dict[str, np.ndarray]


def in_onnxruntime(path: Path, inputs: Inputs, rounds: int, scratch: Path) -> Times:
    """By ONNX Runtime's names of operators, after fusion."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.enable_profiling, options.profile_file_prefix = True, str(scratch / "profile")
    sum_exactly(options)
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantSharing"]
    )
    given = {entry.name: inputs[entry.name] for entry in session.get_inputs()}
    for _ in range(rounds):
        session.run(None, given)
    events = json.loads(Path(session.end_profiling()).read_text())
    found: Times = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found[event["args"]["op_name"]] += event["dur"] / 1e3 / rounds
    return found


def in_openvino(path: Path, inputs: Inputs, rounds: int, scratch: Path) -> Times:
    """By OpenVINO's names of what it executes."""
    import openvino

    core = openvino.Core()
    model = core.read_model(str(path))
    given = {name: inputs[name] for name in (entry.get_any_name() for entry in model.inputs)}
    if list(given) == [ENCODER_INPUT]:
        model.reshape(list(inputs[ENCODER_INPUT].shape))
    settings = {"PERF_COUNT": "YES", "INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    found: Times = Counter()
    for _ in range(rounds):
        request.infer(given)
        for node in request.profiling_info:
            found[f"{node.node_type} {node.exec_type}"] += node.real_time.total_seconds() * 1e3 / rounds
    return found


def random_inputs(manifest: Manifest, prompts: int) -> Inputs:
    """One image, or the maps of one and so many boxes, of random numbers, by the files' names."""
    draw, size, side = np.random.default_rng(0), manifest.frame, 4 * manifest.grid

    def normal(*shape: int) -> np.ndarray:
        return draw.standard_normal(shape, dtype=np.float32)

    if not prompts:
        return {ENCODER_INPUT: normal(1, 3, size, size)}
    maps = [
        normal(1, channels, scale * manifest.grid, scale * manifest.grid) for channels, scale in manifest.maps.values()
    ]
    corners = np.sort(draw.random((prompts, 2, 2), dtype=np.float32), 1) * size
    labels = np.tile(np.array([2, 3], np.float32), (prompts, 1))
    given = (*maps, corners, labels, np.zeros((1, 1, side, side), np.float32), np.zeros(1, np.float32))
    named = dict(zip((*map_names(manifest.maps), *PROMPT_INPUTS), given, strict=True))
    return named | {"orig_im_size": np.array([size, size], np.float32)}


PROFILES = {"onnxruntime": in_onnxruntime, "openvino": in_openvino}


def main() -> None:
    """Parse the command line, profile, print one line a kind."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtime_profile", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="exported with to=onnx")
    parser.add_argument("--runtime", choices=PROFILES, action="append", help="one of them (default: both)")
    parser.add_argument("--prompts", type=int, default=0, help="profile the mask decoder, with so many boxes at once")
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
            file = manifest.decoder.file if options.prompts else manifest.encoder.file
            inputs = random_inputs(manifest, options.prompts)
            for runtime in options.runtime or [name for name in READS[manifest.to] if name in PROFILES]:
                times = PROFILES[runtime](folder / file, inputs, options.rounds, Path(scratch))
                print(f"{folder.name} in {runtime}, {manifest.precision}: {sum(times.values()):.1f} ms")
                for kind, milliseconds in times.most_common(options.kinds):
                    print(f"  {milliseconds:8.1f}  {kind}")
    print(busy())


if __name__ == "__main__":
    main()
