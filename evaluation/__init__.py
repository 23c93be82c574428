"""Promptable segmentation, scored. Sees models only as :mod:`core.protocols` tells them."""
