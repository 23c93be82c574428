"""The image encoder against Meta's, Hugging Face's and timm's: same weights, outputs compared.

``python -m benchmarks.encoder``; needs the extra ``test`` (``make test`` installs it). Every implementation encodes one
image of random numbers in float32 and in bfloat16; this project's also compiled where ``--compile`` is given. The
ratio is Meta's float32 time to the row's. Memory is what one encoding needs beside weights and input, and, for this
project, what one global block adds.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._models import VITS, random_sam
from benchmarks._timing import busy, default_device, machine, seconds_in_turns
from evaluation.latency import peak_memory
from teachers.convert import hugging_face_config, to_hugging_face
from teachers.image_encoder import ImageEncoder
from teachers.sam import Sam

Encode = Callable[[Tensor], Tensor]


def encoder_arguments(sam: Sam) -> dict[str, Any]:
    """What the constructors of Meta's and timm's encoders have in common."""
    config = sam.config.vit
    return {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": config.mlp_widths[0] / config.embed_dim,
        "norm_layer": partial(nn.LayerNorm, eps=1e-6),
        "use_rel_pos": True,
        "window_size": config.window_size,
        "global_attn_indexes": config.global_blocks,
    }


def meta(sam: Sam) -> Encode:
    """``segment_anything``'s encoder with these weights."""
    from segment_anything.modeling import ImageEncoderViT

    model = ImageEncoderViT(out_chans=sam.config.encoder.out_channels, **encoder_arguments(sam))
    model.load_state_dict(sam.image_encoder.state_dict())
    return model.eval()


def hugging_face(sam: Sam) -> Encode:
    """``transformers.SamModel``'s encoder with these weights."""
    from transformers import SamConfig as HubConfig
    from transformers import SamModel

    model = SamModel(HubConfig(**hugging_face_config(sam.config)))
    model.load_state_dict(to_hugging_face(sam.config, sam.state_dict()))
    encoder: Any = model.vision_encoder.eval()
    return _Last(encoder)


class _Last(nn.Module):
    """The embedding out of Hugging Face's answer."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder(images).last_hidden_state


class _Features(nn.Module):
    """timm's encoder up to the neck."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.encoder.forward_features(images)
        return features


def timm(sam: Sam) -> Encode:
    """timm's ``VisionTransformerSAM`` with these weights."""
    from timm.models.vision_transformer_sam import VisionTransformerSAM

    channels = sam.config.encoder.out_channels
    model = VisionTransformerSAM(num_classes=0, neck_chans=channels, **encoder_arguments(sam)).eval()
    weights = {key.replace("mlp.lin", "mlp.fc"): value for key, value in sam.image_encoder.state_dict().items()}
    model.load_state_dict(weights)
    return _Features(model)


def block_memory(encoder: ImageEncoder, device: torch.device) -> int:
    """Bytes that the first global block needs beside its weights and its input."""
    config = encoder.config
    block = encoder.blocks[config.global_blocks[0]]
    tokens = torch.randn(1, config.grid, config.grid, config.embed_dim, device=device)
    alive = [tokens, *block.parameters()]
    return peak_memory(lambda: block(tokens), alive, device) - sum(t.numel() * t.element_size() for t in alive)


def main() -> None:
    """Parse the command line, measure, print one line an implementation."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoder", description=__doc__)
    parser.add_argument("--model", default="sam_vit_b", choices=VITS)
    parser.add_argument("--device", default=default_device())
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--compile", action="store_true", help="also time this project's encoder compiled")
    options = parser.parse_args()
    device = torch.device(options.device)

    sam = random_sam(options.model)
    for name, parameter in sam.image_encoder.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            parameter.normal_(std=0.1)
    ours = sam.image_encoder
    encoders: dict[str, Any] = {"segment-anything": meta(sam), "transformers": hugging_face(sam), "timm": timm(sam)}
    encoders = {name: encoder.to(device).requires_grad_(False) for name, encoder in encoders.items()}
    encoders["sampress"] = ours.to(device)
    images = torch.randn(options.batch, 3, sam.input_size, sam.input_size, device=device)

    def work(encoder: Encode, dtype: torch.dtype | None) -> Callable[[], Tensor]:
        def encode() -> Tensor:
            with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype is not None):
                return encoder(images)

        return encode

    works = {f"{name}, float32": work(encoder, None) for name, encoder in encoders.items()}
    if "float32" not in options.precisions:
        # What all others are compared with.
        works = {"segment-anything, float32": works["segment-anything, float32"]}
    if "bfloat16" in options.precisions:
        works |= {f"{name}, bfloat16": work(encoder, torch.bfloat16) for name, encoder in encoders.items()}
    if options.compile:
        works["sampress compiled, bfloat16"] = work(torch.compile(ours), torch.bfloat16)
    reference = works["segment-anything, float32"]()
    spread = (reference.max() - reference.min()).item()
    seconds = seconds_in_turns(works, device, options.rounds)

    print(f"{options.model} at {sam.input_size}, batch {options.batch}, {options.rounds} rounds; {machine(device)}")
    print(f"{'encoder':32} {'seconds':>9} {'ratio':>7} {'memory':>9}  largest difference, of the range")
    for name, run in works.items():
        alive = [images, *ours.parameters()]
        memory = peak_memory(run, alive, device) - sum(t.numel() * t.element_size() for t in alive)
        difference = (run().float() - reference).abs().max().item() / spread
        ratio = seconds["segment-anything, float32"] / seconds[name]
        print(f"{name:32} {seconds[name]:9.3f} {ratio:6.2f}x {memory / 1e9:6.2f} GB  {difference:.1e}")
    with torch.inference_mode():
        print(
            f"one global block of sampress, float32: {block_memory(ours, device) / 1e9:.2f} GB beside weights and input"
        )


if __name__ == "__main__":
    main()
    print(busy())
