"""A SAM as two modules of plain tensors, with the inputs and outputs that users of SAM's ONNX files know."""

import copy
import json
import warnings
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from core.checkpoint import replacing
from core.feature_layout import EMBEDDING, HIGH_RES, Layout, layout_of
from core.feature_maps import FeatureMaps, maps_of
from students.export.token_decoder import TokenDecoder
from students.quantized.operators import DECOMPOSITIONS
from teachers.sam import Sam

ENCODER_INPUT, ENCODER_OUTPUT = "image", "image_embeddings"
PROMPT_INPUTS = ("point_coords", "point_labels", "mask_input", "has_mask_input")
DECODER_INPUTS = (ENCODER_OUTPUT, *PROMPT_INPUTS)
DECODER_OUTPUTS = ("low_res_masks", "iou_predictions")
UPSAMPLING = ("mask_decoder.first", "mask_decoder.second")
"""Paths of the linear layers that upscale in :class:`DecoderPart`: in SAM they are transposed convolutions."""
NOTES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")
"""What PyTorch notes at the nodes of a graph of the code that they come from."""
UPSCALED, UPSCALING = "masks", "upscaling/"
"""The output that a decoder's file may also have, and how the names of the nodes behind it begin."""


def map_names(layout: Layout) -> tuple[str, ...]:
    """Outputs of an encoder's file, and first inputs of its decoder's: one map is ``image_embeddings``, as SAM's is."""
    return tuple(layout) if len(layout) > 1 else (ENCODER_OUTPUT,)


class EncoderPart(nn.Module):
    """The image encoder: ``image`` float32 ``[B, 3, S, S]``, normalised and padded (or stretched), to float32 maps.

    Args:
        dtype: what it computes in.
    """

    def __init__(self, model: Sam, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.image_encoder, self.dtype = model.image_encoder.to(dtype), dtype

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """To ``[B, C, g, g]``; of several maps, to each in its order."""
        maps = tuple(x.float() for x in maps_of(self.image_encoder(image.to(self.dtype))).values())
        return maps if len(maps) > 1 else maps[0]


class DecoderPart(nn.Module):
    """Prompt encoder and mask decoder, as ``segment_anything``'s ``SamOnnxModel`` lays out prompts.

    Unlike that, it takes any number of prompts on one image, and always gives all four candidates.

    Args:
        on_tokens: whether its upscaling computes on tokens, which is faster in ONNX Runtime and OpenVINO; PyTorch's
            programs keep the convolutions.
    """

    def __init__(self, model: Sam, on_tokens: bool = True) -> None:
        super().__init__()
        prompts = model.prompt_encoder
        self.frame = prompts.frame
        self.positions, self.mask_downscaling = prompts.pe_layer, prompts.mask_downscaling
        self.mask_decoder = TokenDecoder(model.mask_decoder) if on_tokens else model.mask_decoder
        kinds = [prompts.not_a_point_embed, *prompts.point_embeddings]
        # [5, C], addressed by label + 1: padding, background, foreground, top-left corner, bottom-right corner
        self.register_buffer("kinds", torch.cat([cast(nn.Embedding, kind).weight.detach() for kind in kinds]))
        self.register_buffer("no_mask", prompts.no_mask_embed.weight.detach().reshape(1, -1, 1, 1))
        self.register_buffer("grid_positions", prompts.dense_position().detach())

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Answer ``N`` prompts of ``P`` points each.

        Args:
            image_embeddings: float32 ``[1, C, g, g]``.
            point_coords: float32 ``[N, P, 2]``, xy in pixels of the model's frame. A box is its two corners.
            point_labels: float32 ``[N, P]``: 0 background, 1 foreground, 2 top-left and 3 bottom-right corner of a
                box, -1 padding. Without a box SAM expects one padding point.
            mask_input: float32 logits ``[N, 1, 4g, 4g]`` of an earlier answer.
            has_mask_input: float32 ``[N]``: 1 where there is one, 0 where ``mask_input`` says nothing.

        Returns:
            Logits ``[N, 4, 4g, 4g]`` of all candidates in the model's frame, and their predicted IoUs ``[N, 4]``. The
            first is SAM's single-mask answer, the other three its multimask answer.
        """
        return self._decode(image_embeddings, point_coords, point_labels, mask_input, has_mask_input)

    def _decode(self, features: Any, *prompts: Tensor) -> tuple[Tensor, Tensor]:
        point_coords, point_labels, mask_input, has_mask_input = prompts
        kinds, no_mask, grid_positions = (
            cast(Tensor, getattr(self, n)) for n in ("kinds", "no_mask", "grid_positions")
        )
        encoded = self.positions.encode((point_coords + 0.5) / self.frame)
        labels = point_labels.to(torch.int64)
        sparse = torch.where((labels == -1)[..., None], 0.0, encoded) + kinds[labels + 1]
        has_mask = has_mask_input.reshape(-1, 1, 1, 1)
        dense = has_mask * self.mask_downscaling(mask_input) + (1 - has_mask) * no_mask
        decoded = self.mask_decoder(features, grid_positions, sparse, dense)
        return decoded.logits, decoded.iou_pred


class MapsDecoderPart(DecoderPart):
    """The same of a SAM 2, whose decoder reads three maps."""

    def forward(  # type: ignore[override]
        self,
        image_embed: Tensor,
        high_res_feats_0: Tensor,
        high_res_feats_1: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Answer ``N`` prompts; SAM 2 expects one padding point in each, with a box too. Else as :class:`DecoderPart`.

        The rule by which a single-mask answer gives way is left to who reads the four candidates.
        """
        maps = dict(zip((EMBEDDING, *HIGH_RES), (image_embed, high_res_feats_0, high_res_feats_1), strict=True))
        return self._decode(FeatureMaps(maps), point_coords, point_labels, mask_input, has_mask_input)


def decoder_part(model: Sam, on_tokens: bool = True) -> DecoderPart:
    """The decoder of a model, for as many maps as its encoder gives; args as of :class:`DecoderPart`."""
    kind = MapsDecoderPart if len(layout_of(model.config.encoder)) > 1 else DecoderPart
    return kind(model, on_tokens)


def prepared(model: Sam) -> Sam:
    """A copy of a model, on the CPU and in evaluation mode, in which what does not depend on inputs is a constant.

    A module may take part by a method ``prepare_export()``, which is called on the copy.
    """
    copied = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    for module in copied.modules():
        prepare = getattr(module, "prepare_export", None)
        if callable(prepare):
            prepare()
        # timm's attentions with a bias for each pair of positions.
        if callable(getattr(module, "get_attention_biases", None)):
            _pack_biases(module)
    return copied


def _pack_biases(attention: Any) -> None:
    """Store which bias each pair of positions has in as few bytes as it takes.

    Of TinyViT-5M the gathered biases would be a fifth of the file. Runtimes gather them once, when they open it.
    """
    indices: Tensor = attention.attention_bias_idxs
    attention.attention_bias_idxs = indices.to(torch.uint8 if int(indices.max()) < 256 else torch.int32)
    # Looked up again for every call, so that moving the module moves the answer.
    attention.get_attention_biases = lambda device: attention.attention_biases[:, attention.attention_bias_idxs.long()]


def open_dimensions(maps: int = 1) -> tuple[dict[int, Any], ...]:
    """``dynamic_shapes`` of :class:`DecoderPart`: any number of prompts on one image, and of points in each."""
    prompts, points = torch.export.Dim("prompts"), torch.export.Dim("points")
    return *({} for _ in range(maps)), {0: prompts, 1: points}, {0: prompts, 1: points}, {0: prompts}, {0: prompts}


def example_prompts(model: Sam, count: int = 2, points: int = 3) -> tuple[Tensor, ...]:
    """Inputs of :func:`decoder_part` in order: random prompts (the same each time) on random maps."""
    generator = torch.Generator().manual_seed(0)
    shape = model.config.encoder
    labels = torch.randint(-1, 4, (count, points), generator=generator).float()
    maps = (
        torch.randn(1, channels, scale * shape.grid, scale * shape.grid, generator=generator)
        for channels, scale in layout_of(shape).values()
    )
    return (
        *maps,
        torch.rand(count, points, 2, generator=generator) * shape.image_size,
        labels,
        torch.randn(count, 1, 4 * shape.grid, 4 * shape.grid, generator=generator) * 5,
        torch.arange(count).remainder(2).float(),
    )


def write_programs(encoder: Path, decoder: Path, model: Sam, dtype: torch.dtype = torch.float32) -> bool:
    """Write both parts; inputs and outputs by position, as of :mod:`students.export.parts`.

    Args:
        model: prepared (:func:`students.export.parts.prepared`); its encoder is brought to ``dtype``.
        dtype: what the encoder computes in. Positions of prompts need float32, so the decoder keeps it.

    Returns:
        Whether the encoder takes any number of images.
    """
    maps = len(layout_of(model.config.encoder))
    _write(decoder, decoder_part(model, on_tokens=False), example_prompts(model), open_dimensions(maps))
    part, images = EncoderPart(model, dtype), torch.randn(2, 3, model.input_size, model.input_size)
    try:
        _write(encoder, part, (images,), ({0: torch.export.Dim("batch")},))
    except (torch._dynamo.exc.UserError, RuntimeError, ValueError):
        _write(encoder, part, (images[:1],), None)
        return False
    return True


def _write(path: Path, part: torch.nn.Module, inputs: tuple[Any, ...], shapes: Any) -> None:
    with torch.no_grad(), warnings.catch_warnings():
        # Of PyTorch's own modules about each other.
        warnings.filterwarnings("ignore", module=r"(torch\.|copyreg)")
        program = torch.export.export(part.eval(), inputs, dynamic_shapes=shapes)
        if any(node.target in DECOMPOSITIONS for node in program.graph.nodes):
            program = program.run_decompositions(DECOMPOSITIONS)
        for graph in (module.graph for module in program.graph_module.modules() if isinstance(module, GraphModule)):
            # Paths and lines of this machine's code, most of what a graph is stored as.
            for node, fact in product(graph.nodes, NOTES):
                node.meta.pop(fact, None)
        # The example would be stored with the weights.
        program.example_inputs = None
        with replacing(path) as temporary, open(temporary, "wb") as stream:
            torch.export.save(program, stream)


def convert(path: Path, facts: Mapping[str, Any], halve: bool) -> None:
    """Write ``<name>.xml`` and ``<name>.bin`` in place of ``<name>.onnx``.

    Args:
        facts: kept in the file, by name.
        halve: weights in float16, which halves the file.
    """
    import openvino

    model = openvino.convert_model(str(path))
    for key, value in facts.items():
        model.set_rt_info(value if isinstance(value, str) else json.dumps(value), ["sampress", key])
    openvino.save_model(model, str(path.with_suffix(".xml")), compress_to_fp16=halve)
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
