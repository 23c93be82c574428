"""timm's ``VisionTransformerSAM`` against this project's image encoder, at a small size with random weights."""

from functools import partial

import torch
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import nn
from torch.testing import assert_close

from teachers.image_encoder import EncoderConfig, ImageEncoder


def test_the_image_encoder() -> None:
    config = EncoderConfig(128, 16, 48, 4, (48,) * 4, (192,) * 4, 3, (1, 3), 32)
    ours = ImageEncoder(config).eval().requires_grad_(False)
    for parameter in ours.parameters():
        parameter.copy_(torch.randn(parameter.shape) * (0.5 / max(1, parameter[0].numel()) ** 0.5))
        parameter.add_(0.5 if parameter.ndim == 1 else 0.0)
    theirs = VisionTransformerSAM(
        img_size=128,
        patch_size=16,
        embed_dim=48,
        depth=4,
        num_heads=4,
        num_classes=0,
        window_size=3,
        global_attn_indexes=(1, 3),
        neck_chans=32,
        use_rel_pos=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    ).eval()
    theirs.load_state_dict({key.replace("mlp.lin", "mlp.fc"): value for key, value in ours.state_dict().items()})
    images = torch.randn(2, 3, 128, 128)
    with torch.inference_mode():
        assert_close(ours(images), theirs.forward_features(images), rtol=1e-4, atol=2e-5)
