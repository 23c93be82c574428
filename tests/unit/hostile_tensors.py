"""Checkpoints whose tensors are not what they should be, and safetensors files that claim what they have not."""

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version
from safetensors import __version__ as safetensors_version
from safetensors.torch import save_file
from torch import Tensor

from core.checkpoint import write_torch
from students.files import FORMAT
from tests.unit.hostile_files import Case
from tests.unit.tiny import CONFIG, tiny_sam

KEY = "image_encoder.blocks.1.mlp.lin2.weight"
NAN = float("nan")
Change = Callable[[dict[Any, Any]], Any]


def state() -> dict[str, Tensor]:
    """The weights of a SAM of 64 pixels, by Meta's names."""
    return {name: tensor.clone() for name, tensor in tiny_sam().state_dict().items()}


def setting(make: Callable[[Tensor], Any], key: str = KEY) -> Change:
    """A change of one tensor."""
    return lambda tensors: tensors | {key: make(tensors[key]) if key in tensors else make(torch.zeros(2))}


def _with_nan(tensor: Tensor) -> Tensor:
    tensor[0, 0] = NAN
    return tensor


def _expanded(tensors: dict[Any, Any]) -> Any:
    """Shapes of a model of gigabytes, each over one stored number."""
    wide = {"patch_embed.proj.weight": 0, "pos_embed": 3}
    for name in wide:
        shape = list(tensors[f"image_encoder.{name}"].shape)
        shape[wide[name]] = 1 << 24
        tensors[f"image_encoder.{name}"] = torch.zeros(1).expand(shape)
    return tensors


def _nested(tensors: dict[Any, Any]) -> Any:
    inner: dict[str, Any] = {"model": 1}
    inner["model"] = inner
    return inner


def _branching(tensors: dict[Any, Any]) -> Any:
    """Containers that are shared: ten to the power of eight ways lead through them."""
    inner: dict[str, Any] = {"tensor": torch.zeros(1), "number": 1}
    for _ in range(12):
        inner = {str(number): inner for number in range(10)}
    return inner


CHANGES: dict[str, tuple[Change, str]] = {
    "one_nan": (setting(_with_nan), rf"{KEY} holds NaN or infinite values \(1 of 1152\)"),
    "all_infinite": (setting(lambda t: t / 0), rf"{KEY} holds NaN or infinite values"),
    "nan_everywhere": (lambda s: {k: v * NAN for k, v in s.items()}, r"holds NaN .* as do \d+ more tensors"),
    "too_large_for_float32": (setting(lambda t: t.double() + 1e300), r"holds NaN or infinite values \(1152 of 1152\)"),
    "int64": (setting(lambda t: t.long()), f"{KEY} holds torch.int64"),
    "uint8": (setting(lambda t: t.byte()), f"{KEY} holds torch.uint8"),
    "bool": (setting(lambda t: t.bool()), f"{KEY} holds torch.bool"),
    "complex": (setting(lambda t: t.to(torch.complex64)), f"{KEY} holds torch.complex64"),
    "float8": (setting(lambda t: t.to(torch.float8_e4m3fn)), "float8_e4m3fn|of a kind that is refused"),
    "transposed": (setting(lambda t: t.T.contiguous()), "has shape"),
    "scalar": (setting(lambda t: t.sum()), "has shape"),
    "no_values": (setting(lambda t: t[:0]), "has shape"),
    "huge_and_empty": (
        setting(lambda t: torch.zeros(1, 1 << 20, 1 << 20, 0), "image_encoder.pos_embed"),
        "shape|windows of",
    ),
    "no_patch": (setting(lambda t: t[..., :0, :0], "image_encoder.patch_embed.proj.weight"), "is no image"),
    "not_ascii": (setting(lambda t: t, "голова.вес"), "unexpected"),
    "escapes": (setting(lambda t: t, "a\x1b[2J\nerror: b\r"), "unexpected a"),
    "path_as_a_key": (setting(lambda t: t, "../../etc/passwd"), "unexpected"),
    "class_as_a_key": (setting(lambda t: t, "image_encoder.__class__"), "unexpected"),
    "empty_key": (setting(lambda t: t, ""), "unexpected"),
    "long_key": (setting(lambda t: t, "k" * 1_000_000), "unexpected k"),
    "odd_block": (setting(lambda t: t, "image_encoder.blocks.999999999.x"), "there is no"),
    "missing": (lambda s: {k: v for k, v in s.items() if k != KEY}, "missing"),
}
OF_PICKLES: dict[str, tuple[Change, str]] = {
    "sparse": (setting(lambda t: t.to_sparse()), "of a kind that is refused"),
    "meta": (setting(lambda t: t.to("meta")), "of a kind that is refused"),
    "expanded": (_expanded, "reaches element|of a storage of"),
    "number_as_a_key": (lambda s: s | {7: torch.zeros(1)}, "not a dict of tensors"),
    "tuple_as_a_key": (lambda s: s | {("a", "b"): torch.zeros(1)}, "tuple as a key"),
    "text_as_a_tensor": (setting(lambda t: "weights"), "not a dict of tensors"),
    "a_list": (lambda s: list(s.values()), "holds a list"),
    "a_tensor": (lambda s: torch.zeros(3), "holds a Tensor"),
    "nothing": (lambda s: {}, "empty"),
    "itself": (_nested, "not a dict of tensors"),
    "two_models": (lambda s: {"model": s, "state_dict": {k: v + 1 for k, v in s.items()}}, "holds 2 models"),
    "the_same_model_twice": (lambda s: {"model": s, "state_dict": s}, "how many heads the mask decoder has"),
    "names_of_models_escape": (lambda s: {"a\x1b[2J\n": s, "b": {k: v + 1 for k, v in s.items()}}, r"\\x1b\[2J\\n', b"),
    "many_containers": (_branching, "not a dict of tensors"),
    "a_name_twice": (lambda s: {"module": s, "_orig_mod": {KEY: s[KEY] + 1}}, f"two tensors for {KEY}"),
    "a_number_in_a_part": (lambda s: s | {"image_encoder.img_size": 64}, "image_encoder.img_size is a int"),
}


NOTES = {
    "code": "__import__('os')",
    "deep": "[" * 100_000,
    "a_list": "[1]",
    "no_heads": '{"config": {}}',
    "heads_of_text": '{"config": {"decoder_heads": "4"}}',
    "heads_below_one": '{"config": {"decoder_heads": 0}}',
    "heads_of_a_truth": '{"config": {"decoder_heads": true}}',
    "config_of_a_list": '{"config": [4]}',
}
"""Texts in the place of what this project writes beside tensors."""
ABOUT: dict[str, tuple[str, Any]] = {
    "elsewhere": ("method", "../../escaped/x"),
    "elsewhere_on_windows": ("method", "..\\x"),
    "escapes": ("method", "a\n\x1b[31m"),
    "long": ("run_id", "a" * 201),
    "no_number": ("ratio", NAN),
    "endless": ("ratio", float("inf")),
    "beyond_64_bits": ("seed", 1 << 64),
}
"""Facts of a model's making that would become names of folders, or cells of tables."""
NOT_WRITTEN = {"too_large_for_float32"} | ({"complex"} if Version(safetensors_version) < Version("0.7") else set())
"""What safetensors' own writer cannot put into a file."""


def cases() -> Iterator[Case]:
    """All of them, through the door of checkpoints."""
    for name, (change, words) in CHANGES.items():
        for ending in (".pth", ".safetensors"):
            if ending == ".pth" or name not in NOT_WRITTEN:
                yield Case(f"tensor_{name}{ending}", "model", _saved(change, ending), words)
    for name, (change, words) in OF_PICKLES.items():
        yield Case(f"tensor_{name}.pth", "model", _saved(change, ".pth"), words)
    for name in ("one_nan", "all_infinite", "int64", "complex", "bool", "missing"):
        if name in NOT_WRITTEN:
            continue
        change, words = CHANGES[name]
        yield Case(f"own_{name}", "model", _own(tensors=change), words)
        yield Case(f"hf_{name}", "model", _hugging_face(change), words.replace(KEY, ".*"))
    for name, (content, words) in headers().items():
        yield Case(f"header_{name}", "model", _bytes(content), words)
    names = {"elsewhere": "../../a", "nothing": "", "a_list": [1], "escapes": "\x1b[2J", "long": "a" * 201}
    for name, reported in names.items():
        text = json.dumps({"name": reported, "config": {"decoder_heads": 2}})
        yield Case(f"note_name_{name}", "model", _noted(text), "is no name of a model")
        yield Case(f"own_name_{name}", "model", _own(metadata={"name": reported}), "is no name of a model")
    for name, text in NOTES.items():
        yield Case(f"note_{name}.pth", "model", _noted(text), "beside its tensors is damaged")
    yield Case(
        "note_of_endless_heads", "model", _noted('{"config": {"decoder_heads": 1' + "0" * 30 + "}}"), "does not div"
    )
    yield Case(
        "note_of_no_eps", "model", _noted('{"config": {"decoder_heads": 2, "decoder_norm_eps": -1}}'), "norm_eps"
    )
    yield Case(
        "note_of_odd_facts", "model", _noted('{"config": {"decoder_heads": 2}, "about": {"ratio": [1]}}'), "ratio"
    )
    for name, (key, value) in ABOUT.items():
        text = json.dumps({"config": {"decoder_heads": 2}, "about": {key: value}})
        yield Case(f"note_about_{name}", "model", _noted(text), f"says of its {key} .*, which no {key} can be")
        own = _own(metadata={"about": {key: value}})
        yield Case(f"own_about_{name}", "model", own, f"says of its {key} .*, which no {key} can be")
    for name, metadata in METADATA.items():
        yield Case(f"metadata_{name}", "model", _own(metadata=metadata))


def _saved(change: Change, ending: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path, changed = folder / f"model{ending}", change(state())
        torch.save(changed, path) if ending == ".pth" else save_file(changed, path)
        return path

    return make


def _noted(text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write_torch(folder / "model.pth", state(), text)
        return folder / "model.pth"

    return make


def _hugging_face(change: Change) -> Callable[[Path], Path]:
    from tests.unit.hostile_folders import hugging_face

    return lambda folder: hugging_face(folder, change(state()))


def _bytes(content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "model.safetensors").write_bytes(content)
        return folder / "model.safetensors"

    return make


def header(reported: object, values: bytes = b"", size: int | None = None) -> bytes:
    """A safetensors file that says something."""
    text = reported if isinstance(reported, bytes) else json.dumps(reported).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + values


def headers() -> dict[str, tuple[bytes, str]]:
    """Safetensors files that claim what they have not."""

    def one(shape: list[int], ends: list[int], dtype: str = "F32") -> dict[str, Any]:
        return {"a": {"dtype": dtype, "shape": shape, "data_offsets": ends}}

    damaged, twice = "truncated or not a safetensors file", one([1], [0, 4])["a"]
    pair = {"a": {**twice}, "b": {**twice, "data_offsets": [2, 6]}}
    content: dict[str, bytes] = {
        "empty": b"",
        "one_byte": b"\x01",
        "eight_bytes": bytes(8),
        "huge": header({}, size=(1 << 63) + 5),
        "100_mb": header({}, size=100_000_000),
        "longer_than_the_file": header({}, size=3),
        "not_utf8": header(b'{"\xff\xfe": 1}'),
        "not_json": header(b"import os"),
        "a_list": header([1]),
        "deep": header(b"[" * 200_000),
        "key_twice": header(b'{"a": %s, "a": %s}' % ((json.dumps(twice).encode(),) * 2), bytes(4)),
        "overlap": header(pair, bytes(6)),
        "hole": header(one([1], [4, 8]), bytes(8)),
        "backwards": header(one([1], [4, 0]), bytes(4)),
        "beyond": header(one([1 << 20], [0, 4 << 20]), bytes(4)),
        "negative_shape": header(one([-1], [0, 4]), bytes(4)),
        "huge_shape": header(one([1 << 40, 1 << 40], [0, 4]), bytes(4)),
        "other_shape": header(one([2], [0, 4]), bytes(4)),
        "unknown_type": header(one([1], [0, 4], "OBJECT"), bytes(4)),
        "trailing": header(one([1], [0, 4]), bytes(400)),
        "metadata_of_numbers": header({"__metadata__": {"a": 1}, **one([1], [0, 4])}, bytes(4)),
    }
    return {name: (part, damaged) for name, part in content.items()} | {
        "code_as_metadata": (header({"__metadata__": {"format": "__import__('os')"}}), "that is empty"),
        "deep_metadata": (header({"__metadata__": {"format": "[" * 100_000}}), "that is empty"),
        "name_of_a_list": (header({"__metadata__": {"name": '["sam_pocket"]'}}), "that is empty"),
        **{
            f"note_{name}": (header({"__metadata__": {"sampress": text}}), "beside its tensors is damaged")
            for name, text in NOTES.items()
        },
    }


def _encoder(**changes: Any) -> dict[str, Any]:
    return {"config": {**asdict(CONFIG), "encoder": {**asdict(CONFIG)["encoder"], **changes}}}


def _of_kind(kind: str, encoder: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"encoder": kind, "config": {**asdict(CONFIG), "encoder": {**encoder, **changes}}}


_TINY = {"image_size": 64, "grid": 16, "embed_dims": [8] * 4, "depths": [1] * 4, "num_heads": [1] * 4}
_TIMM = {"name": "resnet10t", "image_size": 64, "grid": 4}
_SCHEME = {"float_layers": []}
METADATA: dict[str, dict[str, Any]] = {
    "another_format": {"format": "sampress-sam-99"},
    "huge_width": _encoder(embed_dim=1 << 24),
    "huge_frame": _encoder(image_size=1 << 30),
    "huge_channels": _encoder(out_channels=1 << 30),
    "huge_mlp": {"config": {**asdict(CONFIG), "decoder_mlp_width": 1 << 40}},
    "no_heads": {"config": {**asdict(CONFIG), "decoder_heads": 0}},
    "odd_heads": {"config": {**asdict(CONFIG), "decoder_heads": 3}},
    "heads_of_text": {"config": {**asdict(CONFIG), "decoder_heads": "2"}},
    "negative_window": _encoder(window_size=-3),
    "no_patch": _encoder(patch_size=0),
    "no_blocks": _encoder(attention_widths=[], mlp_widths=[]),
    "endless_blocks": _of_kind("tiny_vit", _TINY, depths=[1 << 40] * 4, window_sizes=[4] * 4),
    "heads_that_do_not_divide": _of_kind("tiny_vit", _TINY, num_heads=[1, 1, 1, 3]),
    "no_window": _of_kind("tiny_vit", _TINY, window_sizes=[4, 4, 0, 4]),
    "endless_window": _of_kind("tiny_vit", _TINY, window_sizes=[1 << 20] * 4),
    "unknown_setting": _encoder(__class__="os.system"),
    "config_of_a_list": {"config": [1, 2]},
    "config_of_text": {"config": "os.system"},
    "unknown_kind": {"encoder": "os"},
    "kind_of_a_list": {"encoder": ["vit"]},
    "backbone_of_the_hub": _of_kind("timm", _TIMM, name="hf-hub:a/b"),
    "backbone_of_a_folder": _of_kind("timm", _TIMM, name="local-dir:/"),
    "backbone_of_a_huge_frame": _of_kind("timm", _TIMM, name="vit_tiny_patch16_224", image_size=1 << 26),
    "backbone_of_huge_channels": _of_kind("timm", _TIMM, out_channels=1 << 34),
    "name_of_a_list": {"name": ["a"]},
    "method_of_a_list": {"about": {"method": ["<script>"]}},
    "ratio_of_text": {"about": {"ratio": "half"}},
    "plan_of_text": {"plan": "os.system"},
    "plan_of_nothing": {"plan": {}},
    "plan_of_huge_layers": {
        "plan": {
            "scheme": _SCHEME,
            "folded": [],
            "layers": {
                "image_encoder.blocks.0.mlp.lin1": {
                    "kind": "linear",
                    "shape": [1 << 20, 1 << 20],
                    "bias": 1,
                    "weight": {"kind": "uniform", "bits": 8, "symmetric": True, "shape": [1 << 36]},
                    "input": None,
                }
            },
            "products": {},
        }
    },
    "plan_of_a_strange_path": {
        "plan": {"scheme": _SCHEME, "folded": [["__class__", "__init__"]], "layers": {}, "products": {}}
    },
}


def _own(tensors: Change = lambda s: s, metadata: dict[str, Any] | None = None) -> Callable[[Path], Path]:
    """A file of this project's own format, with other tensors or other things said of them."""

    def make(folder: Path) -> Path:
        reported = {"format": FORMAT, "name": "tiny", "encoder": "vit", "config": asdict(CONFIG), "about": {}}
        reported |= metadata or {}
        save_file(tensors(state()), folder / "model.safetensors", {k: json.dumps(v) for k, v in reported.items()})
        return folder / "model.safetensors"

    return make
