"""SlimSAM-50 and SlimSAM-77 as released: whole pickled models, read without their classes.

The authors' ``segment_anything_kd`` (github.com/czg1225/SlimSAM) has q, k and v as three layers, and wraps the image
encoder in DataParallel; otherwise the names are Meta's. Blocks have widths of their own.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import InputError
from core.untrusted import Record, mentions, read_inert
from teachers.inferred_shape import check_shape, infer_config
from teachers.sam import SamConfig

_PACKAGE = "segment_anything_kd"
_PACKAGES = (_PACKAGE, "segment_anything", "torch.nn")
_WRAPPERS = ("torch.nn.parallel.data_parallel.DataParallel", "torch.nn.parallel.distributed.DistributedDataParallel")
# A file may nest modules without end, or within themselves.
_DEEPEST, _MOST_MODULES, _LONGEST_NAME = 20, 10_000, 100


def is_slimsam_pickle(path: Path) -> bool:
    """Whether a file is a pickled model of the package ``segment_anything_kd``; nothing of it is run.

    False for whatever cannot be read, so that another reader tells what is wrong with it.
    """
    return mentions(path, _PACKAGE)


def read_slimsam_pickle(path: Path) -> tuple[SamConfig, dict[str, Tensor]]:
    """Read a model that was pickled whole.

    Returns:
        Its shape, and its tensors by Meta's names with fused ``qkv``, for :func:`teachers.weights.sam_from_state`.
        Dtypes and values are as stored; ``pixel_mean`` and ``pixel_std``, which no state dict has, are left out.

    Raises:
        InputError: the file is missing, damaged or asks for anything but tensors and modules
            (:func:`read_inert`), holds no such model, or one that says of itself (softmax scale,
            heads, windows, frame) what the model it would become here does not do.
    """
    modules = _modules(read_inert(path, _PACKAGES), str(path))
    state = _fused(_tensors(modules, str(path)), str(path))
    heads = _attributes(modules, "mask_decoder.transformer").get("num_heads")
    if type(heads) is not int or heads < 1:
        raise InputError(f"{path}: mask_decoder.transformer.num_heads is {_shown(heads)}, expected a count")
    config = infer_config(state, heads, str(path))
    _check(modules, config, str(path))
    return config, state


def _modules(root: object, origin: str) -> dict[str, dict[str, Any]]:
    """Attributes of every module by its dotted name, the root's being empty; wrappers leave no trace in names."""
    found: dict[str, dict[str, Any]] = {}
    waiting: list[tuple[str, int, object]] = [("", 0, root)]
    while waiting:
        name, depth, module = waiting.pop()
        if not isinstance(module, Record) or not isinstance(module.state, dict):
            what = "dict" if isinstance(module, dict) else getattr(module, "kind", type(module).__name__)
            raise InputError(f"{origin}: {name or 'the file'} holds {what} where a module is expected")
        children = _dict(module.state, "_modules", name, origin)
        if depth > _DEEPEST or len(found) + len(waiting) > _MOST_MODULES:
            raise InputError(f"{origin}: its modules are nested too deep or too many to be a SAM")
        if module.kind in _WRAPPERS:
            waiting.append((name, depth + 1, children.get("module")))
            continue
        found[name] = module.state
        waiting += [
            (_join(name, key, origin), depth + 1, child) for key, child in children.items() if child is not None
        ]
    return found


def _tensors(modules: Mapping[str, Mapping[str, Any]], origin: str) -> dict[str, Tensor]:
    """What a state dict of the modules would hold."""
    state: dict[str, Tensor] = {}
    for name, attributes in modules.items():
        passing = attributes.get("_non_persistent_buffers_set")
        left_out = passing if isinstance(passing, list) else []
        buffers = {k: v for k, v in _dict(attributes, "_buffers", name, origin).items() if k not in left_out}
        for key, value in (_dict(attributes, "_parameters", name, origin) | buffers).items():
            full = _join(name, key, origin)
            if isinstance(value, Tensor):
                state[full] = value
            elif value is not None:
                raise InputError(f"{origin}: {full} is a {type(value).__name__}, expected a tensor")
    return state


def _fused(state: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """The tensors with ``attn.q``, ``attn.k`` and ``attn.v`` as rows of one ``attn.qkv``, in this order."""
    fused: dict[str, Tensor] = {}
    for key, value in state.items():
        block, part, last = key.rpartition(".attn.")
        layer, _, kind = last.partition(".")
        if not part or layer not in ("q", "k", "v"):
            fused[key] = value
            continue
        parts = [state.get(f"{block}.attn.{one}.{kind}") for one in "qkv"]
        shapes = [None if one is None else tuple(one.shape) for one in parts]
        if None in shapes or len(set(shapes)) > 1:
            raise InputError(
                f"{origin}: {kind} of q, k and v in {block}.attn have shapes {shapes}, expected three alike"
            )
        if layer == "q":
            fused[f"{block}.attn.qkv.{kind}"] = torch.cat([one for one in parts if one is not None])
    return fused


def _check(modules: Mapping[str, Mapping[str, Any]], config: SamConfig, origin: str) -> None:
    """Compare what the modules say of themselves with what this project's model of the shape computes."""
    check_shape(config, origin)
    encoder = config.vit
    facts: dict[tuple[str, str], Any] = {
        ("image_encoder", "img_size"): encoder.image_size,
        ("prompt_encoder", "input_image_size"): (encoder.image_size, encoder.image_size),
    }
    for i, width in enumerate(encoder.attention_widths):
        block = f"image_encoder.blocks.{i}"
        facts[block, "window_size"] = 0 if i in encoder.global_blocks else encoder.window_size
        facts[f"{block}.attn", "num_heads"] = encoder.num_heads
        facts[f"{block}.attn", "use_rel_pos"] = True
        # The scale of the pruned width: a model pruned without adapting it would have another softmax temperature.
        facts[f"{block}.attn", "scale"] = (width // encoder.num_heads) ** -0.5
    for (name, key), expected in facts.items():
        value = _attributes(modules, name).get(key, expected)
        close = isinstance(expected, float) and type(value) is float and math.isclose(value, expected, rel_tol=1e-6)
        if not close and (type(value) is not type(expected) or value != expected):
            raise InputError(f"{origin}: {name}.{key} is {_shown(value)}, but by its tensors it must be {expected}")


def _attributes(modules: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return modules.get(name, {})


def _dict(attributes: Mapping[str, Any], key: str, name: str, origin: str) -> dict[str, Any]:
    value = attributes.get(key)
    if not isinstance(value, dict):
        raise InputError(f"{origin}: {name or 'the file'} has no {key}, so it is no pickled module")
    return value


def _join(name: str, key: object, origin: str) -> str:
    if type(key) is not str or not key.isascii() or not key.replace("_", "a").isalnum() or len(key) > _LONGEST_NAME:
        raise InputError(f"{origin}: a part of {name or 'the model'} has a name that no module has")
    return f"{name}.{key}" if name else key


def _shown(value: object) -> str:
    """A number as it is, anything else by its type: a file may hold values that take forever to print."""
    short = type(value) is int and value.bit_length() < 64
    return repr(value) if short or type(value) in (bool, float) else f"of type {type(value).__name__}"
