"""Differences of two methods over paired seeds: by hand, and against a plain bootstrap."""

import numpy as np
import pytest

from evaluation.paired_seeds import ImageScores, are_paired, hierarchical_difference, seed_difference
from evaluation.records import InstanceRecord


def scores(*iou: float, instances: tuple[int, ...] | None = None) -> ImageScores:
    return ImageScores(tuple(range(len(iou))), instances or (1,) * len(iou), {"miou": iou})


def test_scores_by_image_are_means_over_its_instances_and_survive_a_file() -> None:
    box = [InstanceRecord(image, n, 9.0, iou, iou, 0) for n, (image, iou) in enumerate([(7, 0.5), (2, 0.25), (7, 1.0)])]
    found = ImageScores.of({"miou": box})
    assert found == ImageScores((2, 7), (1, 2), {"miou": (0.25, 0.75)})
    assert ImageScores.from_dict(found.to_dict()) == found


@pytest.mark.parametrize("raw", [None, [], {}, {"image": [1]}, {"image": [1], "instances": [1, 2]}, {"image": 3}])
def test_anything_else_is_no_scores(raw: object) -> None:
    assert ImageScores.from_dict(raw) is None


def test_students_t_over_three_seeds() -> None:
    """By hand: differences 1, 2, 3 have mean 2 and deviation 1; t of two degrees of freedom is 4.3027."""
    found = seed_difference([1, 2, 3], [0, 0, 0])
    assert found.difference == 2
    assert (found.low, found.high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert found.verdict == "undecided"
    assert seed_difference([10, 11, 12], [1, 2, 3]).verdict == "holds"
    assert seed_difference([1, 2, 3], [10, 11, 12]).verdict == "reversed"


def test_the_mean_counts_instances_and_the_interval_is_that_of_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(0)
    instances = tuple(map(int, rng.integers(1, 5, 30)))
    ours, theirs = rng.random((3, 30)), rng.random((3, 30))
    first, second = ([scores(*one, instances=instances) for one in side] for side in (ours, theirs))
    found = hierarchical_difference(first, second, "miou", draws=4000)
    counts = np.array(instances)
    assert found.difference == pytest.approx(((ours - theirs) @ counts).mean() / counts.sum())
    means = []
    for _ in range(4000):
        seeds, images = rng.integers(0, 3, 3), rng.integers(0, 30, 30)
        gains = (ours - theirs)[np.ix_(seeds, images)]
        means.append((gains * counts[images]).sum() / (3 * counts[images].sum()))
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.01)


def test_equal_methods_are_undecided() -> None:
    same = [scores(0.5, 0.6), scores(0.7, 0.8)]
    assert hierarchical_difference(same, same, "miou").verdict == "undecided"


def test_only_scores_of_the_same_instances_are_paired() -> None:
    one = scores(0.5, 0.6)
    assert are_paired([one, scores(0.1, 0.2)], "miou")
    assert not are_paired([one, scores(0.1, 0.2)], "miou_point")
    assert not are_paired([one, None], "miou")
    assert not are_paired([None, one], "miou")
    assert not are_paired([one, scores(0.1, 0.2, instances=(1, 2))], "miou")
