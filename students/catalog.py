"""Compressed models that their authors released: where each file is, its layout, and what vouches for it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Released:
    """A published checkpoint.

    Attributes:
        url: of the file, or of the repository on Hugging Face's hub.
        layout: ``mobile_sam`` (state dict), ``hugging_face`` (a ``SamModel`` folder), ``slimsam_pickle``.
        sha256: of the file, where one is known.
        paper: that describes it, with the licence of its weights.
        published: figures as the paper prints them, with their protocol; never to be mixed with measured ones.
    """

    url: str
    layout: str
    sha256: str | None
    paper: str
    licence: str = "Apache-2.0"
    published: str = ""


_SLIMSAM = "SlimSAM, arXiv 2312.05284"
RELEASED = {
    "mobile_sam": Released(
        "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
        "mobile_sam",
        "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        "MobileSAM, arXiv 2306.14289",
        published="mIoU 62.73 on SA-1B, one point (SlimSAM, Table 1)",
    ),
    "tinysam": Released(
        "https://huggingface.co/xinghaochen/tinysam/resolve/main/tinysam.pth",
        "mobile_sam",
        "4b8edcf93af46e2a658ae455574de62873778a5cc3fd8e8adf094dcdfa957cf2",
        "TinySAM, arXiv 2312.13789",
    ),
    "tinysam_42.3": Released(
        "https://github.com/xinghaochen/TinySAM/releases/download/3.0/tinysam_42.3.pth",
        "mobile_sam",
        None,
        "TinySAM, arXiv 2312.13789",
    ),
    "slimsam_50_uniform": Released("https://huggingface.co/Zigeng/SlimSAM-uniform-50", "hugging_face", None, _SLIMSAM),
    "slimsam_77_uniform": Released("https://huggingface.co/Zigeng/SlimSAM-uniform-77", "hugging_face", None, _SLIMSAM),
    "slimsam_50": Released(
        "https://huggingface.co/Zigeng/SlimSAM/resolve/main/SlimSAM-50.pth",
        "slimsam_pickle",
        None,
        _SLIMSAM,
        published="mIoU 72.33 on SA-1B, one point (SlimSAM, Table 1)",
    ),
    "slimsam_77": Released(
        "https://huggingface.co/Zigeng/SlimSAM/resolve/main/SlimSAM-77.pth",
        "slimsam_pickle",
        None,
        _SLIMSAM,
        published="mIoU 67.40 on SA-1B, one point (SlimSAM, Table 1)",
    ),
}
