"""Several maps as one teacher's output: kept, compared, learned by students of any backbone, and saved."""

from pathlib import Path

import pytest
import torch

from compressors.distill.engine import Engine
from compressors.distill.losses import embedding_l1, embedding_mse, embedding_rmse
from compressors.distill.teacher_outputs import TeacherEmbeddings, embedding_cache
from compressors.method import RunContext
from compressors.mobilesam import MobileSam
from compressors.prune.importance import disturbed_gradients
from compressors.tinysam import TinySam
from core.checkpoint import weights_sha256
from core.errors import InputError
from core.feature_layout import EMBEDDING, layout_of
from core.feature_maps import FeatureMaps, maps_of, packed, packed_channels, unpacked
from data.batches import ImageBatches
from students.encoder_shapes import TinyVitMapsConfig
from students.files import load_model, save_model
from students.student import Student
from teachers.sam import SamConfig
from teachers.sam2 import Sam2
from tests.unit.test_sam2 import CONFIG
from tests.unit.tiny import Images, LabelledImages, TinyStudent, tiny_sam

LAYOUT = layout_of(CONFIG.encoder)


def tiny_sam2(seed: int = 0) -> Sam2:
    model = CONFIG.make("tiny2").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        tensor.normal_(std=0.3, generator=generator)
    return model


class TinyMaps(Student):
    """A TinyViT of a few channels, whatever its name says."""

    def shape(self, teacher: SamConfig) -> SamConfig:
        from dataclasses import replace

        shape = TinyVitMapsConfig(64, 4, (8, 8, 8, 8), (1, 1, 1, 1), (1, 1, 1, 1), (4, 4, 4, 4), 16)
        return replace(teacher, encoder=shape)


def random_maps(batch: int = 2) -> FeatureMaps:
    return FeatureMaps(
        {EMBEDDING: torch.randn(batch, 16, 4, 4)}
        | {name: torch.randn(batch, c, 4 * s, 4 * s) for name, (c, s) in LAYOUT.items() if name != EMBEDDING}
    )


def test_packing_keeps_every_value() -> None:
    maps = random_maps()
    tensor = packed(maps)
    assert tensor.shape == (2, packed_channels(LAYOUT), 4, 4) == (2, 16 + 2 * 16 + 4 * 4, 4, 4)
    back = maps_of(unpacked(tensor, LAYOUT))
    assert all(torch.equal(back[name], part) for name, part in maps.maps.items())
    one = torch.randn(1, 3, 2, 2)
    assert packed(one) is one and unpacked(one, {EMBEDDING: (3, 1)}) is one


@pytest.mark.parametrize("mode", ["memory", "disk"])
def test_the_teachers_maps_are_kept(tmp_path: Path, mode: str) -> None:
    encoder, batches = tiny_sam2().image_encoder, ImageBatches(Images(3), tiny_sam2().input_size, 4, 0)
    batch, engine = batches.of([0, 1, 2]), Engine(tmp_path)
    plain = TeacherEmbeddings(encoder, engine)(batch)
    for computed in (3, 0) if mode == "disk" else (3,):
        kept = TeacherEmbeddings(encoder, engine, embedding_cache(mode, tmp_path / "cache", encoder))
        for found in (kept(batch), kept(batch)):
            assert all(torch.equal(found.maps[name], part) for name, part in plain.maps.items())
        assert kept.computed == computed
    expected = encoder(batch.images).half().float()
    torch.testing.assert_close(plain.maps["high_res_feats_0"], expected.maps["high_res_feats_0"], rtol=1e-2, atol=1e-2)


def test_losses_add_up_the_maps() -> None:
    ours, theirs = random_maps(), random_maps()
    valid = torch.zeros(2, 4, 4, dtype=torch.bool)
    valid[0, :2], valid[1, :, 1:] = True, True
    for distance in (embedding_mse, embedding_l1, embedding_rmse):
        each = []
        for name, (_, scale) in LAYOUT.items():
            fine = valid.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
            each.append(distance(ours.maps[name], theirs.maps[name], fine))
        torch.testing.assert_close(distance(ours, theirs, valid), sum(each))
        if distance is not embedding_l1:
            torch.testing.assert_close(distance(ours, theirs, valid, 0.1), each[0] + 0.1 * (each[1] + each[2]))
    with pytest.raises(ValueError, match="the student gives image_embed, the teacher image_embed, high_res_feats_0"):
        embedding_mse(ours.embedding, theirs)


@pytest.mark.parametrize(
    ("student", "stages"),
    [
        (Student("tiny_vit", "tiny_vit_pocket"), None),
        (Student("timm", "resnet10t"), None),
        (Student("timm", "resnet10t", (3,)), None),
        (Student("timm", "test_vit"), None),
    ],
)
def test_any_backbone_gives_the_maps_of_its_teacher(student: Student, stages: None, tmp_path: Path) -> None:
    teacher = tiny_sam2()
    encoder = student.make(teacher.config, 0).eval()
    assert layout_of(encoder.config) == LAYOUT
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found, expected = encoder(images), teacher.encode(images)
    assert {name: part.shape for name, part in found.maps.items()} == {
        name: part.shape for name, part in expected.maps.items()
    }
    model = teacher.with_encoder(encoder, "student")
    assert isinstance(model, Sam2)
    save_model(tmp_path / "student.safetensors", model)
    loaded = load_model(tmp_path / "student.safetensors")
    assert isinstance(loaded, Sam2) and loaded.config == model.config
    assert weights_sha256(loaded) == weights_sha256(model)


def test_a_weight_of_maps_that_there_are_not_is_refused(tmp_path: Path) -> None:
    context = RunContext(0, tmp_path, Engine(tmp_path))
    for changes, words in (({}, "the image embedding is the only map"), ({"distillation": "coupled"}, "the image emb")):
        with pytest.raises(InputError, match=rf"method\.high_res=2\.0: {words}"):
            MobileSam(TinyStudent(), high_res=2.0, **changes).compress(tiny_sam(), Images(2), context)
    with pytest.raises(InputError, match="masks are the only target that student and teacher share; leave it out"):
        MobileSam(TinyMaps(), high_res=2.0, distillation="coupled").compress(tiny_sam2(), Images(2), context)
    with pytest.raises(InputError, match=r"method\.high_res=-1\.0 must be at least 0"):
        MobileSam(TinyMaps(), high_res=-1.0)


def test_every_head_of_a_student_learns(tmp_path: Path) -> None:
    teacher = tiny_sam2()
    method = MobileSam(student=TinyMaps(), steps=3, batch=2)
    context = RunContext(0, tmp_path, Engine(tmp_path))
    before = TinyMaps().make(teacher.config, 0).state_dict()
    student = method.compress(teacher, Images(4), context).student
    assert isinstance(student, Sam2)
    after = student.image_encoder.state_dict()
    for name in ("conv_s0.weight", "conv_s1.weight", "neck.0.weight", "backbone.patch_embed.conv1.conv.weight"):
        assert not torch.equal(before[name], after[name]), name
    for part in ("prompt_encoder", "mask_decoder"):
        assert weights_sha256(getattr(student, part)) == weights_sha256(getattr(teacher, part))


@pytest.mark.parametrize("distillation", ["coupled", "semi_coupled"])
def test_mobilesams_other_ways(tmp_path: Path, distillation: str) -> None:
    method = MobileSam(student=TinyMaps(), steps=1, batch=2, distillation=distillation, prompts=2)
    student = method.compress(tiny_sam2(), Images(2), RunContext(0, tmp_path, Engine(tmp_path))).student
    assert all(bool(tensor.isfinite().all()) for tensor in student.state_dict().values())


def test_tinysams_stages(tmp_path: Path) -> None:
    method = TinySam(student=TinyMaps(), steps=1, batch=2, prompts=2, boxes="also")
    progress = method.compress(tiny_sam2(), LabelledImages(4), RunContext(0, tmp_path, Engine(tmp_path)))
    assert progress.student.input_size == 64


def test_the_disturbed_loss_reaches_every_map() -> None:
    encoder = tiny_sam2().image_encoder
    batch = ImageBatches(Images(2), tiny_sam2().input_size, 4, 0).of([0, 1])
    gradients = disturbed_gradients(encoder, [batch], 0.1, 0)
    assert all(float(gradients.squares[name].sum()) > 0 for name in ("conv_s0.weight", "conv_s1.weight"))


def test_a_student_of_the_other_generation_is_no_beginning(tmp_path: Path) -> None:
    save_model(tmp_path / "sam.safetensors", tiny_sam())
    context = RunContext(0, tmp_path, Engine(tmp_path))
    with pytest.raises(InputError, match="maps image_embed, the teacher's image_embed and high_res_feats_0"):
        context.initial(str(tmp_path / "sam.safetensors"), tiny_sam2())
