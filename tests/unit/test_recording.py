"""What is recorded of a layer is what it computed, whatever the model does with its output afterwards."""

from collections.abc import Callable

import pytest
import torch

from compressors.quantize.calibration import answers
from compressors.quantize.reconstruction import Reconstruction, _tensors, _Work
from compressors.quantize.recording import Recorder, recordable
from compressors.quantize.search import computed
from core.protocols import Prompt
from students.quantized import attention
from students.quantized.layers import QuantizedProduct
from students.quantized.plan import planned_copy
from students.quantized.scheme import Scheme
from students.student import Student
from teachers.sam import Sam
from tests.unit.test_sam2_students import tiny_sam2
from tests.unit.tiny import TinyStudent, tiny_sam


def with_encoder(student: Student) -> Sam:
    """A tiny SAM with the student's encoder, its normalisations not at their initial values."""
    teacher = tiny_sam()
    model = teacher.with_encoder(student.make(teacher.config, 0).eval(), "student").requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.image_encoder.named_parameters():
        if tensor.ndim == 1:
            tensor.uniform_(0.5 if name.endswith("weight") else -0.5, 1.5, generator=generator)
    return model


@pytest.mark.parametrize(
    "make",
    [tiny_sam, tiny_sam2, lambda: with_encoder(TinyStudent()), lambda: with_encoder(Student("timm", "resnet18"))],
    ids=["vit", "hiera", "tiny_vit", "resnet"],
)
@pytest.mark.parametrize("gradients", [False, True])
def test_records_are_what_layers_compute(make: Callable[[], Sam], gradients: bool) -> None:
    model = planned_copy(make(), Scheme())
    layers = recordable(model)
    recorder = Recorder(layers, 0)
    points = Prompt.foreground(torch.tensor([[[20.0, 30.0]]]))
    boxes = Prompt(boxes_xyxy=torch.tensor([[5.0, 6.0, 40.0, 50.0]]))
    call = torch.randn(1, 3, model.input_size, model.input_size), (points, boxes)
    with torch.set_grad_enabled(gradients), recorder.on(0, gradients=gradients):
        found = answers(model, call, gradients)
        if gradients:
            torch.stack([answer.logits.sum() + answer.iou_pred.sum() for answer in found]).sum().backward()
    compared = 0
    for path, layer in layers.items():
        for record in recorder.traces[path].records.values():
            if isinstance(layer, QuantizedProduct):
                expected = record.inputs[0] @ record.inputs[1]
            else:
                assert layer.weight is not None
                expected = computed(layer, record.inputs[0], layer.weight)
            torch.testing.assert_close(record.output, expected, rtol=1e-4, atol=1e-4, msg=path)
            assert not gradients or record.gradient is None or record.gradient.shape == record.output.shape
            compared += 1
    assert compared >= len(layers) // 2


@pytest.mark.parametrize("units", ["layers", "blocks"])
@pytest.mark.parametrize("student", [TinyStudent(), Student("timm", "resnet18")], ids=["tiny_vit", "resnet"])
def test_what_reconstruction_sees_is_what_units_compute(units: str, student: Student) -> None:
    exact = planned_copy(with_encoder(student), Scheme())
    prompt = Prompt.foreground(torch.tensor([[[20.0, 30.0]]]))
    image = torch.randn(1, 3, exact.input_size, exact.input_size)
    work = _Work(Reconstruction(units, "both", 1, 1e-2, 1, 0.5, 0), exact, exact, [("one", image, (prompt, prompt))])
    assert len(work.units) > 8
    for path in work.units:
        for _, args, outputs in work._observed(exact, path):
            given = [x.clone() if isinstance(x, torch.Tensor) else x for x in args]
            with torch.no_grad():
                found = _tensors(exact.get_submodule(path)(*given))
            for one, other in zip(found, outputs, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, msg=path)


@pytest.mark.parametrize("product", ["scores", "mixing"])
def test_reconstruction_sees_every_head_of_a_large_map(product: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "SMALL_MAP", 0)
    exact = planned_copy(tiny_sam(), Scheme())
    prompt = Prompt.foreground(torch.tensor([[[20.0, 30.0]]]))
    image, path = torch.randn(1, 3, exact.input_size, exact.input_size), f"image_encoder.blocks.1.attn.{product}"
    work = _Work(Reconstruction("layers", "both", 1, 1e-2, 1, 0.5, 0), exact, exact, [("one", image, (prompt, prompt))])
    recorder = Recorder({path: recordable(exact)[path]}, 0)
    with torch.no_grad(), recorder.on(0):
        exact.encode(image)
    seen = work._observed(exact, path)
    assert len(seen) == len(recorder.traces[path].records) == 2
    for _, (left, right), (output,) in seen:
        torch.testing.assert_close(left @ right, output)
