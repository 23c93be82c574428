"""One file a paper; the parts they share live in ``distill`` and ``prune``."""
