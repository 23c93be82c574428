"""SAM's named models: shapes, published files and where their weights come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from teachers.hiera import hiera_config
from teachers.image_encoder import EncoderConfig
from teachers.sam import SamConfig
from teachers.sam2 import Sam2Config

WEIGHTS = Path(__file__).parent / "weights"


def vit(
    depth: int, embed_dim: int, num_heads: int, global_blocks: Sequence[int], *, image_size: int = 1024
) -> EncoderConfig:
    """An encoder of Segment Anything's family: patches of 16, windows of 14, MLPs four times the width."""
    return EncoderConfig(
        image_size=image_size,
        patch_size=16,
        embed_dim=embed_dim,
        num_heads=num_heads,
        attention_widths=(embed_dim,) * depth,
        mlp_widths=(4 * embed_dim,) * depth,
        window_size=14,
        global_blocks=tuple(global_blocks),
    )


@dataclass(frozen=True)
class Release:
    """A published weight file."""

    url: str
    sha256: str
    licence: str = "Apache-2.0"
    paper: str = "Segment Anything, arXiv 2304.02643"


@dataclass(frozen=True)
class NamedModel:
    """A model people ask for by name.

    Attributes:
        config: its shape.
        release: its published file, if it is one of Meta's.
        packaged: its file inside this package, if it is shipped.
    """

    config: SamConfig
    release: Release | None = None
    packaged: Path | None = None


_SAM2 = "SAM 2, arXiv 2408.00714"
_SAM2_META = "https://dl.fbaipublicfiles.com/segment_anything_2/092824/"
_META = "https://dl.fbaipublicfiles.com/segment_anything/"

POCKET = SamConfig(
    EncoderConfig(
        image_size=128,
        patch_size=8,
        embed_dim=160,
        num_heads=5,
        attention_widths=(160,) * 6,
        mlp_widths=(640,) * 6,
        window_size=8,
        global_blocks=(1, 3, 5),
        out_channels=128,
    ),
    decoder_heads=4,
    decoder_mlp_width=512,
    iou_width=128,
)

PHOTO = SamConfig(
    EncoderConfig(
        image_size=512,
        patch_size=16,
        embed_dim=192,
        num_heads=6,
        attention_widths=(192,) * 8,
        mlp_widths=(768,) * 8,
        window_size=8,
        global_blocks=(3, 7),
        out_channels=128,
    ),
    decoder_heads=4,
    decoder_mlp_width=512,
    iou_width=128,
)

POCKET_2 = Sam2Config(
    hiera_config(256, 24, (1, 2, 7, 2), 1, (8, 4, 8, 8), (5, 7, 9), 8, 128),
    decoder_heads=4,
    decoder_mlp_width=512,
    iou_width=128,
)

MODELS = {
    "sam_vit_b": NamedModel(
        SamConfig(vit(12, 768, 12, (2, 5, 8, 11))),
        Release(_META + "sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    ),
    "sam_vit_l": NamedModel(
        SamConfig(vit(24, 1024, 16, (5, 11, 17, 23))),
        Release(_META + "sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    ),
    "sam_vit_h": NamedModel(
        SamConfig(vit(32, 1280, 16, (7, 15, 23, 31))),
        Release(_META + "sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
    ),
    "sam_pocket": NamedModel(POCKET, packaged=WEIGHTS / "sam_pocket.safetensors"),
    "sam_photo": NamedModel(PHOTO, packaged=WEIGHTS / "sam_photo.safetensors"),
    "sam2_1_tiny": NamedModel(
        Sam2Config(hiera_config(1024, 96, (1, 2, 7, 2), 1, (8, 4, 14, 7), (5, 7, 9), 7)),
        Release(
            _SAM2_META + "sam2.1_hiera_tiny.pt",
            "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
            paper=_SAM2,
        ),
    ),
    "sam2_1_small": NamedModel(
        Sam2Config(hiera_config(1024, 96, (1, 2, 11, 2), 1, (8, 4, 14, 7), (7, 10, 13), 7)),
        Release(
            _SAM2_META + "sam2.1_hiera_small.pt",
            "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
            paper=_SAM2,
        ),
    ),
    "sam2_1_base_plus": NamedModel(
        Sam2Config(hiera_config(1024, 112, (2, 3, 16, 3), 2, (8, 4, 14, 7), (12, 16, 20), 14)),
        Release(
            _SAM2_META + "sam2.1_hiera_base_plus.pt",
            "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
            paper=_SAM2,
        ),
    ),
    "sam2_1_large": NamedModel(
        Sam2Config(hiera_config(1024, 144, (2, 6, 36, 4), 2, (8, 4, 16, 8), (23, 33, 43), 7)),
        Release(
            _SAM2_META + "sam2.1_hiera_large.pt",
            "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
            paper=_SAM2,
        ),
    ),
    "sam2_pocket": NamedModel(POCKET_2, packaged=WEIGHTS / "sam2_pocket.safetensors"),
}
