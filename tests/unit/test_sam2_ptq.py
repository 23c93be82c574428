"""Post-training quantisation of a SAM 2: its layers in few bits, kept in a file that answers alike."""

from pathlib import Path

import torch

from compressors.distill.engine import Engine
from compressors.method import RunContext
from compressors.ptq import Ptq
from core.feature_maps import maps_of
from core.protocols import Prompt
from students.files import load_model, save_model
from students.quantized.bit_operations import count_bit_operations
from students.quantized.plan import plan_of, planned_copy
from teachers.sam2 import Sam2
from tests.unit.test_sam2_students import tiny_sam2
from tests.unit.tiny import Images


def test_a_hiera_and_its_decoder_are_quantised(tmp_path: Path) -> None:
    teacher = tiny_sam2()
    method = Ptq(images=2, prompts=1, candidates=4, rounds=1, metric="mse", decoder="quantized")
    student = method.compress(teacher, Images(2), RunContext(0, tmp_path, Engine(tmp_path))).student
    plan = plan_of(student)
    assert isinstance(student, Sam2) and plan is not None
    encoder = ("trunk.blocks.1.attn.qkv", "conv_s0", "neck.convs.3")
    assert {f"image_encoder.{layer}" for layer in encoder} <= set(plan.layers)
    assert {f"image_encoder.trunk.blocks.{i}.attn" for i in range(5)} <= set(plan.products)
    assert {"mask_decoder.pred_obj_score_head.layers.2", "mask_decoder.output_upscaling.3"} <= set(plan.layers)
    images = torch.randn(1, 3, 64, 64)
    expected, found = maps_of(teacher.encode(images)), maps_of(student.encode(images))
    for name, part in expected.items():
        assert float((found[name] - part).norm() / part.norm()) < 0.2, name
    save_model(tmp_path / "student.safetensors", student)
    loaded = load_model(tmp_path / "student.safetensors")
    prompt = Prompt(boxes_xyxy=torch.tensor([[4.0, 4.0, 40.0, 30.0]]))
    answers = [model.decode(model.encode(images), prompt, (64, 64)) for model in (student, loaded)]
    assert torch.equal(answers[0].logits, answers[1].logits)
    counted = count_bit_operations(student.config, plan)
    assert 0 < sum(counted.float_macs.values()) < counted.total


def test_the_quantised_attention_is_timms_while_it_does_not_quantise() -> None:
    model = tiny_sam2()
    planned = planned_copy(model, Ptq().scheme())
    images = torch.randn(1, 3, 64, 64)
    expected = maps_of(model.encode(images))
    for name, found in maps_of(planned.encode(images)).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-4, atol=1e-4)
