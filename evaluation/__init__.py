"""Promptable segmentation, scored. Sees models only as :class:`core.protocols.Segmenter`."""
