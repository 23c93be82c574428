"""Segment everything: all masks of an image, from a grid of point prompts."""

from evaluation.everything.generator import Everything, EverythingGenerator
from evaluation.everything.scores import ImageProposals, image_proposals, proposal_scores
from evaluation.everything_settings import EverythingSettings

__all__ = [
    "Everything",
    "EverythingGenerator",
    "EverythingSettings",
    "ImageProposals",
    "image_proposals",
    "proposal_scores",
]
