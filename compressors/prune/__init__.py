"""Structured pruning of SAM's image encoder: what goes together, how it scores, how it is cut."""
