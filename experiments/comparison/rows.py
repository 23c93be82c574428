"""A comparison as rows: what ``format=json`` prints."""

from dataclasses import asdict, dataclass, field
from typing import Any

from evaluation.comparison import ALL, Comparison, InstancePair


@dataclass(frozen=True)
class ComparedRow:
    """One protocol and one group of instances. mIoU in 0..1, differences in points.

    Attributes:
        size: ``all``, or a size class.
        only_first, only_second: of the protocol: instances without a counterpart.
        worst, best: of ``all``: single instances, the largest loss or gain first.
    """

    protocol: str
    data: str | None
    size: str
    first: str
    second: str
    instances: int
    images: int
    miou_first: float
    miou_second: float
    difference_points: float
    low_points: float | None
    high_points: float | None
    wins: int
    ties: int
    losses: int
    only_first: int
    only_second: int
    worst: list[dict[str, Any]] = field(default_factory=list)
    best: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def compared_rows(
    protocol: str, data: str | None, folders: tuple[str, str], comparison: Comparison, count: int
) -> list[ComparedRow]:
    """A row a group.

    Args:
        folders: of the two evaluations.
        count: single instances on each side, at most.
    """
    return [
        ComparedRow(
            protocol=protocol,
            data=data,
            size=size,
            first=folders[0],
            second=folders[1],
            instances=figures.instances,
            images=figures.images,
            miou_first=figures.first,
            miou_second=figures.second,
            difference_points=100 * figures.difference,
            low_points=None if figures.low is None else 100 * figures.low,
            high_points=None if figures.high is None else 100 * figures.high,
            wins=figures.wins,
            ties=figures.ties,
            losses=figures.losses,
            only_first=comparison.only_first,
            only_second=comparison.only_second,
            worst=[_plain(pair) for pair in comparison.worst(count)] if size == ALL else [],
            best=[_plain(pair) for pair in comparison.best(count)] if size == ALL else [],
        )
        for size, figures in comparison.figures.items()
    ]


def _plain(pair: InstancePair) -> dict[str, Any]:
    ids = {"image_id": pair.first.image_id, "annotation_id": pair.first.annotation_id, "area": pair.first.area}
    return {**ids, "iou_first": pair.first.iou, "iou_second": pair.second.iou}
