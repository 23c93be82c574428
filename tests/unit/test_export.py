"""Exported files answer as the model they were made of, in the runtimes that people have."""

import pytest

pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from PIL import Image
from torch import Tensor

from core.errors import InputError, RunFailed
from core.geometry import upscale_logits
from core.protocols import Prompt, Segmenter
from data.images import to_frame
from data.shapes import Shapes
from evaluation.mask_measures import pairwise_iou
from experiments.cli.command_line import main
from students.export.folder import check_export, export_model
from students.export.manifest import MANIFEST, Manifest, read_manifest
from students.export.onnx_files import exported, write_decoder
from students.export.parts import DECODER_INPUTS, EncoderPart, example_prompts, prepared
from students.export.placing import replacing_folder
from students.export.segmenter import ExportedSam
from students.student import Student
from teachers.sam import Sam, SamConfig
from teachers.weights import load_sam
from tests.unit.tiny import ENCODER, TinyStudent, tiny_sam


@pytest.fixture(scope="module")
def pocket() -> Sam:
    return load_sam("sam_pocket")


@pytest.fixture(scope="module")
def folder(pocket_onnx: Path) -> Path:
    """The pocket teacher as ONNX files."""
    return pocket_onnx


def images(count: int = 3) -> list[tuple[Tensor, Prompt, tuple[int, int]]]:
    """Images as the model takes them, boxes of their objects, and their sizes."""
    data, found = Shapes("validation", count), []
    for index in range(count):
        sample = data.sample(index)
        prompt = Prompt(boxes_xyxy=torch.from_numpy(sample.boxes_xyxy))
        found.append((to_frame(sample.image, 128)[None], prompt, sample.image.shape[:2]))
    return found


def agreement(model: Segmenter, reference: Sam) -> tuple[float, float]:
    """The largest difference of logits, and the least IoU of a mask with the reference's, on ``shapes``."""
    differences, ious = [], []
    for image, prompt, size_hw in images():
        for multimask in (False, True):
            with torch.inference_mode():
                expected = reference.decode(reference.encode(image), prompt, size_hw, multimask)
                found = model.decode(model.encode(image), prompt, size_hw, multimask)
            differences.append(float((found.logits - expected.logits).abs().max()))
            masks = (found.binary(size_hw).flatten(0, 1), expected.binary(size_hw).flatten(0, 1))
            ious.append(float(pairwise_iou(*masks).min()))
    return max(differences), min(ious)


@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def test_masks_are_the_models(folder: Path, pocket: Sam, runtime: str) -> None:
    model = ExportedSam(folder, runtime)
    assert isinstance(model, Segmenter) and (model.name, model.input_size) == ("sam_pocket", 128)
    difference, iou = agreement(model, pocket)
    assert difference < 1e-3 and iou >= 0.98


@pytest.mark.parametrize("vnni", [True, False])
def test_onnx_runtime_sums_exactly_on_any_processor(folder: Path, vnni: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # The slower sums, where the processor's own would saturate, and nowhere else.
    seen: list[onnxruntime.SessionOptions] = []
    session = onnxruntime.InferenceSession

    def opened(path: str, options: onnxruntime.SessionOptions, **rest: Any) -> onnxruntime.InferenceSession:
        seen.append(options)
        return session(path, options, **rest)

    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    ExportedSam(folder)
    for options in seen:
        if vnni:
            with pytest.raises(RuntimeError, match="x64quantprecision"):
                options.get_session_config_entry("session.x64quantprecision")
        else:
            assert options.get_session_config_entry("session.x64quantprecision") == "1"
    assert len(seen) == 2


@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def test_every_form_of_a_prompt(folder: Path, pocket: Sam, runtime: str) -> None:
    model, size_hw = ExportedSam(folder, runtime), (96, 128)
    images = torch.randn(3, 3, 128, 128)
    with torch.inference_mode():
        expected = pocket.encode(images)
        # A batch of any size; OpenVINO has a compiled model for one image alone.
        for count in (1, 3, 1):
            assert torch.allclose(model.encode(images[:count]), expected[:count], atol=1e-4)
        embedding = expected[:1]
        boxes = torch.tensor([[10.0, 20.0, 60.0, 70.0], [0.0, 0.0, 127.0, 90.0], [30.0, 5.0, 90.0, 80.0]])
        points, labels = torch.rand(3, 4, 2) * 90, torch.tensor([[1, 0, 1, -1]]).expand(3, -1)
        masks = torch.randn(3, 1, 64, 64) * 5
        for prompt in (
            Prompt(boxes_xyxy=boxes),
            Prompt(boxes_xyxy=boxes[:1]),
            Prompt(points_xy=points, labels=labels),
            Prompt(points_xy=points[:1, :1], labels=labels[:1, :1]),
            Prompt(boxes, points, labels, masks),
            Prompt(mask_logits=masks),
            Prompt(points_xy=points[:, :1], labels=labels[:, :1], mask_logits=masks),
        ):
            for multimask in (False, True):
                needed = pocket.decode(embedding, prompt, size_hw, multimask)
                found = model.decode(embedding, prompt, size_hw, multimask)
                assert found.logits.shape == needed.logits.shape and found.frame == needed.frame
                assert torch.allclose(found.logits, needed.logits, atol=2e-3)
                assert torch.allclose(found.iou_pred, needed.iou_pred, atol=1e-4)


def test_the_decoder_is_laid_out_as_sams_own(folder: Path) -> None:
    session = onnxruntime.InferenceSession(folder / "decoder.onnx", providers=["CPUExecutionProvider"])
    inputs = {value.name: value.shape for value in session.get_inputs()}
    assert inputs == {
        "image_embeddings": [1, 128, 16, 16],
        "point_coords": ["prompts", "points", 2],
        "point_labels": ["prompts", "points"],
        "mask_input": ["masks", 1, 64, 64],
        "has_mask_input": ["masks"],
        "orig_im_size": [2],
    }
    outputs = {value.name: value.shape for value in session.get_outputs()}
    assert outputs["low_res_masks"] == ["prompts", 4, 64, 64] and outputs["iou_predictions"] == ["prompts", 4]
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["model"] == "sam_pocket" and facts["frame"] == "128" and facts["licence"] == "Apache-2.0"
    assert json.loads(facts["pixel_mean"]) == [123.675, 116.28, 103.53]
    assert [(entry.domain, entry.version) for entry in onnx.load(folder / "decoder.onnx").opset_import] == [("", 18)]
    encoder = onnxruntime.InferenceSession(folder / "encoder.onnx", providers=["CPUExecutionProvider"])
    assert encoder.get_inputs()[0].shape == ["batch", 3, 128, 128]

    given = dict(zip(DECODER_INPUTS, (part.numpy() for part in example_prompts(load_sam("sam_pocket"))), strict=True))
    for size_hw in ((90, 120), (301, 7), (128, 128)):
        masks, low_res = session.run(
            ["masks", "low_res_masks"], {**given, "orig_im_size": np.array(size_hw, np.float32)}
        )
        expected = upscale_logits(torch.from_numpy(low_res), size_hw, 128)
        assert masks.shape == (2, 4, *size_hw) and torch.allclose(torch.from_numpy(masks), expected, atol=1e-3)


def test_a_file_holds_no_notes_of_the_machine_it_was_made_on(folder: Path) -> None:
    for file in (folder / "encoder.onnx", folder / "decoder.onnx"):
        content = file.read_bytes()
        assert b"stack_trace" not in content and str(Path(__file__).parents[2]).encode() not in content


@pytest.mark.slow
def test_the_command_scores_the_files(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["evaluation.images=4", "evaluation.latency_runs=1", "format=json"]
    rows = {}
    for name, checkpoint, more in (
        ("pytorch", "sam_pocket", []),
        ("onnxruntime", str(folder), []),
        ("openvino", str(folder), ["runtime=openvino"]),
    ):
        capfd.readouterr()
        assert main(["evaluate", f"checkpoint={checkpoint}", *words, *more]) == 0
        rows[name] = json.loads(capfd.readouterr().out)["rows"][0]
    manifest = read_manifest(folder)
    for name in ("onnxruntime", "openvino"):
        row = rows[name]
        for column in ("miou", "miou_point"):
            assert abs(row[column] - rows["pytorch"][column]) < 1e-3
        for column in ("parameters", "macs_full", "encoder_macs_modules", "teacher", "method"):
            assert row[column] == rows["pytorch"][column]
        of = {"onnxruntime": "", "openvino": " (onnx)"}[name]
        assert row["variant"] == f"{name} fp32{of}" and row["precision"] == "float32" and row["encoder_latency_ms"] > 0
        assert row["size_bytes"] == manifest.bytes == sum(f.stat().st_size for f in folder.glob("*coder*"))


def test_the_files_predict_and_segment_everything(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sample = Shapes("validation", 1).sample(0)
    Image.fromarray(sample.image).save("scene.png")
    box = ",".join(f"{value:g}" for value in sample.boxes_xyxy[0])
    found, everything = {}, {}
    for checkpoint, runtime in (("sam_pocket", None), (str(folder), "onnxruntime")):
        capfd.readouterr()
        assert main(["predict", f"checkpoint={checkpoint}", "image=scene.png", f"box=[{box}]", "format=json"]) == 0
        (row,) = json.loads(capfd.readouterr().out)["rows"]
        assert (row["model"], row["runtime"]) == ("sam_pocket", runtime)
        found[runtime] = np.asarray(Image.open(row["mask"])) > 0
        words = [f"checkpoint={checkpoint}", "draw=false", "format=json", "generator.points_per_side=4"]
        assert main(["everything", *words, "image=scene.png", f"out={runtime}"]) == 0
        assert main(["everything", *words, "evaluation=shapes", "evaluation.images=1", f"out={runtime}-scores"]) == 0
        everything[runtime] = json.loads((tmp_path / str(runtime) / "scene.json").read_text())["annotations"]
        (scores,) = [json.loads(path.read_text()) for path in (tmp_path / f"{runtime}-scores").glob("*.json")]
        assert (scores["rows"][0]["runtime"], scores["rows"][0]["precision"]) == (runtime, "float32")
    assert np.mean(found[None] != found["onnxruntime"]) < 1e-3 and found[None].any()
    assert len(everything[None]) == len(everything["onnxruntime"]) > 0
    for ours, theirs in zip(everything[None], everything["onnxruntime"], strict=True):
        assert ours["bbox"] == pytest.approx(theirs["bbox"], abs=1) and ours["area"] == pytest.approx(
            theirs["area"], rel=0.01
        )


REFUSED = [
    ("export checkpoint=sam_pocket", ["out is missing"]),
    ("export checkpoint=sam_pocket out=x to=onyx", ["to=onyx", "did you mean onnx"]),
    ("export checkpoint=sam_pocket out=x precision=fp16", ["precision=fp16", "fp32"]),
    ("export checkpoint=sam_pocket out=x precision=int8", ["precision=int8", "method=ptq"]),
    ("export checkpoint=sam_pocket out=x precision=bf16", ["precision=bf16", "to=openvino"]),
    ("export checkpoint=sam_pocket out=x precision=w4 to=openvino", ["precision=w4", "to=onnx"]),
    ("export checkpoint=sam_pocket out=x precision=w4 group_size=48", ["group_size=48", "32, 64, 128"]),
    ("export checkpoint=sam_pocket out=x group_size=64", ["group_size=64 is of precision=w8 and w4", "precision=fp32"]),
    ("export checkpoint=sam_pocket out=x to=torch upscale=false", ["upscale=false is of to=onnx", "leave it out"]),
    (
        "predict checkpoint=FOLDER/encoder.onnx image=SCENE box=[1,1,9,9]",
        ["file of an exported folder; give checkpoint="],
    ),
    ("latency checkpoint=sam_pocket,FOLDER runtime=tvm", ["runtime=tvm", "onnxruntime, openvino"]),
    ("latency checkpoint=sam_pocket,FOLDER@tvm", ["runtime=tvm", "onnxruntime, openvino"]),
    ("latency checkpoint=sam_pocket,sam_pocket runtime=openvino", ["runtime=openvino", "has no exported folder"]),
    ("latency checkpoint=sam_pocket,sam_pocket@openvino", ["runtime=openvino: sam_pocket is no exported folder"]),
    ("export checkpoint=sam_pocket out=TAKEN", ["out=", "holds other files"]),
    ("evaluate checkpoint=sam_pocket runtime=openvino", ["runtime=openvino", "no exported folder"]),
    ("evaluate checkpoint=FOLDER runtime=tvm", ["runtime=tvm", "onnxruntime, openvino"]),
    ("evaluate checkpoint=FOLDER evaluation.precision=bfloat16", ["evaluation.precision=bfloat16"]),
    ("evaluate checkpoint=FOLDER engine.device=cuda", ["engine.device=cuda"]),
    ("predict checkpoint=sam_pocket image=SCENE box=[1,1,9,9] runtime=openvino", ["runtime=openvino", "no exported"]),
    ("predict checkpoint=FOLDER image=SCENE box=[1,1,9,9] engine.device=cuda", ["engine.device=cuda"]),
    ("everything checkpoint=FOLDER image=SCENE runtime=tvm", ["runtime=tvm", "onnxruntime, openvino"]),
    ("everything checkpoint=FOLDER evaluation=shapes evaluation.precision=bfloat16", ["evaluation.precision"]),
    ("convert checkpoint=FOLDER to=sampress out=x.safetensors", ["exported folder", "evaluate"]),
    ("evaluate checkpoint=BROKEN", ["decoder.onnx", "no such file"]),
    ("evaluate checkpoint=FOREIGN", [MANIFEST, "export it again"]),
]


def test_what_cannot_be_done_is_reported_in_one_line(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"FOLDER": folder, **{name: tmp_path / name for name in ("TAKEN", "BROKEN", "FOREIGN")}}
    for name in ("TAKEN", "BROKEN", "FOREIGN"):
        places[name].mkdir()
    (places["TAKEN"] / "thesis.txt").write_text("mine")
    (places["BROKEN"] / MANIFEST).write_text((folder / MANIFEST).read_text())
    (places["BROKEN"] / "encoder.onnx").write_bytes(b"onnx")
    (places["FOREIGN"] / MANIFEST).write_text("{}")
    places["SCENE"] = tmp_path / "scene.png"
    Image.fromarray(Shapes("validation", 1).image(0)).save(places["SCENE"])
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    for command, said in REFUSED:
        for name, path in places.items():
            command = command.replace(name, str(path))
        capfd.readouterr()
        status = main(command.split(" "))
        lines = capfd.readouterr().err.strip().splitlines()
        assert status == 2 and len(lines) == 1 and all(part in lines[0] for part in said), (command, lines)
    assert not list(place.iterdir()) and [path.name for path in places["TAKEN"].iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_without_upscaling_no_shape_depends_on_a_value(tmp_path: Path) -> None:
    write_decoder(tmp_path / "decoder.onnx", prepared(tiny_sam()), {}, upscale=False)
    decoder = onnx.load(tmp_path / "decoder.onnx").graph
    names = {value.name for value in (*decoder.input, *decoder.output)}
    assert not names & {"orig_im_size", "masks"} and {"low_res_masks", "iou_predictions"} <= names


def test_files_that_answer_otherwise_are_refused(folder: Path, pocket: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        changed = prepared(pocket)
        changed.mask_decoder.iou_token.weight.add_(1)
    with pytest.raises(RunFailed, match=r"decoder\.onnx answers otherwise .* in onnxruntime\); nothing was written"):
        check_export(changed, ExportedSam(folder))


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for content in ("first", "second"):
        with replacing_folder(out) as temporary:
            (temporary / "file").write_text(content)
    with pytest.raises(RunFailed), replacing_folder(out) as temporary:
        (temporary / "file").write_text("third")
        raise RunFailed("wrong")
    assert (out / "file").read_text() == "second" and [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture(scope="module")
def of_pytorch(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """A tiny model as PyTorch's own files, and what was found when they were checked."""
    folder = tmp_path_factory.mktemp("torch") / "out"
    return folder, export_model(tiny_sam(), folder, "torch", "bf16")


@pytest.mark.slow
def test_pytorchs_own_files_answer_as_the_model(of_pytorch: tuple[Path, Manifest]) -> None:
    _, manifest = of_pytorch
    assert (manifest.encoder.precision, manifest.decoder.precision) == ("bf16", "fp32")
    assert manifest.difference["encoder"] < 0.05 and manifest.difference["decoder_masks"] < 1e-5


@pytest.mark.slow
def test_pytorchs_own_files_load_without_this_project(of_pytorch: tuple[Path, Manifest]) -> None:
    script = """
import torch
encoder, decoder = (torch.export.load(name).module() for name in ("encoder.pt2", "decoder.pt2"))
embedding = encoder(torch.zeros(3, 3, 64, 64))
logits, ious = decoder(embedding[:1], torch.zeros(5, 2, 2), torch.ones(5, 2), torch.zeros(5, 1, 16, 16), torch.zeros(5))
assert not {"students", "teachers", "core"} & set(sys.modules)
print(list(embedding.shape), list(logits.shape), list(ious.shape))
"""
    # Isolated: neither this project's folder nor its installation is on the path.
    places = [path for path in sys.path if path.endswith("site-packages")]
    script = f"import sys; sys.path[:] = [p for p in sys.path if p] + {places}\n{script}"
    answer = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=of_pytorch[0], capture_output=True, text=True, check=False
    )
    assert answer.stdout.strip() == "[3, 16, 4, 4] [5, 4, 16, 16] [5, 4]", answer.stderr


def encoder_of(student: Student) -> Sam:
    teacher = tiny_sam()
    return teacher.with_encoder(student.make(teacher.config, 0).eval(), "student")


def ragged() -> Sam:
    """A pruned ViT whose blocks have widths of their own; its grid does not divide into windows."""
    config = replace(ENCODER, embed_dim=20, attention_widths=(16, 8, 20), mlp_widths=(12, 40, 7))
    model = Sam(SamConfig(config, 2, 20, 12), "ragged").eval().requires_grad_(False)
    for tensor in model.state_dict().values():
        tensor.normal_(std=0.2)
    return model


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(ragged, marks=pytest.mark.slow),
        pytest.param(lambda: encoder_of(TinyStudent()), marks=pytest.mark.slow),
        pytest.param(lambda: encoder_of(Student("timm", "resnet18")), marks=pytest.mark.slow),
    ],
    ids=["ragged", "tiny_vit", "resnet18"],
)
def test_every_kind_of_encoder(make: object, tmp_path: Path) -> None:
    assert callable(make)
    model = prepared(make())
    part = EncoderPart(model)
    shapes = ({0: torch.export.Dim("batch")},)
    program = exported(part, (torch.randn(2, 3, 64, 64),), ["image"], ["image_embeddings"], shapes)
    program.save(tmp_path / "encoder.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 3):
        images = torch.randn(count, 3, 64, 64)
        (found,) = session.run(None, {"image": images.numpy()})
        with torch.inference_mode():
            expected = part(images)
        assert torch.allclose(torch.from_numpy(found), expected, atol=1e-4 * float(expected.abs().max()))
    # Biases of pairs of positions are constants by now.
    assert "attention_biases" not in " ".join(
        value.name for value in onnx.load(tmp_path / "encoder.onnx").graph.initializer
    )


def test_a_damaged_file_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in (MANIFEST, "decoder.onnx"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "encoder.onnx").write_bytes(b"not a graph")
    for runtime in ("onnxruntime", "openvino"):
        with pytest.raises(InputError, match=r"encoder\.onnx: is not the file that was exported"):
            ExportedSam(tmp_path, runtime)
