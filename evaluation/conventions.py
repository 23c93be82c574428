"""Protocols by name: this project's own, and those behind published figures (each says where it comes from)."""

from dataclasses import replace

from core.errors import InputError
from evaluation.scoring_protocol import ScoringProtocol

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
        source="arXiv 2312.05284, Table 1: SA-1B, annotated points",
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
        name="edgesam@1", resize="tensor", truth="frame", source="chongzhou96/EdgeSAM, eval_mIoU.py, first iteration"
    ),
    ScoringProtocol(
        name="nanosam@1",
        choice="best_of_4",
        rounding="floor",
        upscaling="direct",
        crowd=True,
        least_area=0,
        source=_NANOSAM,
    ),
    ScoringProtocol(
        name="segment_anything_fast@1", prompt="mass_centre", choice="best_of_3", crowd=True, least_area=0, source=_SAF
    ),
)
PROTOCOLS = {protocol.name: protocol for protocol in _ALL}
"""All protocols that may be asked for."""


def protocol_named(name: str) -> ScoringProtocol:
    """A protocol by its name; the version may be left out where there is one.

    Raises:
        InputError: there is none of this name.
    """
    found = [known for known in PROTOCOLS if name in (known, known.partition("@")[0])]
    if not found:
        raise InputError(f"protocol {name} is unknown; choose of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[found[-1]]
