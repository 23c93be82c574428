"""Every kind of encoder as every kind of file: each answers as its model, with a box and with points."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from compressors.distill.engine import Engine
from compressors.method import RunContext
from compressors.ptq import Ptq
from core.feature_maps import FeatureMaps, maps_of
from core.protocols import Prompt
from students.export.folder import export_model
from students.export.segmenter import ExportedSam
from students.kinds import build_model
from students.pruned_vit import pruned_shape
from students.student import Student
from teachers.sam import Sam, SamConfig
from tests.unit.test_sam2_students import TinyMaps, tiny_sam2
from tests.unit.tiny import ENCODER, Images, TinyStudent, tiny_sam

pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")


def drawn(model: Sam) -> Sam:
    """A model with random weights everywhere, frozen."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.detach().normal_(std=0.2, generator=generator)
    return model.eval().requires_grad_(False)


def cut_by_block() -> Sam:
    """A pruned ViT whose blocks have widths of their own; its grid does not divide into windows."""
    encoder = replace(ENCODER, embed_dim=20, attention_widths=(16, 8, 20), mlp_widths=(12, 40, 7))
    return drawn(Sam(SamConfig(encoder, 2, 20, 12), "cut"))


def cut_alike() -> Sam:
    """A pruned Hiera."""
    return drawn(build_model(pruned_shape(tiny_sam2().config, 0.5), "cut"))


def student_of(student: Student, teacher: Sam | None = None) -> Sam:
    teacher = tiny_sam() if teacher is None else teacher
    return drawn(teacher.with_encoder(student.make(teacher.config, 0), "student"))


KINDS: dict[str, Callable[[], Sam]] = {
    "vit": tiny_sam,
    "cut": cut_by_block,
    "tiny_vit": lambda: student_of(TinyStudent()),
    "resnet18": lambda: student_of(Student("timm", "resnet18")),
    "repvit": lambda: student_of(Student("timm", "repvit_m1")),
    "hiera": tiny_sam2,
    "cut hiera": cut_alike,
    "tiny_vit of sam2": lambda: student_of(TinyMaps(), tiny_sam2()),
    "resnet of sam2": lambda: student_of(Student("timm", "resnet10t"), tiny_sam2()),
}
FLOAT = (("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("torch", "fp32"), ("torch", "bf16"))
QUANTISED = (("onnx", "int8"), ("openvino", "int8"), ("torch", "int8"))
LEAST = {"fp32": 0.999, "bf16": 0.95, "int8": 0.95}
"""The share of pixels on which masks agree, by precision."""


def cases() -> list[object]:
    """All of them, slow but for one, since an export takes a quarter of a minute."""
    made = product(KINDS, (*FLOAT, *QUANTISED))
    fast = ("tiny_vit", ("torch", "bf16"))
    return [
        pytest.param(kind, *target, marks=() if (kind, target) == fast else pytest.mark.slow) for kind, target in made
    ]


@pytest.mark.parametrize("kind, to, precision", cases())
def test_files_answer_as_the_model(kind: str, to: str, precision: str, tmp_path: Path) -> None:
    if to == "openvino":
        pytest.importorskip("openvino", reason="the extra export is not installed")
    model = KINDS[kind]()
    if precision == "int8":
        context = RunContext(0, tmp_path / "run", Engine(tmp_path / "run"))
        model = Ptq(images=2, prompts=2, metric="minmax").compress(model, Images(), context).student
    export_model(model, tmp_path / "out", to, precision)
    exported = ExportedSam(tmp_path / "out")
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        embedding = model.encode(images)
        for of_file, of_model in zip(values(exported.encode(images)), values(embedding), strict=True):
            error = (of_file.float() - of_model).square().mean() / of_model.square().mean()
            assert float(error) < (1e-6 if precision == "fp32" else 1e-2)
        boxes = Prompt(torch.tensor([[5.0, 3.0, 40.0, 27.0], [0.0, 0.0, 20.0, 20.0], [8.0, 8.0, 60.0, 60.0]]))
        points = Prompt(None, torch.tensor([[[20.0, 30.0], [50.0, 10.0]]]), torch.tensor([[1, 0]]))
        for prompt in (boxes, points):
            theirs, own = (m.decode(embedding, prompt, (64, 64), multimask=True) for m in (model, exported))
            agree = (own.logits > 0) == (theirs.logits > 0)
            assert float(agree.float().mean()) >= LEAST[precision]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit", "tiny_vit"])
def test_core_mls_converter_reads_pytorchs_programs(kind: str, tmp_path: Path) -> None:
    """The command of docs/export.md, where Core ML's tools are installed; no extra has them."""
    coremltools = pytest.importorskip("coremltools", reason="pip install coremltools")
    export_model(KINDS[kind](), tmp_path / "out", "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(tmp_path / "out" / "encoder.pt2").run_decompositions({})
        converted = coremltools.convert(program, minimum_deployment_target=coremltools.target.iOS16)
        converted.save(str(tmp_path / "encoder.mlpackage"))
    assert (tmp_path / "encoder.mlpackage").is_dir()


def values(features: torch.Tensor | FeatureMaps) -> list[torch.Tensor]:
    return list(maps_of(features).values())
