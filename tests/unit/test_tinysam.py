"""TinySAM: what each term trains, what stays, where it may begin, and that a killed run ends as an undisturbed one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compressors.distill.engine import Engine
from compressors.distill.optimizer import OptimizerConfig
from compressors.method import Compressed, RunContext
from compressors.mobilesam import MobileSam
from compressors.slimsam import SlimSam
from compressors.tinysam import TinySam
from core.checkpoint import weights_sha256
from core.errors import InputError
from students.files import save_model
from teachers.sam import Sam
from tests.unit.tiny import CONFIG, Killed, LabelledImages, TinyStudent, tiny_sam

OPTIMISATION = OptimizerConfig(lr=5e-3)
METHOD = TinySam(TinyStudent(), steps=2, batch=2, prompts=2, boxes="also", optimisation=OPTIMISATION)
NOTHING = {"embedding": 0.0, "token": 0.0, "output": 0.0, "annotations": 0.0}


def compress(method: TinySam | MobileSam | SlimSam, folder: Path, data: LabelledImages | None = None) -> Compressed:
    # Every step of a run that is to be stopped is saved; of others it would take most of the time.
    engine = Engine(folder, save_every_s=60.0 if data is None else -1.0, log_every=1)
    return method.compress(tiny_sam(), data or LabelledImages(), RunContext(0, folder, engine))


def changed(student: Sam) -> set[str]:
    """Parts that differ from the teacher's."""
    teacher = tiny_sam().state_dict()
    return {
        name.partition(".")[0]
        for name, tensor in student.state_dict().items()
        if not name.startswith("image_encoder.") and not torch.equal(tensor, teacher[name])
    }


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The student's encoder as it begins."""
    frozen = replace(METHOD, **NOTHING | {"embedding": 1.0}, optimisation=OptimizerConfig(lr=1e-300))  # type: ignore[arg-type]
    return encoder_sha256(compress(frozen, tmp_path_factory.mktemp("untrained")).student)


def encoder_sha256(student: Sam) -> str:
    """Of parameters alone: running statistics move by looking."""
    parameters = torch.nn.ParameterList(p.detach() for p in student.image_encoder.parameters())
    return weights_sha256(parameters)


def test_the_student_is_whole(tmp_path: Path) -> None:
    compressed = compress(METHOD, tmp_path)
    student = compressed.student
    assert student.config == METHOD.shape(CONFIG) and student.name == "tiny-tiny_vit_5m"
    assert compressed.images_seen == 8
    assert not student.training and not any(p.requires_grad for p in student.parameters())
    assert all(tensor.isfinite().all() for tensor in student.state_dict().values())
    # Prompts mean the same to teacher and student; the decoder has learnt.
    assert changed(student) == {"mask_decoder"}
    assert changed(compress(replace(METHOD, decoder="frozen"), tmp_path / "frozen").student) == set()


@pytest.mark.parametrize("term", NOTHING)
def test_every_term_alone_reaches_the_encoder(tmp_path: Path, untrained: str, term: str) -> None:
    """Through the frozen decoder, in the case of tokens, logits and annotated masks."""
    alone = replace(METHOD, decoder="frozen", **NOTHING | {term: 1.0})  # type: ignore[arg-type]
    assert encoder_sha256(compress(alone, tmp_path / term).student) != untrained


VARIANTS: dict[str, dict[str, object]] = {
    "default": {},
    "no hard prompts": {"hard_prompts": False},
    "no hard masks": {"hard_masks": False},
    "boxes": {"boxes": "alone"},
    "epsilon": {"epsilon": 0.5},
    "points": {"boxes": "none"},
    "prompts": {"prompts": 3},
    "output": {"embedding": 0.0, "token": 0.0},
    "baseline": {"embedding": 0.0, "token": 0.0, "output": 0.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("count", [4, pytest.param(len(VARIANTS), marks=pytest.mark.slow)])
def test_settings_change_the_student_and_are_repeatable(tmp_path: Path, count: int) -> None:
    variants = dict(list(VARIANTS.items())[:count])
    found = {}
    for name, changes in variants.items():
        method = replace(METHOD, **changes)  # type: ignore[arg-type]
        found[name] = weights_sha256(compress(method, tmp_path / name).student)
    assert weights_sha256(compress(METHOD, tmp_path / "again").student) == found["default"]
    assert len(set(found.values())) == len(variants)


def test_the_log_has_every_term(tmp_path: Path) -> None:
    compress(METHOD, tmp_path)
    line = (tmp_path / "full_stage.jsonl").read_text().splitlines()[-1]
    for kind in ("point", "box"):
        for term in ("token", "output", "focal", "dice", "iou"):
            assert f'"{kind}_{term}"' in line
    assert '"embedding"' in line


@pytest.mark.parametrize("kill_at", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_an_interrupted_run_ends_bit_identically(tmp_path: Path, kill_at: int) -> None:
    undisturbed = compress(METHOD, tmp_path / "a")
    with pytest.raises(Killed):
        compress(METHOD, tmp_path / "b", LabelledImages(kill_at=kill_at))
    resumed = compress(METHOD, tmp_path / "b")
    assert weights_sha256(resumed.student) == weights_sha256(undisturbed.student)


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        pytest.param(MobileSam(TinyStudent(), steps=1, batch=2), marks=pytest.mark.slow),
        SlimSam(0.5, steps=1, batch=2, importance_images=1),
    ],
)
def test_beginning_with_another_methods_student(tmp_path: Path, first: MobileSam | SlimSam) -> None:
    earlier = compress(first, tmp_path / "first").student
    save_model(tmp_path / "student.safetensors", earlier)
    method = replace(METHOD, init=str(tmp_path / "student.safetensors"))
    later = compress(method, tmp_path / "second").student
    assert later.config == earlier.config and later.name == "tiny-tinysam"
    assert weights_sha256(later.image_encoder) != weights_sha256(earlier.image_encoder)
    # With so small a rate that nothing moves, it is the earlier one.
    still = replace(method, optimisation=OptimizerConfig(lr=1e-300))
    assert encoder_sha256(compress(still, tmp_path / "third").student) == encoder_sha256(earlier)
    with pytest.raises(NotImplementedError):
        method.shape(CONFIG)


def test_a_student_of_another_teacher_is_refused(tmp_path: Path) -> None:
    other = Sam(replace(CONFIG, decoder_mlp_width=24), "other")
    save_model(tmp_path / "other.safetensors", other)
    with pytest.raises(InputError, match=r"other.safetensors: width of the decoder's MLPs 24, the teacher's 20; begin"):
        compress(replace(METHOD, init=str(tmp_path / "other.safetensors")), tmp_path)


def test_images_without_annotations_still_teach_the_embedding(tmp_path: Path) -> None:
    class Bare(LabelledImages):
        def sample(self, index: int):  # type: ignore[no-untyped-def]
            return super().sample(3)

    student = compress(METHOD, tmp_path / "bare", Bare()).student
    assert changed(student) == set()
    assert encoder_sha256(student) != untrained


def test_refused_settings() -> None:
    for changes, words in (
        ({"boxes": "both"}, "method.boxes=both is not one of none, also, alone"),
        ({"decoder": "tuned"}, "method.decoder=tuned is not one of trained, frozen"),
        ({"prompts": 0}, "method.prompts=0 must be at least 1"),
        ({"output": -1}, "method.output=-1 must be at least 0"),
        ({"output": float("nan")}, "method.output=nan must be at least 0 and finite"),
        ({"token": float("inf")}, "method.token=inf must be at least 0 and finite"),
        ({"epsilon": float("inf")}, "method.epsilon=inf must be above 0 and finite"),
        (NOTHING, "are all 0; give one of them a weight"),
        # A mask that teacher and student both miss would weigh 0 / 0.
        ({"epsilon": 0.0}, r"method\.epsilon=0\.0 must be above 0"),
        ({"optimisation": OptimizerConfig(schedule="plateau")}, "schedule=plateau goes by validation, which"),
    ):
        with pytest.raises(InputError, match=words):
            replace(METHOD, **changes)  # type: ignore[arg-type]
