"""Which channels stay: a fixed share of every group, or a share of all groups of a kind together."""

from collections.abc import Mapping

import torch
from torch import Tensor

from compressors.prune.groups import Group
from students.pruned_vit import kept_embedding, kept_width


def keep(scores: Tensor, count: int, slices: int) -> Tensor:
    """The channels to keep, in their order: int64 ``[count]``.

    Args:
        scores: float ``[width]``.
        count: channels to keep, a multiple of ``slices``.
        slices: with more than one, scores are summed over the slices and every slice keeps the same pattern.
    """
    # Sorting is stable, so equal scores keep the lower index on every machine.
    pattern = _pattern(scores, slices).sort(descending=True, stable=True).indices[: count // slices]
    return _in_every_slice(pattern, len(scores), slices)


def keep_locally(scores: Mapping[str, Tensor], groups: Mapping[str, Group], ratio: float, heads: int) -> dict:
    """Every group loses the same share: what to keep, by group name."""

    def count(name: str) -> int:
        kept = kept_embedding if name.startswith("embedding") else kept_width
        return kept(groups[name].width, ratio, groups[name].multiple or heads)

    return {name: keep(of_group, count(name), groups[name].slices) for name, of_group in scores.items()}


def keep_globally(
    scores: Mapping[str, Tensor], groups: Mapping[str, Group], ratio: float, normalisation: str, heads: int
) -> dict[str, Tensor]:
    """The lowest scores of all groups together go (SlimSAM, section 4.4, "global pruning"); widths become ragged.

    Attention and MLPs are budgeted apart. Scores are made comparable group by group; of a group at least one channel a
    head stays. An MLP's width stays a multiple of the number of heads: the number it loses is rounded down, and its
    best channels are kept.

    Args:
        scores: by group name, ``attention.<block>`` and ``mlp.<block>``.
        normalisation: one of :data:`compressors.settings.NORMALISATIONS`.
        heads: number of attention heads.
    """
    kept = {}
    for kind in ("attention", "mlp"):
        names = [name for name in scores if name.startswith(f"{kind}.")]
        if not names:
            continue
        patterns = {n: _normalised(_pattern(scores[n], groups[n].slices), normalisation) for n in names}
        multiples = {n: groups[n].multiple or heads for n in names}
        # The best of each group cannot fall; all others compete.
        ranked = torch.cat([_with_best(p, 1 if kind == "attention" else multiples[n]) for n, p in patterns.items()])
        gone = len(ranked) - int(len(ranked) * (1 - ratio) + 1e-9)
        lowest = ranked.sort(stable=True).indices[:gone]
        falls = torch.zeros(len(ranked), dtype=torch.bool)
        falls[lowest] = True
        start = 0
        for name, pattern in patterns.items():
            lost = int((falls[start : start + len(pattern)] & ranked[start : start + len(pattern)].isfinite()).sum())
            start += len(pattern)
            if kind == "mlp":
                lost -= lost % multiples[name]
            slices = groups[name].slices
            kept[name] = keep(scores[name], (len(pattern) - lost) * slices, slices)
    return kept


def _normalised(pattern: Tensor, kind: str) -> Tensor:
    # The bounds are torch-pruning's. Disturbed Taylor's scores grow with the noise; at 0.01 they spread by about 1e-6.
    if kind == "gaussian":
        return (pattern - pattern.mean()) / (pattern.std() + 1e-8)
    if kind == "standardization":
        return (pattern - pattern.min()) / (pattern.max() - pattern.min() + 1e-8)
    scale = {"mean": pattern.mean(), "max": pattern.max(), "sum": pattern.sum()}[kind]
    return pattern / (scale + 1e-8 * scale.abs().clamp(min=1e-30))


def _with_best(pattern: Tensor, count: int) -> Tensor:
    """Scores with the ``count`` best at infinity."""
    raised = pattern.clone().cpu()
    raised[pattern.sort(descending=True, stable=True).indices[:count].cpu()] = torch.inf
    return raised


def _pattern(scores: Tensor, slices: int) -> Tensor:
    """Scores summed over the slices: float ``[width / slices]``."""
    return scores.reshape(slices, -1).sum(0)


def _in_every_slice(pattern: Tensor, width: int, slices: int) -> Tensor:
    return (torch.arange(slices)[:, None] * (width // slices) + pattern.sort().values.cpu()).flatten()
