"""Differences of two methods over paired seeds: by hand, against a bootstrap, and by how often they cover the truth."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import t

from evaluation.paired_seeds import ImageScores, are_paired, crossed_difference, seed_difference
from evaluation.records import InstanceRecord


def scores(*iou: float, instances: tuple[int, ...] | None = None) -> ImageScores:
    return ImageScores(tuple(range(len(iou))), instances or (1,) * len(iou), {"miou": iou})


def test_scores_by_image_are_means_over_its_instances_and_survive_a_file() -> None:
    box = [InstanceRecord(image, n, 9.0, iou, iou, 0) for n, (image, iou) in enumerate([(7, 0.5), (2, 0.25), (7, 1.0)])]
    found = ImageScores.of({"miou": box})
    assert found == ImageScores((2, 7), (1, 2), {"miou": (0.25, 0.75)})
    assert ImageScores.from_dict(found.to_dict()) == found


SCORED = {"image": [1, 2], "instances": [1, 3], "miou": [0, 0.5]}


@pytest.mark.parametrize(
    "raw",
    [
        *(None, [], {}, {"image": [1]}, {"image": [1], "instances": [1, 2]}, {"image": 3}),
        *(SCORED | {"image": values} for values in ([1, None], [1, "2"], [1, True])),
        *(SCORED | {"instances": values} for values in ([1, None], [1, 0], [1, 2.0], [1, 10**400])),
        *(SCORED | {"miou": values} for values in ([0, None], [0, "1"], [0, float("nan")], [0, 1.5], [0, [1]])),
    ],
)
def test_anything_else_is_no_scores(raw: object) -> None:
    assert ImageScores.from_dict(raw) is None
    assert ImageScores.from_dict(SCORED) is not None


def test_students_t_over_three_seeds() -> None:
    """By hand: differences 1, 2, 3 have mean 2 and deviation 1; t of two degrees of freedom is 4.3027."""
    found = seed_difference([1, 2, 3], [0, 0, 0])
    assert found.difference == 2
    assert (found.low, found.high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert found.verdict == "undecided"
    assert seed_difference([10, 11, 12], [1, 2, 3]).verdict == "holds"
    assert seed_difference([1, 2, 3], [10, 11, 12]).verdict == "reversed"


def test_the_mean_counts_instances_and_one_seeds_interval_is_that_of_a_bootstrap_over_images() -> None:
    rng = np.random.default_rng(0)
    instances = tuple(map(int, rng.integers(1, 5, 200)))
    counts = np.array(instances)
    gains = rng.random(200) - 0.4
    found = crossed_difference(
        [scores(*gains, instances=instances)], [scores(*[0.0] * 200, instances=instances)], "miou"
    )
    assert found.difference == pytest.approx(gains @ counts / counts.sum())
    drawn = rng.integers(0, 200, (4000, 200))
    means = (gains * counts)[drawn].sum(1) / counts[drawn].sum(1)
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.004)


def test_seeds_and_images_by_hand() -> None:
    """Gains 1, 3 and 2, 6 of two seeds on two images.

    Means of seeds 2 and 4, of images 1.5 and 4.5: variances 2 / 2 = 1 and 4.5 / 2 = 2.25, with one degree of freedom
    each; 3.25 ** 2 / (1 + 2.25 ** 2) = 1.7423 in all.
    """
    found = crossed_difference([scores(1, 3), scores(2, 6)], [scores(0, 0), scores(0, 0)], "miou")
    assert found.difference == 3 and found.over_images
    half = t.ppf(0.975, 3.25**2 / (1 + 2.25**2)) * 3.25**0.5
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("of_seed", "of_image", "of_both"), [(1, 0, 0.01), (0.3, 3, 1), (0.5, 3, 3)])
def test_an_interval_covers_the_truth_as_often_as_it_says(
    seeds: int, of_seed: float, of_image: float, of_both: float
) -> None:
    """400 times: 95 % are 380, give or take 4.4."""
    rng = np.random.default_rng(seeds)
    nothing = [scores(*[0.0] * 60)] * seeds
    covered = 0
    for _ in range(400):
        gains = of_seed * rng.normal(size=(seeds, 1)) + of_image * rng.normal(size=60)
        gains = gains + of_both * rng.normal(size=(seeds, 60))
        found = crossed_difference([scores(*one) for one in gains], nothing, "miou")
        covered += found.low <= 0 <= found.high
    assert 364 <= covered <= 396


@pytest.mark.parametrize(("seeds", "covered"), [(2, 0.5), (3, 0.75), (5, 0.83)])
def test_drawing_few_seeds_again_would_cover_the_truth_less_often(seeds: int, covered: float) -> None:
    """The interval that is not used: quantiles of all ways to draw seeds with repetition, here without images."""
    differences = np.random.default_rng(0).normal(size=(2000, seeds))
    draws = np.array(list(product(range(seeds), repeat=seeds)))
    low, high = np.quantile(differences[:, draws].mean(-1), [0.025, 0.975], axis=1, method="inverted_cdf")
    assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(covered, abs=0.02)


def test_equal_methods_are_undecided() -> None:
    same = [scores(0.5, 0.6), scores(0.7, 0.8)]
    assert crossed_difference(same, same, "miou").verdict == "undecided"


def test_only_scores_of_the_same_instances_are_paired() -> None:
    one = scores(0.5, 0.6)
    assert are_paired([one, scores(0.1, 0.2)], "miou")
    assert not are_paired([one, scores(0.1, 0.2)], "miou_point")
    assert not are_paired([one, None], "miou")
    assert not are_paired([None, one], "miou")
    assert not are_paired([one, scores(0.1, 0.2, instances=(1, 2))], "miou")
    assert not are_paired([scores(0.5), scores(0.1)], "miou"), "one image says nothing of others"
