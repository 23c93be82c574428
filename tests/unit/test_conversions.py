"""Every layout gives back the model that was written, bit for bit, and says what it is; or it is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from compressors.ptq import Ptq
from core.checkpoint import weights_sha256, write_torch
from core.errors import InputError
from core.protocols import Prompt
from experiments.cli.command_line import main
from experiments.commands.convert import LAYOUTS
from experiments.config.targets import mirror
from experiments.result_file import read_rows
from experiments.runs.checkpoints import LoadedModel, find_model
from experiments.runs.identity import model_sha256, parent_metadata
from students.convert.layouts import CONFIG as MOBILE_SAM
from students.convert.layouts import to_mobile_sam
from students.files import describe, read_model_metadata, save_model
from students.kinds import build_model
from students.pruned_vit import pruned_shape
from students.quantized.plan import pack, planned_copy
from students.quantized.scheme import Scheme
from teachers.catalog import MODELS, POCKET
from teachers.initial_weights import initialise_sam
from teachers.sam import Sam, SamConfig
from tests.unit.tiny import tiny_sam

ABOUT = {
    "method": "slimsam+tinysam",
    "ratio": 0.5,
    "teacher": "sam_pocket",
    "seed": 3,
    "run_id": "slimsam-r0.5-s3-01234567",
    "images_seen": 600,
    "teacher_sha256": "ab" * 32,
}
# Of a student of sam_pocket, with its decoder, but with two of its six blocks: tests are quicker.
PRUNED = pruned_shape(POCKET, 0.5)
SHAPE = replace(
    PRUNED,
    encoder=replace(
        PRUNED.vit,
        attention_widths=PRUNED.vit.attention_widths[:2],
        mlp_widths=PRUNED.vit.mlp_widths[:2],
        global_blocks=(1,),
    ),
)
ENDINGS = {"hf": "-r0.5-s3-0123.hf", "meta": ".pth", "sampress": ".safetensors"}


def sam(config: SamConfig, name: str = "sam_pocket-slimsam-0.5") -> Sam:
    torch.manual_seed(0)
    model = Sam(config, name)
    initialise_sam(model)
    for parameter in model.parameters():
        # Relative positions and biases too.
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("student") / "student.safetensors"
    save_model(path, sam(SHAPE), ABOUT)
    return path


def answers(model: Sam) -> tuple[Tensor, ...]:
    size = model.input_size
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    boxes = torch.tensor([[0.1, 0.2, 0.7, 0.9], [0.4, 0.1, 0.6, 0.3]]) * size
    with torch.inference_mode():
        embedding = model.encode(image)
        found = [
            model.decode(embedding, prompt, (size, size), multimask)
            for prompt in (Prompt(boxes_xyxy=boxes), Prompt.foreground(boxes[:, None, :2]))
            for multimask in (False, True)
        ]
    return embedding, *(part for masks in found for part in (masks.logits, masks.iou_pred))


def assert_same(found: LoadedModel, first: Sam, about: dict[str, Any] = ABOUT) -> None:
    assert found.model.config == first.config and found.model.name == first.name
    assert weights_sha256(found.model) == weights_sha256(first)
    assert found.about == about
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(answers(found.model), answers(first), strict=True))


def converted(source: Path | str, to: str, out: Path) -> Path:
    """What the command does, without its start."""
    LAYOUTS[to](out, find_model(str(source)))
    return out


@pytest.mark.slow
def test_a_student_with_four_heads_survives_any_two_conversions(student: Path, tmp_path: Path) -> None:
    model = find_model(str(student)).model
    assert model.config.decoder_heads == 4
    # With 8 heads it would be another model.
    changed = Sam(replace(model.config, decoder_heads=8)).eval()
    changed.load_state_dict(model.state_dict())
    assert not torch.allclose(answers(changed)[1], answers(model)[1], atol=1e-3)
    path, pairs = student, set()
    # Each layout follows each.
    for number, to in enumerate(["hf", "hf", "meta", "meta", "sampress", "sampress", "hf", "sampress", "meta", "hf"]):
        pairs.add((path.parent.name, to))
        path = converted(path, to, tmp_path / str(number) / to / f"a{ENDINGS[to]}")
        assert_same(find_model(str(path)), model)
        assert read_model_metadata(path) == ABOUT
    assert len(pairs) == 10


def test_what_cannot_be_known_is_required_and_never_assumed(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = find_model(str(student)).model
    bare = tmp_path / "bare.pth"
    torch.save(model.state_dict(), bare)
    for command in (["evaluate", "evaluation=shapes"], ["convert", "to=hf", f"out={tmp_path / 'hf'}"]):
        assert main([*command, f"checkpoint={bare}"]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith(f"error: {bare}: its tensors do not say how many heads the mask decoder has")
        assert "give checkpoint.decoder_heads=NUMBER" in line
    assert list(tmp_path.iterdir()) == [bare]
    words = [f"checkpoint={bare}", "checkpoint.decoder_heads=4", "to=sampress", f"out={tmp_path / 'a.safetensors'}"]
    assert main(["convert", *words]) == 0
    assert_same(find_model(str(tmp_path / "a.safetensors")), renamed(model, "bare"), {})
    other = find_model(str(bare), 2).model
    assert other.config.decoder_heads == 2
    # What is kept of one is not taken for the other's.
    assert weights_sha256(other) == weights_sha256(model) and model_sha256(other) != model_sha256(model)
    with pytest.raises(InputError, match=r"bare\.pth: decoder_heads is 3, which does not divide the width 64"):
        find_model(str(bare), 3)


def renamed(model: Sam, name: str) -> Sam:
    copy = Sam(model.config, name).eval()
    copy.load_state_dict(model.state_dict())
    return copy


@pytest.mark.parametrize("to", ENDINGS)
def test_heads_that_a_file_contradicts_are_refused(to: str, student: Path, tmp_path: Path) -> None:
    path = converted(student, to, tmp_path / f"a{ENDINGS[to]}")
    assert find_model(str(path), 4).model.config == SHAPE
    with pytest.raises(InputError, match=r"checkpoint\.decoder_heads=8: the decoder of .* has 4; leave it out"):
        find_model(str(path), 8)
    with pytest.raises(InputError, match=r"checkpoint\.decoder_heads=4: the decoder of sam_pocket has|has 4; leave"):
        find_model("sam_pocket", 8)


def test_shapes_of_published_models_need_no_word(tmp_path: Path) -> None:
    shape = pruned_shape(MODELS["sam_vit_b"].config, 0.77)
    with torch.device("meta"):
        names = {name: tensor.shape for name, tensor in Sam(shape).state_dict().items()}
    torch.save({name: torch.zeros(size) for name, size in names.items()}, tmp_path / "vit_p77.pth")
    found = find_model(str(tmp_path / "vit_p77.pth"))
    assert found.model.config == shape and shape.decoder_heads == 8
    # It is a student, though nothing says whose.
    assert found.about == {} and found.model.name == "vit_p77"


def test_rows_call_a_student_that_was_read_again_what_it_is(student: Path, tmp_path: Path) -> None:
    quick = ["evaluation=shapes", "evaluation.images=1", "evaluation.latency_runs=1"]
    path = converted(student, "meta", tmp_path / "a.pth")
    rows = []
    for words in ([], ["checkpoint.decoder_heads=4"]):
        assert main(["evaluate", f"checkpoint={path}", *words, f"out={tmp_path / 'out'}", *quick]) == 0
        rows += [row for row in read_rows(tmp_path / "out" / "result.json") if row.student]
        # Of another program, which knows nothing of this one.
        torch.save(dict(torch.load(path)), path)
    known, unknown = rows
    for key in ("method", "ratio", "teacher", "seed", "run_id"):
        assert getattr(known, key) == ABOUT[key]
    assert known.student == "sam_pocket-slimsam-0.5"
    assert (unknown.method, unknown.teacher, unknown.student) == ("unknown", None, "a")
    assert (known.miou, known.miou_point) == (unknown.miou, unknown.miou_point)


@pytest.mark.parametrize("to", ENDINGS)
def test_a_chain_goes_on_from_any_layout(to: str, student: Path, tmp_path: Path) -> None:
    method = mirror(Ptq, "compressors.ptq.Ptq")(init=str(converted(student, to, tmp_path / f"a{ENDINGS[to]}")))
    assert parent_metadata(SimpleNamespace(method=method)) == ABOUT


def test_a_teacher_stays_a_teacher(tmp_path: Path) -> None:
    for to, ending in ENDINGS.items():
        found = find_model(str(converted("sam_pocket", to, tmp_path / f"a{ending}")))
        assert_same(found, find_model("sam_pocket").model, {"method": "teacher", "teacher": "sam_pocket"})


def test_mobile_sams_layout_keeps_what_a_student_is(tmp_path: Path) -> None:
    model = build_model(MOBILE_SAM, "mine").requires_grad_(False).eval()
    save_model(tmp_path / "a.safetensors", model, ABOUT)
    found = find_model(str(converted(tmp_path / "a.safetensors", "mobile_sam", tmp_path / "a.pt")))
    assert found.about == ABOUT and found.model.name == "mine"
    assert weights_sha256(found.model) == weights_sha256(model)
    loaded = torch.load(tmp_path / "a.pt", weights_only=True)
    assert "image_encoder.norm_head.weight" in loaded and loaded._metadata["sampress"]


def test_a_tiny_vit_of_another_frame_is_not_taken_for_mobile_sam(tmp_path: Path) -> None:
    """Its tensors have the same shapes."""
    model = build_model(MOBILE_SAM, "mine").requires_grad_(False).eval()
    facts = describe(model, ABOUT)
    facts["config"]["encoder"] |= {"image_size": 512, "grid": 32}
    write_torch(tmp_path / "a.pt", to_mobile_sam(model.state_dict(), {}), json.dumps(facts))
    with pytest.raises(InputError, match=r"a\.pt: says beside its tensors that it is no TinyViT-5M at 1024 pixels"):
        find_model(str(tmp_path / "a.pt"))


def test_a_model_called_by_its_shape_is_said_to_be_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = find_model("sam_pocket").model.state_dict()
    torch.save(state, tmp_path / "same.pth")
    torch.save(state | {"mask_decoder.iou_token.weight": torch.zeros(1, 128)}, tmp_path / "further.pth")
    found = {name: find_model(str(tmp_path / f"{name}.pth")) for name in ("same", "further")}
    assert {(model.model.name, model.about["method"]) for model in found.values()} == {("sam_pocket", "teacher")}
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{tmp_path / 'further.pth'}: called sam_pocket by its shape; " + (
        "nothing shows that its weights are the published ones"
    )


def test_a_runs_folder_is_refused_with_the_file_to_give(student: Path) -> None:
    with pytest.raises(InputError, match=rf"a run's folder; give its student, checkpoint={re.escape(str(student))}$"):
        find_model(str(student.parent))


def test_a_model_that_is_not_there_is_reported_by_the_setting_that_names_it() -> None:
    for setting in ("checkpoint", "method.init"):
        with pytest.raises(InputError, match=f"^{setting}=gone.pth is neither a file nor a model; choose"):
            find_model("gone.pth", setting=setting)


def test_a_decoder_trained_by_transformers_keeps_its_layer_norms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = sam(replace(SHAPE, decoder_norm_eps=1e-6))
    save_model(tmp_path / "a.safetensors", model, ABOUT)
    hf = converted(tmp_path / "a.safetensors", "hf", tmp_path / "hf")
    assert json.loads((hf / "config.json").read_text())["mask_decoder_config"]["layer_norm_eps"] == 1e-6
    capsys.readouterr()
    meta = converted(hf, "meta", tmp_path / "a.pth")
    (first,) = capsys.readouterr().err.splitlines()
    assert "Meta's code computes the mask decoder's layer norms with an eps of 1e-05, this model with 1e-06" in first
    for path in (hf, meta):
        assert_same(find_model(str(path)), model)
    assert not torch.equal(answers(model)[1], answers(sam(SHAPE))[1])


@pytest.mark.parametrize(("to", "out"), [("hf", "hf"), ("meta", "a.pth"), ("mobile_sam", "a.pt")])
@pytest.mark.parametrize(
    "scheme",
    [Scheme(8, 32, decoder="float"), pytest.param(Scheme(4, 8), marks=pytest.mark.slow)],
    ids=["weights of the encoder", "all"],
)
def test_a_quantised_model_goes_to_no_layout_that_cannot_hold_it(
    to: str, out: str, scheme: Scheme, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = planned_copy(tiny_sam(), scheme)
    pack(model)
    save_model(tmp_path / "a.safetensors", model, ABOUT)
    assert main(["convert", f"checkpoint={tmp_path / 'a.safetensors'}", f"to={to}", f"out={tmp_path / out}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: to={to}: tiny is quantised") and "export precision=int8" in line
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


OUT: dict[str, tuple[str, str, bool]] = {
    "dots": ("hf", "slimsam-r0.5-s0-01234567-hf", True),
    "a dot at the end": ("hf", "sam.v2", True),
    "a file's ending": ("hf", "sam.pth", False),
    "a file's ending in capitals": ("hf", "sam.SAFETENSORS", False),
    "a file's ending with dots": ("meta", "slimsam-r0.5-s0.pth", True),
    "capitals": ("meta", "SAM.PTH", True),
    "no ending of a file": ("meta", "slimsam-r0.5", False),
    "another file's ending": ("sampress", "sam.pth", False),
}


@pytest.mark.parametrize("kind", OUT)
def test_names_may_hold_dots(kind: str, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to, name, fine = OUT[kind]
    status = main(["convert", f"checkpoint={student}", f"to={to}", f"out={tmp_path / name}"])
    assert status == (0 if fine else 2), capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ([name] if fine else [])
    if fine:
        # Again, over what is there.
        converted(tmp_path / name, to, tmp_path / name)
        assert find_model(str(tmp_path / name)).about["teacher"] == "sam_pocket"


def test_a_folder_that_transformers_saved_anew_says_nothing_of_the_run_before(student: Path, tmp_path: Path) -> None:
    """Weights that somebody trained on are not those of the run."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (sampress[test])")
    hf = converted(student, "hf", tmp_path / "hf")
    transformers.SamModel.from_pretrained(hf).save_pretrained(tmp_path / "again")
    found = find_model(str(tmp_path / "again"))
    assert found.about == {} and found.model.name == "again"
    assert found.model.config == SHAPE and weights_sha256(found.model) == weights_sha256(find_model(str(hf)).model)
