"""Two models' records, paired: every figure by hand, what has no counterpart, and the masks behind the records."""

import random
from dataclasses import replace

import numpy as np
import pytest

from core.errors import InputError
from data.shapes import Shapes
from evaluation.comparison import ALL, Comparison, compare_records
from evaluation.metrics import resampled_interval, size_classes
from evaluation.protocols import PROTOCOLS
from evaluation.records import InstanceRecord
from evaluation.scorer import Scorer
from experiments.config.words import quoted
from experiments.reporting.comparison_images import window
from teachers.weights import load_sam


def record(image: int, annotation: int, iou: float, area: float = 100.0) -> InstanceRecord:
    return InstanceRecord(image, annotation, area, iou, iou_pred=0.5, mask_index=0)


# Image 1: -0.25 and 0; image 2: +0.5; image 4: -0.125, large; each side has one that the other has not.
FIRST = [
    record(1, 10, 0.75),
    record(1, 11, 0.5),
    record(2, 20, 0.25, 2000.0),
    record(4, 40, 0.5, 1e4),
    record(3, 30, 1),
]
SECOND = [
    record(1, 10, 0.5),
    record(1, 11, 0.5),
    record(2, 20, 0.75, 2000.0),
    record(4, 40, 0.375, 1e4),
    record(9, 9, 1),
]


def test_figures_by_hand() -> None:
    found = compare_records(FIRST, SECOND)
    assert (len(found.pairs), found.only_first, found.only_second) == (4, 1, 1)
    assert list(found.figures) == [ALL, "small", "medium", "large"]
    whole = found.figures[ALL]
    assert (whole.instances, whole.images) == (4, 3)
    assert (whole.first, whole.second) == (0.5, 2.125 / 4)
    assert whole.difference == 0.125 / 4
    assert (whole.wins, whole.ties, whole.losses) == (1, 1, 2)
    sums, counts = np.array([-0.25, 0.5, -0.125]), np.array([2.0, 1.0, 1.0])
    assert (whole.low, whole.high) == resampled_interval(sums, counts, seed=0)
    small, medium, large = (found.figures[name] for name in ("small", "medium", "large"))
    assert (small.instances, small.difference, small.wins, small.ties, small.losses) == (2, -0.125, 0, 1, 1)
    assert (medium.first, medium.second, large.difference) == (0.25, 0.75, -0.125)
    assert (small.low, small.high) == (None, None), "one image says nothing of the spread over images"


def test_the_interval_is_seeded_and_the_order_does_not_matter() -> None:
    shuffled = random.Random(0).sample(SECOND, len(SECOND))
    assert compare_records(FIRST, shuffled).figures == compare_records(FIRST, SECOND).figures
    other = compare_records(FIRST, SECOND, seed=1, draws=50).figures[ALL]
    assert other != compare_records(FIRST, SECOND, draws=50).figures[ALL] and other.difference == 0.125 / 4


def test_extremes_are_real_losses_and_gains_in_order() -> None:
    found = compare_records(FIRST, SECOND)
    assert [pair.first.annotation_id for pair in found.worst(10)] == [10, 40]
    assert [pair.first.annotation_id for pair in found.best(10)] == [20]
    assert [pair.first.annotation_id for pair in found.worst(1)] == [10] and not found.best(0)
    level = [record(2, 5, 0.5), record(1, 7, 0.5), record(1, 6, 0.5)]
    lost = compare_records(level, [replace(r, iou=0.25) for r in level])
    assert [(p.first.image_id, p.first.annotation_id) for p in lost.worst(3)] == [(1, 6), (1, 7), (2, 5)]


def test_a_model_against_itself_only_ties() -> None:
    whole = compare_records(FIRST, FIRST).figures[ALL]
    assert (whole.wins, whole.ties, whole.losses, whole.difference) == (0, 5, 0, 0)
    assert (whole.low, whole.high) == (0, 0)


def test_nothing_in_common() -> None:
    assert compare_records(FIRST[:1], SECOND[-1:]) == Comparison((), 1, 1, {})
    # The same annotation's number in another image is another instance.
    assert compare_records([record(1, 5, 1)], [record(2, 5, 1)]).only_first == 1


def test_bounds_of_size_classes() -> None:
    assert size_classes(1024.0) == ["medium"] and size_classes(1024.0, "inclusive") == ["small", "medium"]
    assert size_classes(9216.0) == ["large"] and size_classes(9216.0, "inclusive") == ["medium", "large"]
    edge = [record(1, 1, 0.5, 1024.0), record(2, 2, 0.5, 1.0)]
    assert list(compare_records(edge, edge).figures) == [ALL, "small", "medium"]
    assert compare_records(edge, edge, "inclusive").figures["small"].instances == 2


def test_what_is_not_the_same_annotation_is_refused() -> None:
    with pytest.raises(InputError, match="annotation 10 of image 1 occurs twice in the first"):
        compare_records([*FIRST, FIRST[0]], SECOND)
    with pytest.raises(InputError, match="annotation 10 of image 1 has 100 pixels in the first and 101 in the second"):
        compare_records(FIRST, [replace(SECOND[0], area=101.0), *SECOND[1:]])


@pytest.mark.parametrize(
    "name",
    [
        "box_single@1",
        "box_jittered@1",
        "box_oracle@1",
        "clicks_3@1",
        "efficientvit_sam_box@1",
        "edgesam@2",
        "nanosam@2",
    ],
)
def test_masks_made_again_have_the_recorded_iou(name: str) -> None:
    protocol, data, model = PROTOCOLS[name], Shapes("validation", 2), load_sam("sam_pocket")
    records = Scorer(model, [protocol], seed=3).score(data).records[name]
    for index in range(2):
        sample = data.sample(index)
        places = [0, len(sample.masks) - 1]
        masks, iou = Scorer(model, [protocol], seed=3).masks(sample, protocol, places)
        assert masks.shape == (2, *sample.image.shape[:2]) and masks.dtype == np.bool_
        recorded = {r.annotation_id: r.iou for r in records}
        assert iou == pytest.approx([recorded[sample.annotation_ids[place]] for place in places], abs=1e-3)
        if protocol.truth == "original":
            truth = sample.masks[places]
            again = (masks & truth).sum((1, 2)) / (masks | truth).sum((1, 2))
            assert again == pytest.approx(iou)


def test_masks_of_a_reference_are_not_made() -> None:
    with pytest.raises(ValueError, match="reference"):
        model, protocol = load_sam("sam_pocket"), PROTOCOLS["mobilesam@1"]
        Scorer(model, [protocol], reference=model).masks(Shapes("validation", 1).sample(0), protocol, [0])


def test_a_window_holds_its_instance() -> None:
    mask = np.zeros((100, 80), np.bool_)
    mask[0:5, 30:70] = True
    rows, columns = window(mask)
    assert (rows.start, rows.stop) == (0, 4 + 20 + 1) and (columns.start, columns.stop) == (10, 69 + 20 + 1)
    assert mask[rows, columns].sum() == mask.sum()


@pytest.mark.parametrize("word", ["runs/a+b,c", "it's", "back\\slash", "ends\\", "quoted\\'", "a b", "(x)[y]{z}"])
def test_a_word_goes_through_hydra_as_it_is(word: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (override,) = OverridesParser.create().parse_overrides([f"first={quoted(word)}"])
    assert str(override.value()) == word
