"""MobileSAM: what is trained, what stays, resuming, and masks as targets."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compressors.distill.engine import Engine
from compressors.distill.losses import embedding_mse, embedding_rmse
from compressors.distill.optimizer import OptimizerConfig
from compressors.distill.teacher_outputs import mask_loss, teacher_masks
from compressors.method import Compressed, RunContext
from compressors.mobilesam import MobileSam
from core.checkpoint import weights_sha256
from core.errors import InputError
from teachers.sam import Sam
from tests.unit.tiny import CONFIG, Images, Killed, TinyStudent, tiny_sam

OPTIMISATION = OptimizerConfig(lr=5e-3)


METHOD = MobileSam(TinyStudent(), steps=3, batch=2, optimisation=OPTIMISATION)


def compress(method: MobileSam, folder: Path, data: Images | None = None, seed: int = 0) -> Compressed:
    # Every step of a run that is to be stopped is saved; of others it would take most of the time.
    engine = Engine(folder, save_every_s=60.0 if data is None else -1.0)
    return method.compress(tiny_sam(), data or Images(), RunContext(seed, folder, engine))


def test_only_the_encoder_is_new(tmp_path: Path) -> None:
    compressed = compress(METHOD, tmp_path)
    student = compressed.student
    assert student.config == METHOD.shape(CONFIG) and student.name == "tiny-tiny_vit_5m"
    assert compressed.images_seen == 12
    assert not student.training and not any(p.requires_grad for p in student.parameters())
    teacher = tiny_sam().state_dict()
    for name, tensor in student.state_dict().items():
        assert tensor.isfinite().all()
        if not name.startswith("image_encoder."):
            assert torch.equal(tensor, teacher[name]), name


@pytest.mark.slow
def test_the_student_learns(tmp_path: Path) -> None:
    logs = [embedding_distance(replace(METHOD, steps=steps), tmp_path / str(steps)) for steps in (1, 60)]
    assert logs[1] < 0.7 * logs[0]


def embedding_distance(method: MobileSam, folder: Path) -> float:
    student = compress(method, folder).student
    images = torch.stack([torch.linspace(-1, 1, 3 * 64 * 64).view(3, 64, 64), torch.zeros(3, 64, 64)])
    return embedding_mse(student.encode(images), tiny_sam().encode(images)).item()


VARIANTS: dict[str, dict[str, object]] = {
    "default": {},
    "root": {"loss": "root"},
    "padding": {"padding": "count"},
    "coupled": {"distillation": "coupled"},
    "semi coupled": {"distillation": "semi_coupled"},
    "decoder": {"decoder_steps": 2},
}


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sam]:
    """What each variant makes."""
    made = {}
    for name, changes in VARIANTS.items():
        method = replace(METHOD, **changes)  # type: ignore[arg-type]
        made[name] = compress(method, tmp_path_factory.mktemp("variant")).student
    return made


@pytest.mark.slow
def test_settings_change_the_student_and_are_repeatable(students: dict[str, Sam], tmp_path: Path) -> None:
    found = {name: weights_sha256(student) for name, student in students.items()}
    assert len(set(found.values())) == len(VARIANTS)
    for name in ("coupled", "decoder"):
        method = replace(METHOD, **VARIANTS[name])  # type: ignore[arg-type]
        assert weights_sha256(compress(method, tmp_path / name).student) == found[name]


def test_which_parts_learn(students: dict[str, Sam]) -> None:
    teacher = tiny_sam().state_dict()

    def changed(name: str) -> set[str]:
        return {
            key.partition(".")[0]
            for key, tensor in students[name].state_dict().items()
            if not key.startswith("image_encoder.") and not torch.equal(tensor, teacher[key])
        }

    assert {name: changed(name) for name in VARIANTS} == {
        "default": set(), "root": set(), "padding": set(), "semi coupled": set(),
        "coupled": {"mask_decoder"}, "decoder": {"mask_decoder"},
    }  # fmt: skip


def test_fine_tuning_the_decoder_leaves_the_encoder_and_its_statistics(tmp_path: Path) -> None:
    plain = compress(METHOD, tmp_path / "plain").student.image_encoder
    tuned = compress(replace(METHOD, decoder_steps=3), tmp_path / "tuned").student.image_encoder
    # The stage's key is another, the encoder's training the same.
    assert weights_sha256(plain) == weights_sha256(tuned)


@pytest.mark.parametrize(
    "kill_at", [pytest.param(3, marks=pytest.mark.slow), 9, pytest.param(14, marks=pytest.mark.slow)]
)
def test_an_interrupted_run_ends_bit_identically(tmp_path: Path, kill_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.batches.CACHE_BYTES", 0)
    method = replace(METHOD, decoder_steps=3)
    undisturbed = compress(method, tmp_path / "a")
    with pytest.raises(Killed):
        compress(method, tmp_path / "b", Images(kill_at=kill_at))
    resumed = compress(method, tmp_path / "b")
    assert weights_sha256(resumed.student) == weights_sha256(undisturbed.student)
    assert resumed.images_seen == undisturbed.images_seen == 18


def test_the_root_form_sums_over_channels() -> None:
    student, teacher = torch.randn(2, 5, 4, 4), torch.randn(2, 5, 4, 4)
    by_hand = (student - teacher).square().sum(1).mean().sqrt()
    torch.testing.assert_close(embedding_rmse(student, teacher), by_hand)


def test_refused_settings() -> None:
    for changes, words in (
        ({"distillation": "joint"}, "method.distillation=joint is not one of decoupled, coupled, semi_coupled"),
        ({"loss": "l1"}, "method.loss=l1 is not one of mse, root"),
        ({"padding": "crop"}, "method.padding=crop is not one of ignore, count"),
        ({"steps": 0}, "method.steps=0 must be at least 1"),
        ({"decoder_lr": -1.0}, r"method\.decoder_lr=-1\.0 must be above 0"),
        ({"optimisation": OptimizerConfig(schedule="plateau")}, "schedule=plateau goes by validation, which"),
    ):
        with pytest.raises(InputError, match=words):
            replace(METHOD, **changes)  # type: ignore[arg-type]


class TestMasksAsTargets:
    def requested(self) -> tuple:
        teacher = tiny_sam()
        valid = torch.ones(2, 4, 4, dtype=torch.bool)
        valid[1, :, 2:] = False
        embeddings = teacher.encode(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
        return teacher, embeddings, valid, teacher_masks(teacher, embeddings, valid, 5, 0, 7)

    def test_points_fall_on_the_image_and_boxes_enclose_the_answers(self) -> None:
        teacher, _, _, (points, boxes) = self.requested()
        xy = points.prompt.points_xy
        assert xy.shape == (10, 1, 2) and (xy >= 0).all() and (xy[:5] <= 64).all()
        assert (xy[5:, :, 0] <= 32).all() and (xy[5:, :, 1] > 32).any()
        best = points.iou_pred[:, 1:].argmax(1) + 1
        for number, box in enumerate(boxes.prompt.boxes_xyxy):
            mask = points.logits[number, best[number]] > 0
            assert bool(mask.any()) == bool(boxes.counts[number])
            if mask.any():
                rows, columns = (mask.any(axis).nonzero().flatten() for axis in (1, 0))
                cell = teacher.input_size / mask.shape[-1]
                tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
                assert box.tolist() == [cell * int(side) for side in tight]

    def test_the_teacher_itself_loses_nothing_on_predicted_ious(self) -> None:
        teacher, embeddings, _, requested = self.requested()
        terms = mask_loss(teacher, embeddings, requested)
        assert set(terms) == {"point_masks", "point_iou", "box_masks", "box_iou"}
        assert terms["point_iou"].item() == pytest.approx(0, abs=1e-10)
        assert terms["box_iou"].item() == pytest.approx(0, abs=1e-10)
        other = mask_loss(teacher, embeddings.flip(0), requested)
        assert other["point_masks"] > terms["point_masks"] and other["point_iou"] > 0

    def test_prompts_are_those_of_the_seed_and_the_step(self) -> None:
        teacher, embeddings, valid, (points, _) = self.requested()
        again, _ = teacher_masks(teacher, embeddings, valid, 5, 0, 7)
        other, _ = teacher_masks(teacher, embeddings, valid, 5, 0, 8)
        second, _ = teacher_masks(teacher, embeddings, valid, 5, 0, 7, part=1)
        assert torch.equal(again.prompt.points_xy, points.prompt.points_xy)
        assert not torch.equal(other.prompt.points_xy, points.prompt.points_xy)
        assert not torch.equal(second.prompt.points_xy, points.prompt.points_xy), "another batch of the same step"
