"""One seed, fanned out by name, so that adding a consumer of randomness does not shift the others."""

import hashlib

import torch


def seed_for(seed: int, *names: str | int) -> int:
    """Derive the seed of a named purpose, e.g. ``seed_for(0, "prompts", 3)``.

    Returns:
        An integer in ``[0, 2**63)`` that depends on ``seed`` and every name, on no global state, and is the same
        on every machine.
    """
    text = "/".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(seed: int, *names: str | int) -> torch.Generator:
    """A CPU ``torch.Generator`` seeded with :func:`seed_for`."""
    return torch.Generator().manual_seed(seed_for(seed, *names))
