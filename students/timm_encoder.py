"""Any backbone of timm as a SAM's image encoder: features of one or several stages, brought to the teacher's grid."""

import difflib
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from core.errors import InputError, first_line
from core.feature_layout import EMBEDDING, HIGH_RES
from core.feature_maps import FeatureMaps, sized
from students.encoder_shapes import TimmConfig
from teachers.image_encoder import make_neck


class TimmEncoder(nn.Module):
    """Images to image embeddings: a backbone, a sum of projected feature maps on the grid, and SAM's neck.

    Raises:
        InputError: timm has no such model, it gives no feature maps, or there is no such stage.
    """

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = _backbone(config)
        channels = self.backbone.feature_info.channels()
        self.projections = nn.ModuleList(nn.Conv2d(count, config.out_channels, 1) for count in channels)
        self.neck = make_neck(config.out_channels, config.out_channels)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images ``[B, 3, S, S]`` to embeddings ``[B, out_channels, g, g]``."""
        grid = (self.config.grid, self.config.grid)
        found = feature_maps(self.backbone, images)
        maps = [projection(x) for projection, x in zip(self.projections, found, strict=True)]
        resized = [x if x.shape[-2:] == grid else F.interpolate(x, grid, mode="bilinear") for x in maps]
        return self.neck(torch.stack(resized).sum(0))


class TimmMapsEncoder(nn.Module):
    """The same with SAM 2's high-resolution features: each of the coarsest map that is as fine, or of the finest.

    Raises:
        InputError: as of :class:`TimmEncoder`.
    """

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        self.config = config
        channels, grid = config.out_channels, config.grid
        every = _features(config, None).feature_info
        count, reductions = len(every.info), list(zip(every.out_indices, every.reduction(), strict=True))

        def finest(scale: int) -> int:
            """The coarsest map with cells as small as a ``scale``-th of the grid's; the finest where none has."""
            fine = [index for index, reduction in reductions if reduction <= config.image_size / (scale * grid)]
            return int(fine[-1] if fine else reductions[0][0]) % count

        embedding = [index % count for index in _backbone(config).feature_info.out_indices]
        high_res = [finest(scale) for scale in (4, 2)]
        indices = sorted({*embedding, *high_res})
        self.backbone = _features(config, tuple(indices))
        self.embedding, self.high_res = (list(map(indices.index, some)) for some in (embedding, high_res))
        widths = self.backbone.feature_info.channels()
        self.projections = nn.ModuleList(nn.Conv2d(widths[i], channels, 1) for i in self.embedding)
        self.neck = make_neck(channels, channels)
        self.conv_s0 = nn.Conv2d(widths[self.high_res[0]], channels // 8, 1)
        self.conv_s1 = nn.Conv2d(widths[self.high_res[1]], channels // 4, 1)

    def forward(self, images: Tensor) -> FeatureMaps:
        """Normalised images ``[B, 3, S, S]`` to the embedding ``[B, C, g, g]`` and the high-resolution features."""
        found, grid = feature_maps(self.backbone, images), self.config.grid
        parts = zip(self.projections, self.embedding, strict=True)
        embedding = torch.stack([sized(projection(found[i]), grid) for projection, i in parts]).sum(0)
        return FeatureMaps(
            {
                EMBEDDING: self.neck(embedding),
                HIGH_RES[0]: sized(self.conv_s0(found[self.high_res[0]]), 4 * grid),
                HIGH_RES[1]: sized(self.conv_s1(found[self.high_res[1]]), 2 * grid),
            }
        )


def feature_maps(backbone: Any, images: Tensor) -> list[Tensor]:
    """A backbone's maps as ``[B, c, h, w]``; those whose layers keep channels last (Swin, MambaOut) give them so.

    Raises:
        InputError: one image trains a backbone that normalises a map of one pixel over the batch (ResNeSt, SKNet).
    """
    try:
        maps: list[Tensor] = backbone(images)
    except ValueError as error:
        if len(images) > 1 or "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            "student.name: this backbone's batch normalisation needs two images a batch; give method.batch=2 or more, "
            "or choose another backbone"
        ) from error
    # EfficientNets and MobileNets have extractors of their own, which give channels first and do not say so.
    last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
    return [x.permute(0, 3, 1, 2) for x in maps] if last else maps


def check_backbone(encoder: nn.Module) -> None:
    """Run an encoder on one empty image: some backbones take images of their own size alone.

    Raises:
        InputError: it does not take the teacher's images.
    """
    config: Any = encoder.config
    side = config.image_size
    try:
        with torch.no_grad():
            encoder.eval()(torch.zeros(1, 3, side, side))
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        raise InputError(
            f"student.name={config.name}: does not take the teacher's images of {side} x {side} pixels "
            f"({first_line(error)}); choose another backbone"
        ) from error
    finally:
        encoder.train()


def _backbone(config: TimmConfig) -> Any:
    if not timm.is_model(config.name):
        near = difflib.get_close_matches(config.name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() has the names"
        raise InputError(f"student.name={config.name}: timm has no such model; {hint}")
    if config.stages:
        return _features(config, config.stages)
    every = _features(config, None)
    reductions, ratio = every.feature_info.reduction(), config.image_size / config.grid
    if len(set(reductions)) == 1:
        # A plain ViT has one grid throughout: its last map says all.
        return _features(config, (-1,))
    coarse = [
        index for index, reduction in zip(every.feature_info.out_indices, reductions, strict=True) if reduction >= ratio
    ]
    return _features(config, tuple(coarse) or (-1,))


def _features(config: TimmConfig, stages: tuple[int, ...] | None) -> Any:
    """The backbone as a module that gives feature maps; see :func:`feature_maps`.

    Its stochastic depth is off, as TinyViT's is: MobileSAM distils without it, and what it draws on a device is in no
    training's state.
    """
    backbone = _made(config, stages)
    for module in backbone.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    return backbone


def _made(config: TimmConfig, stages: tuple[int, ...] | None) -> Any:
    arguments: dict[str, Any] = {"features_only": True, "pretrained": False}
    if stages is not None:
        arguments["out_indices"] = stages
    try:
        try:
            # Positions of a ViT belong to a size of image; convolutional models have no such argument.
            return timm.create_model(config.name, img_size=config.image_size, **arguments)
        except TypeError:
            return timm.create_model(config.name, **arguments)
    except (RuntimeError, AttributeError, AssertionError, IndexError, ValueError, KeyError) as error:
        text = f"student.name={config.name}"
        text += f" student.stages={list(stages)}" if stages is not None else ""
        raise InputError(
            f"{text}: timm cannot give these feature maps ({first_line(error)}); choose another backbone"
        ) from error
