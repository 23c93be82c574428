"""Which parts of a model are quantised and how: plain data, kept in the file and applied to an empty model."""

import copy
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from core.errors import InputError
from core.feature_maps import maps_of
from students.kinds import build_model
from students.quantized.attention import give_products, qkv_parts, with_products
from students.quantized.folding import fold, foldable
from students.quantized.layers import (
    QUANTISABLE,
    QuantizedLayer,
    QuantizedProduct,
    is_quantisable,
    make_layer,
    make_product,
)
from students.quantized.quantizers import UniformQuantizer
from students.quantized.scheme import SINCE, Scheme
from students.quantized.simulated_grids import SIMULATED, ChannelGroupQuantizer
from teachers.sam import Sam

GROUPED = ("qkv", "q_proj", "k_proj", "v_proj", "lin1", "fc1")
"""Names of the layers whose inputs may have grids of channel groups."""
NONE_WIDER: Mapping[str, int] = {}
"""No layer has more bits than the scheme says."""


@dataclass(frozen=True)
class Plan:
    """A quantised model's structure.

    Attributes:
        scheme: that was requested.
        folded: convolutions and the normalisations folded into them.
        layers: by path: the descriptions of layers.
        products: by the path of an attention: the descriptions of its two products, ``scores`` and ``mixing``.
    """

    scheme: Scheme
    folded: list[tuple[str, str]] = field(default_factory=list)
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    products: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        found = asdict(self)
        for setting in fields(Scheme):
            if setting.metadata == SINCE and getattr(self.scheme, setting.name) == setting.default:
                # As files from before there was the setting have it.
                del found["scheme"][setting.name]
        return found

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "Plan":
        """The plan that :meth:`to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        lists = {name: tuple(raw["scheme"].get(name, ())) for name in ("float_layers", "eight_bit_layers")}
        scheme = Scheme(**raw["scheme"] | lists)
        folded = [(str(conv), str(norm)) for conv, norm in raw["folded"]]
        return cls(scheme, folded, dict(raw["layers"]), dict(raw["products"]))


def make_plan(model: Sam, scheme: Scheme, widths: Mapping[str, int] = NONE_WIDER) -> Plan:
    """Plan the quantisation of image encoder and mask decoder; the prompt encoder, a few positions, stays float.

    Args:
        widths: bits of single layers and products, by path, where these are more than the scheme's.
    """
    frame = torch.zeros(1, 3, model.input_size, model.input_size, device=next(model.parameters()).device)
    folded = foldable(model.image_encoder, frame)
    folded = [(f"image_encoder.{conv}", f"image_encoder.{norm}") for conv, norm in folded]
    with_bias = {conv for conv, _ in folded}
    layers, products = {}, {}
    after_gelu = _inputs_from_gelu(model)
    quantisable = [path for path, module in model.named_modules() if is_quantisable(module)]
    # Of a layer's whole path, that layer alone: conv_pw is no beginning of conv_pwl.
    alone = set(scheme.float_layers) & set(quantisable)
    for path, module in model.named_modules():
        if path in alone or not _chosen(path, scheme, alone):
            continue
        if is_quantisable(module):
            biased = module.bias is not None or path in with_bias
            bits = _bits_of(path, scheme, widths)
            layers[path] = _describe(module, bits, biased, path in after_gelu)
            if isinstance(module, nn.Linear):
                parent, _, name = path.rpartition(".")
                if scheme.channel_groups and name in GROUPED and scheme.activation_bits <= 8:
                    sizes = {"channels": module.in_features, "groups": min(scheme.channel_groups, module.in_features)}
                    given = layers[path]["input"]
                    layers[path]["input"] = {key: given[key] for key in ("bits", "symmetric")} | sizes
                    layers[path]["input"]["kind"] = "channel_groups"
                parts = qkv_parts(model.get_submodule(parent)) if name == "qkv" else None
                layers[path]["weight"] |= _linear_weight(module, scheme, parts)
        if scheme.products != "float" and scheme.activation_bits <= 8 and with_products(module):
            names = ("scores", "mixing")
            products[path] = {n: _describe_products(module, _bits_of(f"{path}.{n}", scheme, widths))[n] for n in names}
    _check_patterns(scheme, [*layers, *(f"{path}.{name}" for path in products for name in ("scores", "mixing"))])
    _check_float(scheme, quantisable, layers)
    return Plan(scheme, folded, layers, products)


def apply_plan(model: Sam, plan: Plan) -> None:
    """Give a float model, in place, the planned layers; those that had weights take them along.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: the plan does not fit the model.
    """
    model.eval().requires_grad_(False)
    fold(model, plan.folded)
    for path, descriptions in plan.products.items():
        attention: Any = model.get_submodule(path)
        scores, mixing = (make_product(descriptions[name]) for name in ("scores", "mixing"))
        give_products(attention, scores, mixing)
        for grid in (scores.left, scores.right, mixing.left, mixing.right):
            if isinstance(grid, UniformQuantizer) and grid.shape not in ((), (attention.num_heads, 1, 1)):
                raise ValueError(f"{path} has {attention.num_heads} heads, the plan gives it scales {grid.shape}")
    for path, description in plan.layers.items():
        old: Any = model.get_submodule(path)
        # Before memory is taken for what the plan says.
        _check_layer(path, old, description)
        new = make_layer(description)
        new.take(old.weight, old.bias)
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, new.to(old.weight.device))
    # Not a part of the module, so that it needs no place in the class.
    object.__setattr__(model, "plan", plan)


def _check_layer(path: str, old: nn.Module, description: dict[str, Any]) -> None:
    """Refuse the description of another layer than the float one.

    Raises:
        KeyError, TypeError, ValueError: it is none, or of another.
    """
    if not isinstance(old, QUANTISABLE):
        raise ValueError(f"{path} is no layer that can be quantised")
    for key, value in _own(old, old.bias is not None).items():
        if json.dumps(description[key]) != json.dumps(value):
            raise ValueError(f"{path} has {key} {value}, the plan says {str(description[key])[:50]}")
    shape, scales = tuple(description["shape"]), tuple(description["weight"]["shape"])
    if len(scales) > len(shape) or torch.broadcast_shapes(scales, shape) != shape:
        raise ValueError(f"{path} has a weight {shape}, the plan gives it scales {scales}")
    for grid in (description["input"], description.get("output")):
        if grid is not None and (grid.get("shape") or grid.get("channels", shape[-1]) != shape[-1]):
            raise ValueError(f"{path} has {shape[-1]} inputs, the plan gives it the grid {str(grid)[:100]}")


def planned_copy(model: Sam, scheme: Scheme, widths: Mapping[str, int] = NONE_WIDER) -> Sam:
    """A copy of a float model with quantised layers, not calibrated yet; args as of :func:`make_plan`.

    Raises:
        InputError: it is quantised already.
        RuntimeError: folding batch normalisation changes its answers.
    """
    if plan_of(model) is not None:
        raise InputError(f"{model.name} is quantised already; begin with the float model it was made of")
    plan, copied = make_plan(model, scheme, widths), copy.deepcopy(model).eval()
    apply_plan(copied, plan)
    set_quantizing(copied, False)
    size = model.input_size
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    images = images.to(next(model.parameters()).device)
    with torch.inference_mode():
        expected, found = maps_of(model.encode(images)), maps_of(copied.encode(images))
    if not all(
        torch.allclose(found[name], tensor, rtol=1e-2, atol=1e-3 * float(tensor.abs().max()))
        for name, tensor in expected.items()
    ):
        raise RuntimeError(
            f"{model.name}: folding batch normalisation changes its embedding; its layers are not a chain"
        )
    return copied


def plan_of(model: nn.Module) -> Plan | None:
    """How a model is quantised; None for a float one."""
    plan = getattr(model, "plan", None)
    return plan if isinstance(plan, Plan) else None


def keep_groups(model: Sam, channel_groups: int) -> None:
    """Have the groups of channels that the grids of a model have by now in its plan, in place."""
    plan = plan_of(model)
    assert plan is not None
    layers = {path: dict(layer) for path, layer in plan.layers.items()}
    for path, layer in layers.items():
        if isinstance(grid := model.get_submodule(path).input_quantizer, ChannelGroupQuantizer):
            layer["input"] = grid.description()
    scheme = replace(plan.scheme, channel_groups=channel_groups)
    object.__setattr__(model, "plan", replace(plan, scheme=scheme, layers=layers))


FEW_BITS = "fewer than 8 bits"


def simulated(plan: Plan) -> list[str]:
    """What of a plan no runtime computes with, in words; empty where integers can do all of it."""
    products = [part for pair in plan.products.values() for part in pair.values()]
    grids = [
        given for layer in plan.layers.values() for name in ("weight", "input", "output") if (given := layer[name])
    ]
    operands = [operand for product in products for operand in (product["left"], product["right"])]
    kinds = {str(grid["kind"]) for grid in (*grids, *operands)}
    found = [words for kind, words in SIMULATED.items() if kind in kinds]
    if any(operand.get("shape") for operand in operands):
        found.append("scales of heads")
    if any(grid["bits"] < 8 for grid in (*grids, *operands)):
        found.append(FEW_BITS)
    return found


def as_float(model: Sam) -> Sam:
    """The model itself; of a quantised one, the float shape it was made of, without weights, to be counted."""
    if plan_of(model) is None:
        return model
    with torch.device("meta"):
        return build_model(model.config)


def set_quantizing(model: nn.Module, quantizing: bool) -> None:
    """Let all quantised parts compute with their grids, or as if they were float (before packing)."""
    for module in model.modules():
        if isinstance(module, QuantizedLayer | QuantizedProduct):
            module.quantizing = quantizing


def pack(model: nn.Module) -> None:
    """Replace all float weights of quantised layers by codes."""
    set_quantizing(model, True)
    for module in model.modules():
        if isinstance(module, QuantizedLayer) and module.weight is not None:
            module.pack()


def widened(scheme: Scheme, bits: int) -> Scheme:
    """A scheme with so many bits where it has fewer."""
    return replace(scheme, weight_bits=max(bits, scheme.weight_bits), activation_bits=max(bits, scheme.activation_bits))


def _bits_of(path: str, scheme: Scheme, widths: Mapping[str, int]) -> Scheme:
    """The scheme of one layer or product."""
    if any(fnmatchcase(path, pattern) for pattern in scheme.eight_bit_layers):
        return widened(scheme, 8)
    return widened(scheme, widths.get(path, 0))


def _check_patterns(scheme: Scheme, paths: list[str]) -> None:
    for pattern in scheme.eight_bit_layers:
        if not any(fnmatchcase(path, pattern) for path in paths):
            example = f", as {paths[-1]} is" if paths else ""
            raise InputError(
                f"method.eight_bit_layers: {pattern} is the path of no quantised layer or product{example}"
            )


def _check_float(scheme: Scheme, paths: list[str], layers: Collection[str]) -> None:
    for beginning in scheme.float_layers:
        if not any(path.startswith(beginning) for path in paths):
            raise InputError(f"method.float_layers: no layer's path begins with {beginning}; one is {paths[0]}")
    if not layers:
        raise InputError("method.float_layers and method.decoder leave every layer float; leave one of them out")


def _chosen(path: str, scheme: Scheme, alone: Collection[str]) -> bool:
    """Whether a layer or attention is quantised, as far as the scheme's beginnings say, those ``alone`` aside."""
    part = path.partition(".")[0]
    inside = part == "image_encoder" or (part == "mask_decoder" and scheme.decoder == "quantized")
    return inside and not any(path.startswith(start) for start in scheme.float_layers if start not in alone)


def _linear_weight(module: nn.Linear, scheme: Scheme, parts: dict[str, int] | None) -> dict[str, Any]:
    """What is different of a linear layer's weight grid."""
    kind = scheme.linear_weights
    if kind == "qkv" and parts is not None:
        return {"shape": [module.out_features, 1], **parts}
    return {} if kind == "same" else {"shape": [module.out_features, 1] if kind == "channel" else []}


def _activation(scheme: Scheme, shape: tuple[int, ...] = (), kind: str = "same") -> dict[str, Any]:
    symmetric = (scheme.activations if kind == "same" else kind) == "symmetric"
    return {"kind": "uniform", "bits": scheme.activation_bits, "symmetric": symmetric, "shape": list(shape)}


def _own(module: Any, biased: bool) -> dict[str, Any]:
    """What of a layer's description is the float layer's own: kind, shapes, and a convolution's geometry."""
    shape = list(module.weight.shape)
    if isinstance(module, nn.Linear):
        return {"kind": "linear", "shape": shape, "bias": shape[0] if biased else None}
    transposed = isinstance(module, nn.ConvTranspose2d)
    outputs = shape[1] * module.groups if transposed else shape[0]
    return {
        "kind": "convolution",
        "shape": shape,
        "bias": outputs if biased else None,
        "stride": list(module.stride),
        "padding": [0, 0] if module.padding == "valid" else list(module.padding),
        "groups": module.groups,
        "transposed": transposed,
    }


def _describe(module: Any, scheme: Scheme, biased: bool, after_gelu: bool) -> dict[str, Any]:
    own = _own(module, biased)
    shape, transposed = own["shape"], own.get("transposed", False)
    by_channel = [1] * len(shape)
    # A transposed convolution has its outputs second; with several groups they share that dimension.
    by_channel[1 if transposed else 0] = shape[1 if transposed else 0]
    weight_shape = by_channel if scheme.weights == "channel" else []
    given: dict[str, Any] | None = None
    if scheme.activation_bits <= 8:
        linear = isinstance(module, nn.Linear)
        given = _activation(scheme, kind=scheme.linear_activations if linear else "same")
        # Of linear layers alone; a transposed convolution behind a GELU has the grid of convolutions.
        if after_gelu and linear and scheme.twin:
            given = {"kind": "twin", "bits": scheme.activation_bits, "values": "gelu"}
        elif after_gelu and linear and scheme.gelu_grid == "hybrid":
            given = {"kind": "hybrid", "bits": scheme.activation_bits}
    output = None
    if scheme.convolution_outputs == "quantized" and scheme.activation_bits == 8 and own["kind"] == "convolution":
        output = None if transposed else _activation(scheme)
    weight = {"kind": "uniform", "bits": scheme.weight_bits, "symmetric": True, "shape": weight_shape}
    head = {key: own.pop(key) for key in ("kind", "shape", "bias")}
    # In the order in which files have it.
    return {**head, "weight": weight, "input": given, "output": output, **own}


def _describe_products(attention: Any, scheme: Scheme) -> dict[str, Any]:
    # Heads are the second dimension of what the products take.
    shape = (int(attention.num_heads), 1, 1) if scheme.products == "head" else ()
    operand = _activation(scheme, shape, scheme.product_activations)
    # With a symmetric grid, half of the codes are of negative values, which no probability has.
    softmax = _activation(scheme, kind=scheme.product_activations)
    if scheme.twin:
        softmax = {"kind": "twin", "bits": scheme.activation_bits, "values": "softmax"}
    elif scheme.softmax_grid == "logarithmic":
        softmax = {"kind": "logarithmic", "bits": scheme.activation_bits}
    return {"scores": {"left": operand, "right": operand}, "mixing": {"left": softmax, "right": operand}}


def _inputs_from_gelu(model: Sam) -> set[str]:
    """Layers that stand right behind a GELU in their module's order of children."""
    found = set()
    for path, module in model.named_modules():
        behind = False
        for name, child in module.named_children():
            if behind and isinstance(child, QUANTISABLE):
                found.add(f"{path}.{name}" if path else name)
            # Dropout lies between in some.
            behind = isinstance(child, nn.GELU) or (behind and isinstance(child, nn.Dropout | nn.Identity))
    return found
