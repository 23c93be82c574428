"""SlimSAM's released pickles: against outputs of the authors' own code, and models of this project in that layout."""

import functools
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.errors import InputError
from core.protocols import Prompt
from students.convert.slimsam_pickle import is_slimsam_pickle, read_slimsam_pickle
from teachers.image_encoder import EncoderConfig
from teachers.sam import Sam, SamConfig
from teachers.weights import sam_from_state

# Ragged, as pruning by global ranks leaves it.
RAGGED = SamConfig(
    EncoderConfig(64, 16, 24, 2, (24, 12, 8), (48, 20, 7), 3, (1,), 16),
    decoder_heads=4,
    decoder_mlp_width=20,
    iou_width=12,
)


@pytest.fixture
def golden(shared: Path) -> Path:
    return shared / "golden" / "slimsam_pickle_tiny.pth"


def test_the_outputs_are_those_of_the_authors_code(golden: Path) -> None:
    assert is_slimsam_pickle(golden)
    config, state = read_slimsam_pickle(golden)
    assert config.encoder == EncoderConfig(
        image_size=512,
        patch_size=16,
        embed_dim=48,
        num_heads=4,
        attention_widths=(32, 24, 40, 16),
        mlp_widths=(100, 64, 36, 180),
        window_size=7,
        global_blocks=(1, 3),
        out_channels=32,
    )
    assert config.decoder_heads == 4
    model = sam_from_state(config, state, str(golden))
    with np.load(golden.with_suffix(".npz")) as arrays:
        expected = dict(arrays)
    numbers = np.random.Generator(np.random.PCG64(7)).standard_normal((1, 3, 512, 512)).astype(np.float32)
    assert np.array_equal(numbers[:, :, :4, :4], expected["input"])
    with torch.inference_mode():
        embedding = model.encode(torch.from_numpy(numbers))
        found = model.decode_frame(embedding, Prompt(boxes_xyxy=torch.from_numpy(expected["box"])))
    np.testing.assert_allclose(embedding.numpy(), expected["embedding"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(found.logits[:, 1:, ::4, ::4].numpy(), expected["low_res_logits"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.iou_pred[:, 1:].numpy(), expected["iou_predictions"], rtol=0, atol=1e-5)


def test_nothing_of_the_file_is_imported(golden: Path) -> None:
    before = set(sys.modules)
    read_slimsam_pickle(golden)
    assert not [name for name in set(sys.modules) - before if "segment" in name]
    assert "segment_anything_kd" not in sys.modules


def test_a_damaged_copy_is_read_or_refused_by_name(golden: Path, tmp_path: Path) -> None:
    whole = golden.read_bytes()
    path = tmp_path / "part.pth"
    for length in (0, 3, 1000, 61_000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert not is_slimsam_pickle(path)
        with pytest.raises(InputError, match=r"part\.pth: "):
            read_slimsam_pickle(path)


Edit = Callable[[Any], Any]


def forward(self: nn.Module, images: Tensor) -> Tensor:
    """A method that no reader may call."""
    raise AssertionError


@pytest.fixture
def pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a model as SlimSAM's training does, by a stand-in for its package that is gone when it is read."""

    def write(
        model: Sam, edit: Edit = lambda root: None, wrapper: Callable[[nn.Module], nn.Module] = nn.DataParallel
    ) -> Path:
        with monkeypatch.context() as patch:
            package = types.ModuleType("segment_anything_kd")
            package.Part = type("Part", (nn.Module,), {"__module__": package.__name__, "forward": forward})
            patch.setitem(sys.modules, package.__name__, package)
            root = as_released(model.config, model.state_dict(), package.Part)
            edit(root)
            root.image_encoder = wrapper(root.image_encoder)
            torch.save(root, tmp_path / "whole.pth")
        assert "segment_anything_kd" not in sys.modules
        return tmp_path / "whole.pth"

    return write


def as_released(config: SamConfig, state: Mapping[str, Tensor], part: type[nn.Module]) -> Any:
    """A tree of modules with the names and attributes of the authors' package."""
    root: Any = part()
    root.register_buffer("pixel_mean", torch.zeros(3, 1, 1), persistent=False)

    def module(name: str) -> Any:
        """The module of a dotted name, made where it is missing."""
        found = root
        for key in name.split("."):
            if key not in found._modules:
                found.add_module(key, part())
            found = found._modules[key]
        return found

    for name, tensor in state.items():
        owner, _, kind = name.rpartition(".")
        if owner.endswith("attn.qkv"):
            for layer, rows in zip("qkv", tensor.chunk(3), strict=True):
                module(f"{owner.removesuffix('qkv')}{layer}").register_parameter(kind, nn.Parameter(rows.clone()))
        elif kind == "positional_encoding_gaussian_matrix":
            module(owner).register_buffer(kind, tensor)
        else:
            module(owner).register_parameter(kind, nn.Parameter(tensor, requires_grad=False))
    encoder = config.vit
    root.image_encoder.img_size = encoder.image_size
    root.prompt_encoder.input_image_size = (encoder.image_size, encoder.image_size)
    root.mask_decoder.transformer.num_heads = config.decoder_heads
    for i, width in enumerate(encoder.attention_widths):
        block = module(f"image_encoder.blocks.{i}")
        block.window_size = 0 if i in encoder.global_blocks else encoder.window_size
        block.attn.num_heads, block.attn.use_rel_pos = encoder.num_heads, True
        block.attn.scale = (width // encoder.num_heads) ** -0.5
    return root


def ragged_sam() -> Sam:
    model = Sam(RAGGED).eval().requires_grad_(False)
    for tensor in model.state_dict().values():
        tensor.normal_(std=0.2)
    return model


def as_trained(root: Any) -> None:
    """What training on an accelerator leaves in the released files beside weights."""
    root.place = torch.device("cuda", 0)
    root.norm_layer = functools.partial(nn.LayerNorm, eps=1e-6)
    root.image_encoder.act = nn.GELU()
    root.image_encoder.activation = torch.nn.functional.gelu
    # Training replaces the encoder's forward by a method of that name.
    root.image_encoder.forward = root.image_encoder.forward
    root.image_encoder.neck._modules["0"].register_parameter("bias", None)


@pytest.mark.parametrize("edit", [lambda root: None, as_trained])
@pytest.mark.parametrize("wrapper", [nn.DataParallel, lambda module: module])
def test_a_model_comes_back_bit_by_bit(
    pickled: Callable[..., Path], edit: Edit, wrapper: Callable[[nn.Module], nn.Module]
) -> None:
    model = ragged_sam()
    path = pickled(model, edit, wrapper)
    assert is_slimsam_pickle(path)
    config, state = read_slimsam_pickle(path)
    assert config == RAGGED
    assert state.keys() == model.state_dict().keys()
    for name, tensor in sam_from_state(config, state, str(path)).state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_half_precision_stays_until_it_is_loaded(pickled: Callable[..., Path]) -> None:
    config, state = read_slimsam_pickle(pickled(ragged_sam(), lambda root: root.half()))
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    assert {p.dtype for p in sam_from_state(config, state, "half").parameters()} == {torch.float32}


def block(root: Any, index: int) -> Any:
    return root.image_encoder.blocks._modules[str(index)]


def put(owner: Callable[[Any], Any], name: str, value: Any) -> Edit:
    """The edit that sets an attribute."""
    return lambda root: setattr(owner(root), name, value)


WRONG: dict[str, tuple[Edit, str]] = {
    "scale": (
        put(lambda root: block(root, 1).attn, "scale", 12**-0.5),
        r"image_encoder\.blocks\.1\.attn\.scale is 0\.288\d+, but by its tensors it must be 0\.408",
    ),
    "heads": (put(lambda root: block(root, 2).attn, "num_heads", 1), r"blocks\.2\.attn\.num_heads is 1, .* be 2"),
    "flag": (put(lambda root: block(root, 0).attn, "use_rel_pos", False), r"blocks\.0\.attn\.use_rel_pos is False"),
    "window": (put(lambda root: block(root, 0), "window_size", 0), r"blocks\.0\.window_size is 0, .* be 3"),
    "frame": (put(lambda root: root.image_encoder, "img_size", 1024), r"img_size is 1024, .* must be 64"),
    "prompts": (
        put(lambda root: root.prompt_encoder, "input_image_size", (64, 32)),
        r"input_image_size is of type tuple, .* must be \(64, 64\)",
    ),
    "decoder": (
        put(lambda root: root.mask_decoder.transformer, "num_heads", "8"),
        r"mask_decoder\.transformer\.num_heads is of type str, expected a count",
    ),
    "decoder_width": (
        put(lambda root: root.mask_decoder.transformer, "num_heads", 3),
        r"decoder_heads is 3, which does not divide the width",
    ),
    "no_k": (lambda root: block(root, 1).attn._modules.pop("k"), r"weight of q, k and v in image_encoder\.blocks\.1"),
    "narrow_v": (
        lambda root: block(root, 1).attn.v.register_parameter("bias", nn.Parameter(torch.zeros(11))),
        r"bias of q, k and v .* have shapes \[\(12,\), \(12,\), \(11,\)\]",
    ),
    "no_blocks": (lambda root: root.image_encoder._modules.pop("blocks"), r"attention widths \(\)"),
    "no_decoder": (lambda root: root._modules.pop("mask_decoder"), "mask_decoder"),
    "tensors_of_lists": (
        lambda root: root.prompt_encoder._parameters.update(weight=[1.0]),
        r"prompt_encoder\.weight is a list, expected a tensor",
    ),
    "module_is_a_tensor": (
        lambda root: root._modules.update(extra=torch.zeros(1)),
        "extra holds Tensor where a module is expected",
    ),
    "no_parameters": (
        lambda root: root.prompt_encoder.__dict__.pop("_parameters"),
        "prompt_encoder has no _parameters",
    ),
    "dotted": (lambda root: root._modules.update({"a.b": nn.Identity()}), "name that no module has"),
    "endless": (lambda root: root._modules.update(again=root), "nested too deep or too many"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_model_that_would_become_another_is_refused(pickled: Callable[..., Path], kind: str) -> None:
    edit, words = WRONG[kind]
    path = pickled(ragged_sam(), edit, lambda module: module)
    with pytest.raises(InputError, match=rf"whole\.pth: .*{words}") as caught:
        read_slimsam_pickle(path)
    assert str(caught.value).isprintable()


def test_a_missing_tensor_is_reported_by_the_loader(pickled: Callable[..., Path]) -> None:
    path = pickled(ragged_sam(), lambda root: root.prompt_encoder._modules.pop("no_mask_embed"))
    config, state = read_slimsam_pickle(path)
    with pytest.raises(InputError, match=r"whole\.pth: .*missing prompt_encoder\.no_mask_embed\.weight"):
        sam_from_state(config, state, str(path))


def test_widths_that_leave_no_one_head_count_are_refused(pickled: Callable[..., Path]) -> None:
    table = nn.Parameter(torch.zeros(5, 5))
    path = pickled(ragged_sam(), lambda root: block(root, 0).attn.register_parameter("rel_pos_h", table))
    with pytest.raises(InputError, match=r"whole\.pth: .* no one head count"):
        read_slimsam_pickle(path)


def test_other_files_are_not_taken_for_one(tmp_path: Path) -> None:
    torch.save(ragged_sam().state_dict(), tmp_path / "state.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "layer.pth")
    for name in ("state.pth", "layer.pth", "absent.pth"):
        assert not is_slimsam_pickle(tmp_path / name)
    with pytest.raises(InputError, match=r"state\.pth: the file holds dict where a module is expected"):
        read_slimsam_pickle(tmp_path / "state.pth")
    with pytest.raises(InputError, match=r"layer\.pth: "):
        read_slimsam_pickle(tmp_path / "layer.pth")
