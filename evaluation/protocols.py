"""What a figure rests on: prompts, choice of masks, ground truth; by protocols that have names and sources.

Nothing here imports PyTorch: help lists the protocols.
"""

from dataclasses import asdict, dataclass, replace

from core.errors import InputError

CHOICES = {
    "prompt": ("box", "detector_box", "central_point", "box_centre", "annotated_point", "mass_centre"),
    "choice": ("single", "best_of_3", "best_of_4", "oracle"),
    "resize": ("pillow", "pillow_bicubic", "tensor"),
    "rounding": ("nearest", "floor"),
    "upscaling": ("frame", "direct"),
    "truth": ("original", "frame", "reference"),
    "bounds": ("half_open", "inclusive"),
    "average": ("instances", "images"),
}
"""Values of the axes that are words."""
MOST_CLICKS = 9


@dataclass(frozen=True, kw_only=True)
class ScoringProtocol:
    """How prompts are made, how an answer is chosen, and what it is compared with. Pixels are the original image's.

    Attributes:
        name: with its version, such as ``coco_box@1``.
        prompt: ``box``: the annotation's; ``detector_box``: a detector's, scored by average precision;
            ``central_point``: the mask's pixel farthest from its border; ``box_centre``; ``annotated_point``: the one
            the annotation was made from (SA-1B); ``mass_centre``: the mask's centre of mass, or its pixel farthest from
            the border where that lies outside (segment-anything-fast).
        clicks: points a prompt, at most 9: each one after the first is the pixel farthest from the border of the larger
            of the two regions of error, without feedback of the mask (RITM's clicker, as EfficientViT-SAM uses it);
            no pixel is clicked twice.
        jitter: standard deviation of the noise on each side of a box, as a share of its length; seeded.
        choice: ``single``: the single-mask answer; ``best_of_3``: of the multimask answer the best predicted;
            ``best_of_4``: of all four; ``oracle``: the best of the three by the ground truth, an upper bound.
        resize: ``pillow``: bilinear with antialiasing on bytes, as SAM; ``pillow_bicubic``: with Pillow's usual kernel
            in its place; ``tensor``: bilinear on floating point.
        rounding: of the resized image's sides: to the ``nearest``, half up; or ``floor``, while prompts are scaled by
            the longer side alone and the part of an answer that has the image is rounded down too (NanoSAM).
        upscaling: of the answer: by the model's ``frame`` to the original, as SAM; or ``direct``.
        truth: the ``original`` mask; the same brought to the model's ``frame`` and back, a little dilated (EdgeSAM); or
            the answer of a ``reference`` model to the same prompt (MobileSAM's paper).
        crowd: whether crowd regions count.
        least_area: annotations of a smaller area do not count.
        bounds: of the size classes: ``half_open``, or ``inclusive`` at both ends.
        average: mIoU is the mean over ``instances``; or the mean within each image, and of these over ``images``.
        source: where the convention comes from.
    """

    name: str
    prompt: str = "box"
    clicks: int = 1
    jitter: float = 0.0
    choice: str = "single"
    resize: str = "pillow"
    rounding: str = "nearest"
    upscaling: str = "frame"
    truth: str = "original"
    crowd: bool = False
    least_area: float = 1.0
    bounds: str = "half_open"
    average: str = "instances"
    source: str = "this project"

    def __post_init__(self) -> None:
        for axis, known in CHOICES.items():
            if getattr(self, axis) not in known:
                raise InputError(f"{axis}={getattr(self, axis)} is unknown; choose one of {', '.join(known)}")
        if not 1 <= self.clicks <= MOST_CLICKS:
            raise InputError(f"clicks={self.clicks} must be 1 to {MOST_CLICKS}")
        if self.clicks > 1 and self.prompt in ("box", "detector_box"):
            raise InputError(f"clicks={self.clicks} need a point to begin with; prompt={self.prompt} is a box")
        if not 0 <= self.jitter < 1:
            raise InputError(f"jitter={self.jitter} must be at least 0 and below 1")
        if self.jitter and self.prompt != "box":
            raise InputError(f"jitter={self.jitter} moves ground-truth boxes; prompt={self.prompt} has none")

    @property
    def is_detected(self) -> bool:
        """Whether prompts come from a detector, and the figure is average precision."""
        return self.prompt == "detector_box"

    @property
    def preprocessing(self) -> tuple[str, str]:
        """How the image comes into the model's frame: protocols that agree in it share the embedding."""
        return self.resize, self.rounding

    def axes(self) -> dict[str, str]:
        """Every choice as text, for tables and files."""
        return {
            key: str(value).lower() if isinstance(value, bool) else f"{value}" for key, value in asdict(self).items()
        }


_BOX = ScoringProtocol(name="box_single@1")
_POINT = ScoringProtocol(name="point_best_of_3@1", prompt="central_point", choice="best_of_3")
_DETECTED = ScoringProtocol(name="detector_box_single@1", prompt="detector_box")
_EFFICIENTVIT = ScoringProtocol(
    name="efficientvit_sam_box@1",
    choice="best_of_3",
    crowd=True,
    bounds="inclusive",
    source="mit-han-lab/efficientvit, eval_efficientvit_sam_model.py",
)
_SAF = "pytorch-labs/segment-anything-fast, experiments/eval_combo.py"
_NANOSAM = "NVIDIA-AI-IOT/nanosam, the evaluation behind its table"

_ALL = (
    _BOX,
    replace(_BOX, name="box_best_of_3@1", choice="best_of_3"),
    replace(_BOX, name="box_oracle@1", choice="oracle"),
    replace(_BOX, name="box_jittered@1", jitter=0.1),
    _POINT,
    replace(_POINT, name="point_single@1", choice="single"),
    replace(_POINT, name="point_oracle@1", choice="oracle"),
    replace(_POINT, name="box_centre_best_of_3@1", prompt="box_centre"),
    replace(_POINT, name="annotated_point_best_of_3@1", prompt="annotated_point"),
    *(replace(_POINT, name=f"clicks_{count}@1", clicks=count) for count in range(2, 10)),
    _DETECTED,
    replace(_DETECTED, name="detector_box_best_of_3@1", choice="best_of_3"),
    ScoringProtocol(
        name="slimsam@1",
        prompt="annotated_point",
        average="images",
        source="arXiv 2312.05284, Table 1: SA-1B, annotated points; czg1225/SlimSAM, its validation",
    ),
    ScoringProtocol(
        name="mobilesam@1", truth="reference", source="arXiv 2306.14289, section 4: mIoU with the masks of SAM itself"
    ),
    replace(
        _DETECTED, name="tinysam@1", choice="best_of_3", source="xinghaochen/TinySAM, tinysam_zero_shot_ins_eval.py"
    ),
    _EFFICIENTVIT,
    replace(_EFFICIENTVIT, name="efficientvit_sam_point@1", prompt="central_point"),
    *(
        replace(_EFFICIENTVIT, name=f"efficientvit_sam_clicks_{count}@1", prompt="central_point", clicks=count)
        for count in (3, 5)
    ),
    replace(_EFFICIENTVIT, name="efficientvit_sam_detector_box@1", prompt="detector_box", crowd=False),
    ScoringProtocol(
        name="edgesam@2",
        resize="tensor",
        truth="frame",
        least_area=0,
        source="chongzhou96/EdgeSAM, eval_mIoU.py, first iteration",
    ),
    ScoringProtocol(
        name="nanosam@2",
        choice="best_of_4",
        resize="pillow_bicubic",
        rounding="floor",
        upscaling="direct",
        crowd=True,
        least_area=0,
        bounds="inclusive",
        source=_NANOSAM,
    ),
    ScoringProtocol(
        name="segment_anything_fast@1", prompt="mass_centre", choice="best_of_3", crowd=True, least_area=0, source=_SAF
    ),
)
PROTOCOLS = {protocol.name: protocol for protocol in _ALL}
"""All protocols by name."""
BOX_AND_POINT = "box_point@1"
"""What runs are scored by, and evaluations that name no protocol: two of these in one row."""
BOX_POINT = (PROTOCOLS["box_single@1"], PROTOCOLS["point_best_of_3@1"])
"""What it stands for: boxes take the single mask, points the best predicted of three."""


def protocol_named(name: str) -> ScoringProtocol:
    """A protocol by its name; the version may be left out where there is one.

    Raises:
        InputError: there is none of this name.
    """
    found = [known for known in PROTOCOLS if name in (known, known.partition("@")[0])]
    if not found and name in (BOX_AND_POINT, BOX_AND_POINT.partition("@")[0]):
        pair = " and ".join(protocol.name for protocol in BOX_POINT)
        raise InputError(
            f"protocol {name} is {pair}, in one row: leave protocols empty ([]) for it, or name the two for a row each"
        )
    if not found:
        raise InputError(f"protocol {name} is unknown; choose of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[found[-1]]
