"""One file a method; the parts that several share live in ``distill``, ``prune`` and ``quantize``."""
