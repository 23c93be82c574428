"""Reconstruction: roundings and steps by hand, drops that end with learning, units, resuming, and a smaller error."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compressors.distill.engine import Engine
from compressors.method import Compressed, RunContext
from compressors.ptq import Ptq
from compressors.quantize.learned import LearnedGrid, LearnedRounding, Learners, _OnGrid
from compressors.quantize.reconstruction import blocks
from core.checkpoint import weights_sha256
from core.errors import InputError
from core.protocols import Prompt
from data.batches import ImageBatches
from students.kinds import build_model
from students.quantized.layers import QuantizedLayer, QuantizedLinear, QuantizedProduct
from students.quantized.plan import planned_copy
from students.quantized.quantizers import UniformQuantizer
from students.quantized.scheme import Scheme
from students.student import Student
from teachers.sam import Sam
from tests.unit.stopped_learning import weights_and_steps
from tests.unit.tiny import Images, TinyStudent, tiny_sam

METHOD = Ptq(4, 4, metric="minmax", images=3, prompts=2, reconstruct="blocks", steps=8, batch=2, lr=0.1)


def compress(method: Ptq, folder: Path) -> Compressed:
    return method.compress(tiny_sam(), Images(), RunContext(0, folder, Engine(folder)))


def errors(student: Sam) -> tuple[float, float]:
    """Of the embedding and of the logits, relative, on the images calibrated on."""
    images = ImageBatches(Images(), 64, 4, 0)(range(3)).images
    prompt = Prompt(boxes_xyxy=torch.tensor([[5.0, 8.0, 40.0, 50.0]]).repeat(3, 1))
    with torch.inference_mode():
        (expected, masks), (found, answer) = (
            (e := model.encode(images), model.decode_frame(e, prompt).logits) for model in (tiny_sam(), student)
        )
    return tuple(float((a - b).square().mean() / b.var()) for a, b in ((found, expected), (answer, masks)))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def reconstructed(tmp_path_factory: pytest.TempPathFactory) -> Compressed:
    return compress(METHOD, tmp_path_factory.mktemp("run"))


def test_a_weight_lies_where_its_share_says() -> None:
    grid = UniformQuantizer(4, symmetric=True)
    grid.scale.fill_(0.5)
    weight = torch.tensor([[0.6, -0.6, 0.5, 9.0, -9.0]])
    learned = LearnedRounding(grid, weight)
    # Partly rounded it begins as the weight, but for what the codes -8 to 7 clip.
    assert torch.allclose(learned(weight), torch.tensor([[0.6, -0.6, 0.5, 3.5, -4.0]]))
    assert learned.share()[0, :3].tolist() == pytest.approx([0.2, 0.8, 0.0], abs=1e-6)
    assert learned.settled().tolist() == [[0.5, -0.5, 0.5, 3.5, -4.0]]
    learned.logits.data.fill_(5.0)
    assert learned.settled()[0, :3].tolist() == [1.0, -0.5, 1.0] and (learned.share() == 1).all()
    assert torch.equal(grid(learned.settled()), learned.settled()), "packing rounds nothing"


def test_a_share_above_half_rounds_up() -> None:
    learned = LearnedRounding(UniformQuantizer(4, symmetric=True), torch.tensor([0.45, 0.55, -0.45, -0.55]))
    assert learned.settled().tolist() == [0.0, 1.0, 0.0, -1.0]


def test_decided_roundings_cost_nothing_and_undecided_ones_most() -> None:
    grid = UniformQuantizer(4, symmetric=True)
    learned = LearnedRounding(grid, torch.tensor([0.5, 0.75]))
    # 1 - |2 h - 1|^2 of shares 0.5 and 0.75
    assert float(learned.undecided(2.0).detach()) == pytest.approx(1 + 0.75)
    learned.logits.data.copy_(torch.tensor([-9.0, 9.0]))
    assert float(learned.undecided(2.0).detach()) == 0


def test_a_step_learns_as_lsq_says() -> None:
    grid = UniformQuantizer(2, symmetric=False)
    grid.scale.fill_(1.0), grid.zero_point.fill_(1)
    learned = LearnedGrid(grid)
    x = torch.tensor([0.3, 1.4, 7.0, -3.0])
    learned(x).sum().backward()
    # LSQ, eq. 3: round(x / s) - x / s where it is not clipped, else the last code; d step = 0.1 s of it.
    by_scale = (0 - 0.3) + (1 - 1.4) + 2 - 1
    assert learned.step.grad is not None and float(learned.step.grad) == pytest.approx(0.1 * by_scale)
    # LSQ+: only clipped values move with the zero point, against it.
    assert learned.shift.grad is not None and float(learned.shift.grad) == pytest.approx(0.1 * 3 * -2)
    with torch.no_grad():
        learned.step.fill_(10 * torch.tensor(2.0).log()), learned.shift.fill_(2.0)
    for _ in range(2):
        learned.settle()
        assert float(grid.scale) == pytest.approx(2.0) and int(grid.zero_point) == 2, "settling twice changes nothing"
    assert torch.equal(grid(x), learned(x).detach())


@pytest.mark.parametrize("shape", [(), (1, 4, 1)])
def test_values_at_the_ends_of_the_grid_learn_too(shape: tuple[int, ...]) -> None:
    """``torch.clamp`` has no gradient where its input equals a bound, as codes at the ends do."""
    generator = torch.Generator().manual_seed(0)
    grid = UniformQuantizer(4, symmetric=False, shape=shape)
    grid.set_range(torch.full(shape, -1.0), 2 + torch.rand(shape, generator=generator))
    x = 4 * torch.randn(2, 4, 300, generator=generator)
    scaled = x / grid.scale
    codes = scaled.round() + grid.zero_point
    inside = (codes >= 0) & (codes <= 15)
    assert int((inside & ((codes == 15) | (codes == 0))).sum()) > 50, "there are many at the ends"
    learned = LearnedGrid(grid)
    given, weight = x.clone().requires_grad_(), torch.randn(x.shape, generator=generator)
    (weight * learned(given)).sum().backward()
    assert given.grad is not None and torch.equal(given.grad, weight * inside)
    # By hand: the step's gradient, times the change of the step by its logarithm at a tenth of the rate.
    of_step = weight * (codes.clamp(0, 15) - grid.zero_point - scaled * inside)
    expected = (of_step * grid.scale).sum_to_size(grid.scale.shape) / 10
    torch.testing.assert_close(learned.step.grad, expected, rtol=1e-4, atol=1e-4)


def test_dropped_values_pass_the_gradient_and_move_no_grid() -> None:
    x = torch.tensor([0.3, 1.4, 7.0, -3.0], requires_grad=True)
    scale, zero = (torch.tensor(1.0, requires_grad=True) for _ in range(2))
    found = _OnGrid.apply(x, scale, zero, torch.tensor([1.0, 0.0, 0.0, 1.0]), 0, 3)
    assert found.tolist() == pytest.approx([0.0, 1.4, 7.0, -1.0])
    (torch.tensor([1.0, 2.0, 3.0, 4.0]) * found).sum().backward()
    # Of what is kept, the first value is inside of the grid and the last is clipped to its lowest.
    assert x.grad is not None and x.grad.tolist() == [1.0, 2.0, 3.0, 0.0]
    assert scale.grad is not None and float(scale.grad) == pytest.approx(1 * (0 - 0.3) + 4 * -1)
    assert zero.grad is not None and float(zero.grad) == pytest.approx(4 * -1)


def test_values_are_dropped_while_a_unit_learns_and_never_after() -> None:
    layer = QuantizedLinear((4, 4), None, UniformQuantizer(4, True), UniformQuantizer(2, False))
    layer.take(torch.eye(4), None)
    learners, x = Learners(layer), torch.full((1000, 4), 0.3)
    with learners.in_place(0.2, torch.Generator().manual_seed(0)):
        assert isinstance(layer.input_quantizer, LearnedGrid)
        assert float((layer(x) != 0).float().mean()) == pytest.approx(0.2, abs=0.03)
    assert type(layer.input_quantizer) is UniformQuantizer and not layer(x).any()
    with pytest.raises(KeyboardInterrupt), learners.in_place(0.5, torch.Generator()):
        raise KeyboardInterrupt
    assert type(layer.input_quantizer) is UniformQuantizer and type(layer.weight_quantizer) is UniformQuantizer


def floats_passed(model: Sam) -> int:
    """Values behind grids of activations that lie on no value of the grid, for one image and box."""
    passed = 0

    def hook(grid: UniformQuantizer | LearnedGrid, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal passed
        codes = output / grid.scale + grid.zero_point
        passed += int(((codes - codes.round()).abs() > 1e-3).sum()) + int((codes.unique().round() > 15).sum())

    hooks = [
        grid.register_forward_hook(hook)
        for module in model.modules()
        if isinstance(module, QuantizedLayer | QuantizedProduct)
        for grid in module.children()
        if grid is not getattr(module, "weight_quantizer", None)
    ]
    with torch.inference_mode():
        embedding = model.encode(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
        model.decode_frame(embedding, Prompt(boxes_xyxy=torch.tensor([[5.0, 8.0, 40.0, 50.0]])))
    for handle in hooks:
        handle.remove()
    return passed


def test_what_is_scored_drops_nothing(reconstructed: Compressed) -> None:
    """Published rows of three methods had the drop on when they were scored."""
    student = reconstructed.student
    kinds = {type(module) for module in student.modules()}
    assert UniformQuantizer in kinds and not {LearnedGrid, LearnedRounding, Learners} & kinds
    assert floats_passed(student) == 0 and errors(student) == errors(student)
    # The same count sees a drop that was left on.
    with Learners(student.image_encoder.blocks[0], "scales").in_place(0.5, torch.Generator()):
        assert floats_passed(student) > 0


def test_reconstruction_answers_nearer_to_the_float_model(reconstructed: Compressed, tmp_path: Path) -> None:
    before, after = (
        errors(compress(replace(METHOD, reconstruct="none"), tmp_path).student),
        errors(reconstructed.student),
    )
    assert after[0] < 0.85 * before[0] and after[1] != before[1]
    (stage,) = reconstructed.stages
    assert stage.step == 8 * len(blocks(planned_copy(tiny_sam(), Scheme()))) and stage.images == 2 * stage.step


def test_units_hold_both_cross_attentions_and_every_layer_once() -> None:
    model = planned_copy(tiny_sam(), Scheme())
    found = blocks(model)
    assert found[:5] == [
        "image_encoder.patch_embed",
        *(f"image_encoder.blocks.{i}" for i in range(3)),
        "image_encoder.neck",
    ]
    assert found[5:8] == [
        *(f"mask_decoder.transformer.layers.{i}" for i in range(2)),
        "mask_decoder.transformer.final_attn_token_to_image",
    ]
    layers = [path for path, m in model.named_modules() if isinstance(m, QuantizedLayer | QuantizedProduct)]
    assert all(sum(layer == unit or layer.startswith(f"{unit}.") for unit in found) == 1 for layer in layers)


RESNET = ("conv1", *(f"layer{stage}.0" for stage in (1, 2, 3, 4)))
REPVIT = (
    *("stem", "stages_0.blocks.0", "stages_0.blocks.1"),
    *(
        f"stages_{stage}.{name}"
        for stage, depth in ((1, 2), (2, 14), (3, 2))
        for name in ("downsample", *(f"blocks.{number}" for number in range(depth)))
    ),
)
TINY_VIT = (
    *("patch_embed", "stages.0"),
    *(f"stages.{i}.{name}" for i in (1, 2, 3) for name in ("downsample", "blocks.0")),
)


@pytest.mark.parametrize(
    "student, of_backbone",
    [
        (Student("timm", "resnet10t"), RESNET),
        pytest.param(Student("timm", "repvit_m1"), REPVIT, marks=pytest.mark.slow),
        (TinyStudent(), TINY_VIT),
    ],
)
def test_units_of_a_backbone_are_its_blocks(student: Student, of_backbone: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    model = planned_copy(build_model(student.shape(tiny_sam().config)).eval(), Scheme(4, 4))
    units = [unit for unit in blocks(model) if unit.startswith("image_encoder.")]
    expected = [f"image_encoder.backbone.{unit}" for unit in of_backbone]
    projections = [
        f"image_encoder.projections.{i}" for i in range(len(getattr(model.image_encoder, "projections", ())))
    ]
    assert units == [*expected, *projections, "image_encoder.neck"]
    layers = [path for path, m in model.named_modules() if isinstance(m, QuantizedLayer | QuantizedProduct)]
    of_encoder = [path for path in layers if path.startswith("image_encoder.")]
    assert all(sum(layer == unit or layer.startswith(f"{unit}.") for unit in units) == 1 for layer in of_encoder)


@pytest.mark.slow
def test_blocks_of_convolutions_learn(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = build_model(Student("timm", "resnet10t").shape(tiny_sam().config), "resnet").eval().requires_grad_(False)
    method = replace(METHOD, steps=6, decoder="float", images=2, prompts=1)
    image = ImageBatches(Images(), 64, 4, 0)(range(1)).images
    found = []
    for reconstruct in ("none", "blocks"):
        folder = tmp_path / reconstruct
        made = replace(method, reconstruct=reconstruct).compress(
            teacher, Images(), RunContext(0, folder, Engine(folder))
        )
        with torch.inference_mode():
            found.append(float((made.student.encode(image) - teacher.encode(image)).square().mean()))
    # Five units of the backbone, two projections, the neck.
    assert made.stages[0].step == 6 * 8 and found[1] < found[0]


def test_a_reconstruction_that_was_stopped_ends_with_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = replace(METHOD, decoder="float", steps=2, images=2)
    undisturbed, _ = weights_and_steps(method, tmp_path / "a", monkeypatch)
    # Within a unit, and once more as the next one begins.
    resumed, steps = weights_and_steps(method, tmp_path / "b", monkeypatch, stops=(3, 6))
    assert steps == [0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9] and resumed == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"reconstruct": "layers"}, {"learn": "rounding"}, {"learn": "scales"}, {"drop": 0.0}]
)
def test_settings_change_the_model(tmp_path: Path, reconstructed: Compressed, changes: dict[str, object]) -> None:
    student = compress(replace(METHOD, **changes), tmp_path).student  # type: ignore[arg-type]
    assert weights_sha256(student) != weights_sha256(reconstructed.student)


@pytest.mark.parametrize("changes", [{"reconstruct": "layers", "learn": "rounding"}, {"twin": True, "learn": "scales"}])
def test_units_in_which_nothing_learns_are_passed_over(tmp_path: Path, changes: dict[str, object]) -> None:
    student = compress(replace(METHOD, steps=1, **changes), tmp_path).student  # type: ignore[arg-type]
    assert student.plan.scheme.weight_bits == METHOD.weight_bits


def test_a_reconstruction_in_which_nothing_learns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"method\.learn=scales: nothing that is reconstructed has such"):
        compress(replace(METHOD, activation_bits=32, learn="scales", big=False, pcc=False, mac=False), tmp_path)


def test_refused_settings() -> None:
    for changes, words in (
        ({"reconstruct": "heads"}, "method.reconstruct=heads is not one of none, blocks, layers"),
        ({"learn": "biases"}, "method.learn=biases is not one of both, rounding, scales"),
        ({"drop": 1.0}, "method.drop=1.0 must be at least 0 and below 1"),
        ({"steps": 0}, "method.steps=0 must be at least 1"),
        ({"lr": 0.0}, "method.lr=0.0 must be above 0"),
    ):
        with pytest.raises(InputError, match=words):
            replace(METHOD, **changes)  # type: ignore[arg-type]
