"""What a figure rests on: every choice that published evaluations make differently, with a name for each."""

from dataclasses import asdict, dataclass

from core.errors import InputError

CHOICES = {
    "prompt": ("box", "detector_box", "central_point", "box_centre", "annotated_point", "mass_centre"),
    "choice": ("single", "best_of_3", "best_of_4", "oracle"),
    "resize": ("pillow", "tensor"),
    "rounding": ("nearest", "floor"),
    "upscaling": ("frame", "direct"),
    "truth": ("original", "frame", "reference"),
    "bounds": ("half_open", "inclusive"),
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
            of the two regions of error, without feedback of the mask (RITM's clicker, as EfficientViT-SAM uses it).
        jitter: standard deviation of the noise on each side of a box, as a share of its length; seeded.
        choice: ``single``: the single-mask answer; ``best_of_3``: of the multimask answer the best predicted;
            ``best_of_4``: of all four; ``oracle``: the best of the three by the ground truth, an upper bound.
        resize: ``pillow``: bilinear with antialiasing on bytes, as SAM; ``tensor``: the same on floating point.
        rounding: of the resized picture's sides: to the ``nearest``, half up, or ``floor``.
        upscaling: of the answer: by the model's ``frame`` to the original, as SAM; or ``direct``.
        truth: the ``original`` mask; the same brought to the model's ``frame`` and back, a little dilated (EdgeSAM); or
            the answer of a ``reference`` model to the same prompt (MobileSAM's paper).
        crowd: whether crowd regions count.
        least_area: annotations of a smaller area do not count.
        bounds: of the size classes: ``half_open``, or ``inclusive`` at both ends.
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
    def framing(self) -> tuple[str, str]:
        """What decides about the picture that the model sees: protocols with one framing share its embedding."""
        return self.resize, self.rounding

    def axes(self) -> dict[str, str]:
        """Every choice as text, for tables and files."""
        return {
            key: str(value).lower() if isinstance(value, bool) else f"{value}" for key, value in asdict(self).items()
        }
