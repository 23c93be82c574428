"""Students with another model's decoder: frames of two generations, projections that learn and are left behind."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compressors.distill.across import Across, PairedBatch, PairedBatches, in_frame_of, reframed
from compressors.distill.engine import Engine
from compressors.distill.losses import embedding_mse
from compressors.distill.teacher_outputs import mask_loss
from compressors.method import RunContext
from compressors.mobilesam import MobileSam
from compressors.ptq import Ptq
from compressors.tinysam import TinySam
from core.checkpoint import weights_sha256
from core.errors import InputError
from core.geometry import Stretched, points_to_frame
from core.protocols import Prompt
from data.batches import ImageBatches
from data.content import ReadFromFiles
from data.sample import ScaledImage
from students.encoder_shapes import TinyVitConfig, TinyVitMapsConfig
from students.files import load_model, save_model
from students.quantized.plan import planned_copy
from students.quantized.scheme import Scheme
from students.student import Student
from teachers.catalog import MODELS
from teachers.initial_weights import initialise_sam
from teachers.sam import Sam, SamConfig
from teachers.sam2 import Sam2, Sam2Config
from tests.unit.test_sam2_students import tiny_sam2
from tests.unit.tiny import CONFIG, ENCODER, Images, Killed, LabelledImages, tiny_sam

SIZES = [(64, 64), (40, 64), (64, 20)]
"""Of the images, ``(h, w)``."""


class Small(Student):
    """A TinyViT of a few channels, whatever its name says."""

    def shape(self, teacher: SamConfig) -> SamConfig:
        kind = TinyVitMapsConfig if isinstance(teacher, Sam2Config) else TinyVitConfig
        side, grid, channels = teacher.encoder.image_size, teacher.encoder.grid, teacher.encoder.out_channels
        return replace(teacher, encoder=kind(side, grid, (8,) * 4, (1,) * 4, (1,) * 4, (4,) * 4, channels))


def wide_sam() -> Sam:
    """Another SAM: 24 channels in place of 16, and images of half the size."""
    encoder = replace(ENCODER, out_channels=24, image_size=32, patch_size=8)
    model = replace(CONFIG, encoder=encoder).make("wide").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for tensor in model.state_dict().values():
        tensor.normal_(std=0.2, generator=generator)
    return model


PAIRS: dict[str, tuple[Callable[[], Sam], Callable[[], Sam], Student]] = {
    "SAM's student of a SAM 2": (tiny_sam2, wide_sam, Small()),
    "SAM 2's student of a SAM": (wide_sam, tiny_sam2, Small()),
}


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> tuple[Sam, Sam, Student]:
    """Teacher, the model whose decoder the student has, and the student."""
    teacher, base, student = PAIRS[request.param]
    return teacher(), base(), student


def across(pair: tuple[Sam, Sam, Student], folder: Path) -> tuple[Sam, Across]:
    teacher, base, chosen = pair
    context = RunContext(0, folder, Engine(folder), cache="off")
    encoder = context.encoder(chosen, in_frame_of(teacher.config, base.config))
    student = base.with_encoder(encoder, "student").requires_grad_(False)
    batches = ImageBatches(Images(3), teacher.input_size, teacher.config.encoder.grid, 0)
    return student, Across(student, teacher, context.teacher_embeddings(teacher), batches, 0)


def test_images_are_in_both_frames(pair: tuple[Sam, Sam, Student], tmp_path: Path) -> None:
    teacher, base, _ = pair
    student, seen = across(pair, tmp_path)
    side = teacher.input_size
    assert student.input_size == side and isinstance(student.input_size, Stretched) == isinstance(
        base.input_size, Stretched
    )
    batch = seen.batches.of([0, 1, 2])
    assert isinstance(batch, PairedBatch)
    alone = ImageBatches(Images(3), side, teacher.config.encoder.grid, 0).of([0, 1, 2])
    own = ImageBatches(Images(3), student.input_size, 4, 0).of([0, 1, 2])
    for found, expected in ((batch.teacher, alone), (batch, own)):
        assert torch.equal(found.images, expected.images) and torch.equal(found.valid, expected.valid)
        assert found.digests == expected.digests and found.names == expected.names
    xy = torch.tensor([[3.0, 5.0], [19.0, 30.0]])
    for size_hw, ratio in zip(SIZES, batch.ratio, strict=True):
        there, here = (points_to_frame(xy, size_hw, model.input_size) for model in (teacher, student))
        torch.testing.assert_close(here * ratio, there)


def test_maps_come_to_where_the_student_sees_the_same() -> None:
    # A map that says where it is in the image: linear, so that interpolation keeps it.
    steps = (torch.arange(8) + 0.5) / 8
    stretched = torch.stack(torch.meshgrid(steps, steps, indexing="ij"))[None]
    ratio = torch.tensor([[1.0, 1.6]])
    found = reframed(stretched, ratio, "border")
    rows, columns = (steps * 1.6)[:5, None].expand(5, 8), steps[None].expand(5, 8)
    # The last row that holds image ends beyond the teacher's last centre.
    torch.testing.assert_close(found[0, :, :4], torch.stack([rows, columns])[:, :4])
    assert torch.equal(reframed(stretched, torch.ones(1, 2)), stretched)
    assert not bool(reframed(torch.ones(1, 1, 8, 8), ratio)[0, 0, 6:].any())
    back = reframed(found, 1 / ratio, "border")
    torch.testing.assert_close(back[:, :, 1:5], stretched[:, :, 1:5])


def test_the_teacher_is_asked_about_the_same_points(pair: tuple[Sam, Sam, Student], tmp_path: Path) -> None:
    teacher, _, _ = pair
    student, seen = across(pair, tmp_path)
    batch = seen.batches.of([0, 1, 2])
    assert isinstance(batch, PairedBatch)
    points, boxes = seen.masks(batch, 4, 0, 0, 0)
    assert points.logits.shape == boxes.logits.shape == (12, 4, 16, 16)
    embeddings = seen.embeddings(batch.teacher)
    for i in range(3):
        xy, labels = points.prompt.points_xy, points.prompt.labels
        assert xy is not None and labels is not None
        own = slice(4 * i, 4 * i + 4)
        expected = teacher.decode_frame(embeddings[i : i + 1], Prompt(None, xy[own] * batch.ratio[i], labels[own]))
        torch.testing.assert_close(points.iou_pred[own], expected.iou_pred)
        there = reframed(expected.logits, batch.ratio[i].expand(4, 2))
        torch.testing.assert_close(points.logits[own], there)
    if not isinstance(student.input_size, Stretched):
        # Nothing is a mask where there is no image.
        assert not bool((points.logits[4:8, :, 11:] > 0).any()) and not bool((points.logits[8:, ..., 6:] > 0).any())


def test_the_loss_reaches_projections_encoder_and_decoder(pair: tuple[Sam, Sam, Student], tmp_path: Path) -> None:
    student, seen = across(pair, tmp_path)
    model = seen.trained(student)
    batch = seen.batches.of([0, 1])
    for part in (student.image_encoder, student.mask_decoder, seen.projections):
        part.requires_grad_(True)
    found = student.encode(batch.images)
    projected, targets = seen.projected(found), seen.targets(batch)
    assert {name: x.shape for name, x in projected.maps.items()} == {name: x.shape for name, x in targets.maps.items()}
    assert list(projected.maps) == ["image_embed"], "SAM has no other map"
    loss = embedding_mse(projected, targets, batch.valid) + sum(
        mask_loss(student, found, seen.masks(batch, 2, 0, 0, 0)).values()
    )
    loss.backward()
    learning = {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    for name in ("projections.image_embed.weight", "student.mask_decoder.mask_tokens.weight"):
        assert name in learning
    assert any(name.startswith("student.image_encoder.backbone") for name in learning)
    heads = {name for name in learning if "conv_s" in name}
    assert bool(heads) == isinstance(student, Sam2), "masks alone teach what the teacher has no map for"


def compressed(pair: tuple[Sam, Sam, Student], folder: Path, images: Images, **changes: object) -> Sam:
    teacher, base, chosen = pair
    save_model(folder / "base.safetensors", base)
    method = MobileSam(chosen, decoder_of=str(folder / "base.safetensors"), steps=2, batch=2, prompts=2)
    engine = Engine(folder, save_every_s=-1.0)
    return replace(method, **changes).compress(teacher, images, RunContext(0, folder, engine)).student  # type: ignore[arg-type]


def test_the_student_is_of_its_decoders_generation(pair: tuple[Sam, Sam, Student], tmp_path: Path) -> None:
    teacher, base, _ = pair
    student = compressed(pair, tmp_path, Images())
    assert type(student) is type(base) and student.name == f"{teacher.name}-tiny_vit_5m-{base.name}"
    assert student.config.encoder.out_channels == base.config.encoder.out_channels
    assert not any("projection" in name for name in student.state_dict())
    assert weights_sha256(student.prompt_encoder) == weights_sha256(base.prompt_encoder)
    assert weights_sha256(student.mask_decoder) != weights_sha256(base.mask_decoder)
    save_model(tmp_path / "student.safetensors", student)
    loaded = load_model(tmp_path / "student.safetensors")
    assert type(loaded) is type(base) and weights_sha256(loaded) == weights_sha256(student)
    assert loaded.prompt_encoder.frame == loaded.input_size == teacher.input_size
    # And quantised beside the same teacher.
    method = Ptq(init=str(tmp_path / "student.safetensors"), images=1, prompts=1, candidates=1, rounds=1)
    method.compress(teacher, Images(), RunContext(0, tmp_path, Engine(tmp_path)))


@pytest.mark.slow
def test_a_killed_run_goes_on_with_its_projections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.batches.CACHE_BYTES", 0)
    teacher, base, chosen = PAIRS["SAM's student of a SAM 2"]
    pair = teacher(), base(), chosen
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    whole = compressed(pair, tmp_path / "a", Images())
    with pytest.raises(Killed):
        compressed(pair, tmp_path / "b", Images(kill_at=5))
    assert (tmp_path / "b/encoder.state").is_file()
    assert weights_sha256(compressed(pair, tmp_path / "b", Images())) == weights_sha256(whole)


def test_masks_alone_need_no_projection(tmp_path: Path) -> None:
    teacher, base, chosen = PAIRS["SAM's student of a SAM 2"]
    pair = teacher(), base(), chosen
    student = compressed(pair, tmp_path, Images(), distillation="semi_coupled")
    assert weights_sha256(student.mask_decoder) == weights_sha256(pair[1].mask_decoder)


def test_what_is_quantised_cannot_learn(tmp_path: Path) -> None:
    quantised = planned_copy(tiny_sam(), Scheme())
    settings = []

    def load(name: str, setting: str) -> Sam:
        settings.append(setting)
        return quantised

    context = RunContext(0, tmp_path, Engine(tmp_path), load=load)
    for method, key in ((MobileSam(Small(), decoder_of="w8a8"), "decoder_of"), (TinySam(init="w8a8"), "init")):
        with pytest.raises(
            InputError, match=rf"method\.{key}=w8a8: is quantised, so nothing of it can learn; give the"
        ):
            method.compress(tiny_sam(), LabelledImages(2), context)
    assert settings == ["method.decoder_of", "method.init"]


def test_costs_are_known_by_name_alone() -> None:
    method = MobileSam(Student("tiny_vit", "tiny_vit_pocket"), decoder_of="sam2_pocket")
    shape = method.shape(MODELS["sam_pocket"].config)
    assert type(shape) is type(MODELS["sam2_pocket"].config) and shape.encoder.image_size == 128
    with pytest.raises(NotImplementedError, match=r"method\.decoder_of"):
        replace(method, decoder_of="file.safetensors").shape(MODELS["sam_pocket"].config)


@pytest.mark.slow
def test_one_setting_of_the_command_line(command: Callable[..., tuple[int, str, str]]) -> None:
    torch.manual_seed(0)
    model = MODELS["sam2_pocket"].config.make("sam2_pocket")
    initialise_sam(model)
    save_model(Path("sam2.safetensors"), model)
    words = ["method=mobilesam", "teacher=sam_pocket", "method.decoder_of=sam2.safetensors", "method.steps=1"]
    words += ["method.batch=2", "data.count=4", "evaluation.images=2", "evaluation.latency_runs=1", "format=json"]
    status, out, err = command(*words)
    assert status == 0, err
    row = json.loads(out)["rows"][-1]
    assert (row["method"], row["teacher"]) == ("mobilesam", "sam_pocket")
    assert row["student"] == "sam_pocket-tiny_vit_pocket-sam2_pocket" and row["images_seen"] == 4
    student = load_model(Path("runs") / row["run_id"] / "student.safetensors")
    assert isinstance(student, Sam2) and student.input_size == 128


def test_images_are_read_as_large_as_the_larger_frame_needs() -> None:
    frames: list[int] = []

    class Files(ReadFromFiles, Images):
        def training_image(self, index: int, frame: int) -> ScaledImage:
            frames.append(frame)
            image = self.image(index)
            return ScaledImage(image, (image.shape[0], image.shape[1]))

    for padded, own in ((64, Stretched(64)), (Stretched(64), 64), (64, 64)):
        PairedBatches(Files(1), padded, 16, 0, own_frame=own).of([0])
    # Of an image of 2250 x 1500 pixels a padded frame of 1024 needs 683 rows, one that is filled 1024.
    assert [type(frame) for frame in frames] == [Stretched, Stretched, int]
