"""SlimSAM and its control, from teacher to student: shapes, repeatability, resuming, and what is refused."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compressors.distill.engine import Engine
from compressors.distill.optimizer import OptimizerConfig
from compressors.method import Compressed, Compressor, RunContext
from compressors.scratch import Scratch
from compressors.slimsam import SlimSam
from core import distributed
from core.checkpoint import weights_sha256
from core.errors import InputError
from data.batches import ImageBatches
from students.files import load_model
from teachers.sam import Sam
from tests.unit.tiny import CONFIG, Images, Killed, tiny_sam

OPTIMISATION = OptimizerConfig(lr=0.01)
SLIM = SlimSam(0.5, importance_images=3, steps=4, batch=2, optimisation=OPTIMISATION)
SCRATCH = Scratch(0.5, steps=4, batch=2, optimisation=OPTIMISATION)
# Images read: 3 for the first importance, 8 in the first distillation, and the same again.
READ = {"slimsam": 22, "scratch": 16}
METHODS: dict[str, Compressor] = {"slimsam": SLIM, "scratch": SCRATCH}


def compress(method: Compressor, folder: Path, data: Images | None = None, seed: int = 0) -> Compressed:
    # Every step of a run that is to be stopped is saved; of others it would take most of the time.
    engine = Engine(folder, save_every_s=60.0 if data is None else -1.0)
    return method.compress(tiny_sam(), data or Images(), RunContext(seed, folder, engine))


@pytest.fixture(scope="module", autouse=True)
def every_image_is_read_anew() -> Iterator[None]:
    """Interruptions are placed by the number of images read, so none may be kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data.batches.CACHE_BYTES", 0)
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, int]]:
    """What each method ends with if nothing stops it: the hash of the student, and the images seen."""
    runs = {name: compress(method, tmp_path_factory.mktemp(name)) for name, method in METHODS.items()}
    return {name: (weights_sha256(run.student), run.images_seen) for name, run in runs.items()}


@pytest.mark.parametrize("name", METHODS)
def test_a_student_has_the_promised_shape_and_is_frozen(tmp_path: Path, name: str) -> None:
    method, data, used = METHODS[name], Images(), tiny_sam()
    compressed = method.compress(used, data, RunContext(0, tmp_path, Engine(tmp_path)))
    student, shape = compressed.student, method.shape(CONFIG)
    assert student.config == shape == student.config
    assert (shape.encoder.embed_dim, shape.encoder.attention_widths, shape.encoder.mlp_widths) == (
        12,
        (12,) * 3,
        (24,) * 3,
    )
    assert (student.name, compressed.images_seen) == (f"tiny-{name}-0.5", 16)
    assert compressed.train_seconds > 0
    assert len(data.read) == READ[name]
    assert not student.training
    assert not any(parameter.requires_grad for parameter in student.parameters())
    teacher = tiny_sam().state_dict()
    for key, value in student.state_dict().items():
        assert value.isfinite().all()
        if not key.startswith("image_encoder."):
            assert torch.equal(value, teacher[key])
    assert student.encode(torch.zeros(1, 3, 64, 64)).shape == (1, 16, 4, 4)
    # The teacher is left as it was.
    assert weights_sha256(used) == weights_sha256(tiny_sam()) and not used.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in used.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_the_same_run_twice_is_bit_identical_whatever_was_drawn_before(
    tmp_path: Path, undisturbed: dict[str, tuple[str, int]], name: str
) -> None:
    torch.manual_seed(99)
    assert weights_sha256(compress(METHODS[name], tmp_path / "a").student) == undisturbed[name][0]
    assert weights_sha256(compress(METHODS[name], tmp_path / "b", seed=1).student) != undisturbed[name][0]


@pytest.mark.parametrize(
    "changes, line",
    [
        # Five images, two a step: two and a half steps an epoch.
        ({"aligned_epochs": 2}, "method.steps=4: method.aligned_epochs=2 epochs of 5 images last 5 steps; for the"),
        ({"aligned_epochs": 1}, None),
        ({"aligned_epochs": 0}, None),
        ({"aligned_epochs": 2, "bottleneck_weights": "none", "embedding_weights": "none"}, None),
        ({"aligned_epochs": 2, "alternate": False}, None),
    ],
)
def test_a_step_that_ends_while_features_are_aligned_is_said(
    tmp_path: Path, changes: dict[str, object], line: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    compress(replace(SLIM, importance="magnitude", **changes), tmp_path)  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert said.count("features are aligned to the end of") == (line is not None)
    assert line is None or (line in said and "data.count=10000" in said)


@pytest.mark.parametrize("kept_bytes", [0, 1000, -1])
def test_a_damaged_cut_is_made_anew(tmp_path: Path, kept_bytes: int) -> None:
    method = replace(SLIM, importance="magnitude", steps=1)
    first = weights_sha256(compress(method, tmp_path).student)
    cut = tmp_path / "embedding_pruned.safetensors"
    whole = cut.read_bytes()
    cut.write_bytes(whole[:kept_bytes])
    assert weights_sha256(compress(method, tmp_path).student) == first
    assert len(cut.read_bytes()) == len(whole)


@pytest.mark.slow
def test_the_other_settings_are_repeatable_too(tmp_path: Path) -> None:
    method = replace(SLIM, importance="random", embedding="tied", rel_pos="reset", alternate=False)
    first, again = (weights_sha256(compress(method, tmp_path / name).student) for name in "ab")
    assert first == again


@pytest.mark.parametrize(
    ("name", "kill_at"),
    [
        *(pytest.param("slimsam", place, marks=pytest.mark.slow) for place in (1, 8, 19)),
        *(("slimsam", 12), ("scratch", 9)),
    ],
)
def test_an_interrupted_run_ends_bit_identically(
    tmp_path: Path, undisturbed: dict[str, tuple[str, int]], name: str, kill_at: int
) -> None:
    with pytest.raises(Killed):
        compress(METHODS[name], tmp_path, Images(kill_at=kill_at))
    torch.manual_seed(99)
    rest = Images()
    resumed = compress(METHODS[name], tmp_path, rest)
    assert (weights_sha256(resumed.student), resumed.images_seen) == undisturbed[name]
    # It went on rather than starting over; a step or a scoring that was cut off is done again.
    assert len(rest.read) <= READ[name] - kill_at + 2


def test_a_run_may_end_after_step_1_with_the_student_that_step_2_begins_with(tmp_path: Path) -> None:
    method = replace(SLIM, until="step_1")
    ended, whole = compress(method, tmp_path / "ended"), compress(SLIM, tmp_path / "whole")
    encoder = ended.student.config.encoder
    assert ended.student.config == method.shape(CONFIG) and ended.student.name == "tiny-slimsam-0.5-step1"
    teacher = CONFIG.encoder
    assert (encoder.embed_dim, encoder.attention_widths) == (12, teacher.attention_widths)
    assert encoder.mlp_widths == teacher.mlp_widths
    logs = [(tmp_path / name / "bottleneck_aligning.jsonl").read_text().splitlines() for name in ("ended", "whole")]
    losses = [
        [{k: v for k, v in json.loads(line).items() if "images" not in k and "memory" not in k} for line in log]
        for log in logs
    ]
    assert losses[0] == losses[1]
    # Images trained on, and behind the scores of each cut.
    assert [(run.images_seen, run.importance_images) for run in (ended, whole)] == [(8, 3), (16, 6)]
    assert replace(method, scope="global").shape(CONFIG) == ended.student.config


def test_the_steps_have_their_own_patience_and_may_end_with_the_last_weights(tmp_path: Path) -> None:
    given = []

    class Noting(Engine):
        def fit(self, stage):  # type: ignore[no-untyped-def]
            given.append((stage.name, stage.optimisation.patience, stage.keep_best))
            return super().fit(stage)

    plateau = replace(OPTIMISATION, schedule="plateau", patience=4)
    method = replace(SLIM, importance="magnitude", steps=1, validations=1, optimisation=plateau)
    for settings in ({}, {"patience_step_1": 3, "keep_best": False}):
        context = RunContext(0, tmp_path / str(len(given)), Noting(tmp_path / str(len(given))), validate=lambda _: 0.5)
        compressed = replace(method, **settings).compress(tiny_sam(), Images(), context)
        assert compressed.importance_images == 0
    names = ("bottleneck_aligning", "embedding_aligning")
    assert given == [(names[0], 4, True), (names[1], 4, True), (names[0], 3, False), (names[1], 4, False)]


@pytest.mark.parametrize(("steps", "validations", "found"), [(4, 2, 2), (5, 3, 3), (5, 4, 3), (2, 5, 2)])
def test_validations_are_as_many_as_given_at_most(tmp_path: Path, steps: int, validations: int, found: int) -> None:
    scored = []

    def validate(model: Sam) -> float:
        scored.append(model.name)
        return 0.5

    method = replace(SLIM, importance="magnitude", steps=steps, validations=validations)
    method.compress(tiny_sam(), Images(), RunContext(0, tmp_path, Engine(tmp_path), validate=validate))
    assert scored == ["bottleneck_aligning"] * found + ["embedding_aligning"] * found


@pytest.mark.parametrize("name", METHODS)
def test_a_finished_run_reads_nothing(tmp_path: Path, undisturbed: dict[str, tuple[str, int]], name: str) -> None:
    compress(METHODS[name], tmp_path)
    again = compress(METHODS[name], tmp_path, Images(kill_at=0))
    assert (weights_sha256(again.student), again.images_seen) == undisturbed[name]


@pytest.mark.slow
def test_a_folder_of_other_settings_is_not_continued(tmp_path: Path) -> None:
    short = replace(SLIM, steps=1, importance_images=1)
    compress(short, tmp_path / "used")
    for name, other in {"random": replace(short, importance="random"), "ratio": replace(short, ratio=0.75)}.items():
        fresh = weights_sha256(compress(other, tmp_path / name).student)
        assert weights_sha256(compress(other, tmp_path / "used").student) == fresh


def test_processes_train_what_the_first_one_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would cut other channels where its sums round otherwise."""
    first = compress(SLIM, tmp_path / "first").student

    def until_the_first_is_here() -> None:
        for cut in (tmp_path / "first").glob("*_pruned.safetensors"):
            shutil.copy(cut, tmp_path / "other")

    monkeypatch.setattr(distributed, "is_main", lambda: False)
    monkeypatch.setattr(distributed, "barrier", until_the_first_is_here)
    monkeypatch.setattr(SlimSam, "_slim", lambda *_: pytest.fail("cut by itself"))
    (tmp_path / "other").mkdir()
    assert weights_sha256(compress(SLIM, tmp_path / "other").student) == weights_sha256(first)


def test_the_pruned_encoders_are_kept_beside_the_states(tmp_path: Path) -> None:
    compress(SLIM, tmp_path)
    embedding = load_model(tmp_path / "embedding_pruned.safetensors").config.encoder
    assert (embedding.embed_dim, embedding.attention_widths, embedding.mlp_widths) == (12, (24,) * 3, (48,) * 3)
    assert load_model(tmp_path / "attention_and_mlp_pruned.safetensors").config == SLIM.shape(CONFIG)


def test_more_importance_images_than_images_are_no_error(tmp_path: Path) -> None:
    data = Images(3)
    compress(replace(SLIM, importance_images=1000, steps=1), tmp_path, data)
    assert len(data.read) == 2 * (3 + 2)


VARIANTS: dict[str, dict[str, object]] = {
    "default": {},
    "importance": {"importance": "magnitude"},
    "embedding": {"embedding": "tied"},
    "one step": {"alternate": False},
    "global": {"scope": "global"},
    "rel_pos": {"rel_pos": "reset"},
    "step 1": {"bottleneck_weights": "none"},
    "step 2": {"embedding_weights": "none"},
    "global q/k/v": {"align_global_qkv": False},
    "softmax": {"softmax": "rescale"},
}


@pytest.mark.slow
@pytest.mark.parametrize("count", [5, pytest.param(len(VARIANTS), marks=pytest.mark.slow)])
def test_settings_change_the_student(tmp_path: Path, count: int) -> None:
    variants = dict(list(VARIANTS.items())[:count])
    found = set()
    for name, changes in variants.items():
        method = replace(SLIM, steps=1, importance_images=1, **changes)  # type: ignore[arg-type]
        found.add(weights_sha256(compress(method, tmp_path / name).student))
    assert len(found) == len(variants)


def test_the_student_learns(tmp_path: Path) -> None:
    """After enough steps it is nearer to the teacher than where it was cut."""
    method = replace(SLIM, steps=20, optimisation=OptimizerConfig(lr=5e-3))
    # Half of the steps of each distillation are for the features.
    student = compress(method, tmp_path).student
    cut = load_model(tmp_path / "embedding_pruned.safetensors")
    images = ImageBatches(Images(), 64, 4, 0).of(range(5)).images
    expected = tiny_sam().encode(images)
    assert (student.encode(images) - expected).square().mean() < 0.5 * (cut.encode(images) - expected).square().mean()


def test_the_control_sees_as_many_images_as_slimsam() -> None:
    """With the defaults of both: two distillations against one."""
    slim, scratch = SlimSam(0.5), Scratch(0.5)
    assert slim.steps * slim.batch == scratch.steps * scratch.batch
    assert slim.optimisation == scratch.optimisation
    assert slim.shape(CONFIG) == scratch.shape(CONFIG)
    assert slim.shrinks and scratch.shrinks


def test_the_highest_ratio_leaves_one_channel_a_head(tmp_path: Path) -> None:
    method = replace(SLIM, ratio=0.999, steps=1)
    student = compress(method, tmp_path).student
    assert student.config == method.shape(CONFIG)
    encoder = student.config.encoder
    assert (encoder.embed_dim, encoder.attention_widths, encoder.mlp_widths) == (2, (2,) * 3, (2,) * 3)
    assert student.encode(torch.randn(1, 3, 64, 64)).isfinite().all()


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: SlimSam(0.0), r"ratio=0\.0 is outside \(0, 1\); try ratio=0\.5 or ratio=0\.77"),
    (lambda: SlimSam(1.0), r"ratio=1\.0 is outside \(0, 1\)"),
    (lambda: SlimSam(-0.5), r"ratio=-0\.5 is outside \(0, 1\)"),
    (lambda: SlimSam(float("nan")), r"ratio=nan is outside \(0, 1\)"),
    (
        lambda: SlimSam(0.5, importance="fisher"),
        "method.importance=fisher is not one of disturbed_taylor, taylor, group_fisher, hessian, magnitude, random",
    ),
    (lambda: SlimSam(0.5, embedding="loose"), "method.embedding=loose is not one of free, tied"),
    (lambda: SlimSam(0.5, scope="block"), "method.scope=block is not one of local, global"),
    (lambda: SlimSam(0.5, normalisation="l2"), "method.normalisation=l2 is not one of mean, max, sum, gaussian"),
    (lambda: SlimSam(0.5, embedding_weights="fixed"), "method.embedding_weights=fixed is not one of constant, dynamic"),
    (lambda: SlimSam(0.5, validations=-1), "method.validations=-1 must be at least 0"),
    (
        lambda: SlimSam(0.5, optimisation=OptimizerConfig(schedule="plateau")),
        "schedule=plateau goes by validation; give method.validations=20",
    ),
    (lambda: SlimSam(0.5, until="step_1", alternate=False), "method.until=step_1 ends the first of two steps"),
    (lambda: SlimSam(0.5, until="half"), "method.until=half is not one of step_2, step_1"),
    (lambda: SlimSam(0.5, aligned_epochs=-1), "method.aligned_epochs=-1 must be at least 0"),
    (lambda: SlimSam(0.5, padding="leave"), "method.padding=leave is not one of ignore, count, embedding"),
    (lambda: SlimSam(0.5, patience_step_1=-1), "method.patience_step_1=-1 must be at least 0"),
    (lambda: SlimSam(0.5, rel_pos="drop"), "method.rel_pos=drop is not one of keep, reset"),
    (lambda: SlimSam(0.5, importance_images=0), "method.importance_images=0 must be at least 1"),
    (lambda: SlimSam(0.5, steps=0), "method.steps=0 must be at least 1"),
    (lambda: SlimSam(0.5, batch=-3), "method.batch=-3 must be at least 1"),
    (lambda: SlimSam(0.5, noise=float("inf")), "method.noise=inf must be above 0 and finite"),
    (lambda: SlimSam(0.5, noise=0.0), r"method\.noise=0\.0 must be above 0"),
    (lambda: SlimSam(0.5, noise=float("nan")), r"method\.noise=nan must be above 0"),
    (lambda: Scratch(0.0), r"ratio=0\.0 is outside \(0, 1\); try ratio=0\.5 or ratio=0\.77"),
    (lambda: Scratch(2.0), r"ratio=2\.0 is outside \(0, 1\)"),
    (lambda: Scratch(0.5, steps=0), "method.steps=0 must be at least 1"),
    (lambda: Scratch(0.5, batch=0), "method.batch=0 must be at least 1"),
    (
        lambda: Scratch(0.5, optimisation=OptimizerConfig(schedule="plateau")),
        "schedule=plateau goes by validation, which",
    ),
]


@pytest.mark.parametrize(("make", "words"), REFUSED)
def test_refused_settings(make: Callable[[], object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()
