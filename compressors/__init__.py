"""One file a paper; the parts that several share live in ``distill``, ``prune`` and ``quantize``."""
