"""Passes over a data set: what must score 1, what must score what ten lines of NumPy say, and what must not matter."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core import distributed
from core.errors import InputError
from core.protocols import Prompt, Segmenter
from data.coco import Coco
from data.detections import Detections
from evaluation import records
from evaluation.average_precision.figures import average_precision
from evaluation.comparison import compare_records
from evaluation.metrics import bootstrap_interval, grouped_mean_iou, mean_iou
from evaluation.predictions import with_next_clicks
from evaluation.protocols import PROTOCOLS, ScoringProtocol, protocol_named
from evaluation.records import InstanceRecord, PartialRecords, read_instances, read_parts, write_records
from evaluation.scorer import Scored, Scorer
from tests.unit.tiny import Killed
from tests.unit.truthful import FilledBox, Truthful, drawn_labels, write_coco, write_detections

PROMPTED = [
    p for p in PROTOCOLS.values() if not p.is_detected and p.prompt != "annotated_point" and p.truth != "reference"
]
DETECTED = [protocol for protocol in PROTOCOLS.values() if protocol.is_detected]
BOXES = [protocol for protocol in PROMPTED if protocol.prompt == "box"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("drawn") / "coco", drawn_labels(7))


@pytest.fixture
def data(root: Path) -> Coco:
    return Coco(root, least_area=0)


@pytest.fixture(scope="module")
def truthful(root: Path) -> Truthful:
    data = Coco(root)
    return Truthful([data.sample(index) for index in range(len(data))])


def scored(model: Segmenter, data: Coco, protocols: list[ScoringProtocol], **settings: Any) -> Scored:
    folder, key = settings.pop("folder", None), settings.pop("key", "")
    scorer = Scorer(model, protocols, **settings)
    return scorer.score(data, partial=PartialRecords(folder, key) if folder else None)


def test_processes_that_score_for_the_first_one_read_no_records(
    truthful: Truthful, data: Coco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All records of LVIS take gigabytes, in each process that has them."""
    with monkeypatch.context() as second:
        for name, value in (("rank", 1), ("count", 2)):
            second.setattr(distributed, name, lambda value=value: value)
        second.setattr(distributed, "from_main", lambda make: make())
        for place in ("scorer", "records"):
            second.setattr(f"evaluation.{place}.read_parts", lambda *_: pytest.fail("it read the records"))
        partial = PartialRecords(tmp_path, "key")
        found = Scorer(truthful, BOXES[:1]).score(data, partial=partial, for_main=True)
    assert found.records == {BOXES[0].name: []} and found.images == len(data)
    assert sorted(read_parts(tmp_path, "key")) == [1, 3, 5]
    # The first one, which scores the others here, has all.
    all_of_it = Scorer(truthful, BOXES[:1]).score(data, partial=partial, for_main=True)
    assert all_of_it == scored(truthful, data, BOXES[:1])


def test_types_of_records_are_looked_up_once(tmp_path: Path) -> None:
    record = InstanceRecord(1, 2, 3.0, 0.5, 0.5, 0, 0.5)
    write_records(tmp_path, {"box_single@1": [record] * 50})
    records._hints.cache_clear()  # type: ignore[attr-defined]
    assert read_instances(tmp_path) == {"box_single@1": [record] * 50}
    assert records._hints.cache_info().misses == 1  # type: ignore[attr-defined]


def test_the_truth_scores_one_under_every_protocol(truthful: Truthful, data: Coco, root: Path, tmp_path: Path) -> None:
    assert isinstance(truthful, Segmenter)
    detections = Detections(write_detections(tmp_path / "boxes.json", root), data.sizes_hw())
    reference = next(p for p in PROTOCOLS.values() if p.truth == "reference")
    protocols = [*PROMPTED, *DETECTED, reference]
    found = scored(truthful, data, protocols, detections=detections, reference=truthful)
    for protocol in (*PROMPTED, reference):
        metrics = mean_iou(found.instances(protocol.name), protocol.bounds)
        assert metrics["miou"].value == 1.0, protocol.name
        assert metrics["miou"].n == sum(len(data.sample(index).annotation_ids) for index in range(len(data)))
    for protocol in DETECTED:
        results = [record.result() for record in found.detected(protocol.name)]
        figures = average_precision(data.truth(), results, backend="official")
        # The official evaluator divides by one plus an epsilon.
        assert figures["ap"] == pytest.approx(1.0, abs=1e-12) and figures["ar100"] == 1.0


@pytest.mark.parametrize("protocol", [p for p in BOXES if not p.jitter], ids=lambda protocol: protocol.name)
def test_filled_boxes_score_what_numpy_says(protocol: ScoringProtocol, truthful: Truthful, data: Coco) -> None:
    records = scored(FilledBox(truthful.samples), data, [protocol]).instances(protocol.name)
    expected = []
    for sample in truthful.samples:
        for mask, (x0, y0, x1, y1) in zip(sample.masks, sample.boxes_xyxy, strict=True):
            box = np.zeros_like(mask)
            box[int(y0) : int(y1), int(x0) : int(x1)] = True
            expected.append((mask & box).sum() / (mask | box).sum())
    assert [record.iou for record in records] == pytest.approx(expected, abs=0)


def figures(found: Scored) -> dict[int, tuple[float, int]]:
    return {
        record.annotation_id: (record.iou, record.mask_index)
        for protocol in BOXES[:2]
        for record in found.instances(protocol.name)
    }


def test_order_batches_and_processes_change_nothing(truthful: Truthful, data: Coco, tmp_path: Path) -> None:
    model, reference = FilledBox(truthful.samples), figures(scored(FilledBox(truthful.samples), data, BOXES[:2]))
    for settings in (
        {"prompt_batch_size": 1},
        {"prompt_batch_size": 3},
        {"image_batch_size": 4},
        {"workers": 2},
        {"image_batch_size": 3, "workers": 1, "prompt_batch_size": 2},
    ):
        assert figures(scored(model, data, BOXES[:2], **settings)) == reference, settings
    count = sum(len(data.sample(index).annotation_ids) for index in range(len(data)))
    order = np.random.default_rng(1).permutation(count).tolist()
    shuffled = Coco(write_coco(tmp_path / "shuffled", drawn_labels(7), order), least_area=0)
    assert figures(scored(model, shuffled, BOXES[:2])) == reference
    backwards = Scorer(model, BOXES[:2]).score(data, range(len(data))[::-1])
    assert figures(backwards) == reference


def test_detections_on_images_without_annotations_count(root: Path, tmp_path: Path, truthful: Truthful) -> None:
    source = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    bare = [annotation for annotation in source["annotations"] if annotation["image_id"] != 3]
    annotations = tmp_path / "bare.json"
    annotations.write_text(json.dumps({**source, "annotations": bare}))
    data = Coco(root, annotations=annotations)
    detections = Detections(write_detections(tmp_path / "boxes.json", root), data.sizes_hw())
    alone = scored(truthful, data, [DETECTED[0]], detections=detections).detected(DETECTED[0].name)
    beside = scored(truthful, data, [DETECTED[0], BOXES[0]], detections=detections).detected(DETECTED[0].name)
    assert beside == alone and 3 in {record.image_id for record in alone}


def test_each_image_is_encoded_once_for_all_protocols(truthful: Truthful, data: Coco) -> None:
    model = Truthful(truthful.samples)
    alike = [p for p in PROMPTED if p.preprocessing == ("pillow", "nearest")]
    scored(model, data, alike, image_batch_size=3)
    assert sum(count for kind, count in model.batches if kind == "encode") == len(data)


class _Stopping:
    """A model that is killed after some images."""

    def __init__(self, model: Truthful, after: int) -> None:
        self.model, self.left = model, after
        self.name, self.input_size = model.name, model.input_size

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        if not self.left:
            raise Killed
        self.left -= 1
        return self.model.encode(images)

    def decode(self, *arguments: Any, **named: Any) -> Any:
        return self.model.decode(*arguments, **named)


@pytest.mark.parametrize("after", [1, 4])
def test_a_stopped_pass_goes_on_where_it_was(after: int, truthful: Truthful, data: Coco, tmp_path: Path) -> None:
    model, folder = FilledBox(truthful.samples), tmp_path / "pass"
    reference = figures(scored(model, data, BOXES[:2]))
    with pytest.raises(Killed):
        scored(_Stopping(model, after), data, BOXES[:2], folder=folder, key="k")
    # The kill may come in the middle of a line.
    with open(folder / "part-0.jsonl", "a") as stream:
        stream.write('{"place": 3, "records": {"box_si')
    model.batches.clear()
    assert figures(scored(model, data, BOXES[:2], folder=folder, key="k")) == reference
    assert sum(kind == "encode" for kind, _ in model.batches) == len(data) - after
    # Of another model, nothing is taken over.
    model.batches.clear()
    scored(model, data, BOXES[:2], folder=folder, key="other")
    assert sum(kind == "encode" for kind, _ in model.batches) == len(data)


def test_images_that_cannot_be_read_are_counted(truthful: Truthful, root: Path, tmp_path: Path) -> None:
    broken = write_coco(tmp_path / "broken", drawn_labels(7))
    (broken / "val2017" / f"{2:012d}.png").unlink()
    content = (broken / "val2017" / f"{4:012d}.png").read_bytes()
    (broken / "val2017" / f"{4:012d}.png").write_bytes(content[: len(content) // 2])
    data = Coco(broken, missing="skip")
    for workers in (0, 2):
        found = scored(FilledBox(truthful.samples), Coco(broken, missing="skip"), [BOXES[0]], workers=workers)
        assert {record.image_id for record in found.instances(BOXES[0].name)} == {0, 1, 3, 5, 6}
        total = len(json.loads((broken / "annotations" / "instances_val2017.json").read_text())["annotations"])
        assert found.skipped["unreadable_image"] + len(found.instances(BOXES[0].name)) == total
        assert found.skipped["image_left_out"] == 2
    assert len(data) == 6


def test_records_are_kept_to_the_last_digit(truthful: Truthful, data: Coco, tmp_path: Path) -> None:
    found = scored(FilledBox(truthful.samples), data, BOXES[:2])
    write_records(tmp_path, found.records)
    assert read_instances(tmp_path) == {p.name: found.instances(p.name) for p in BOXES[:2]}
    # What an earlier evaluation left in the folder does not stay beside the new rows.
    (tmp_path / "detections.jsonl").write_text("of another evaluation")
    write_records(tmp_path, found.records)
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["instances.jsonl"]
    with open(tmp_path / "instances.jsonl", "a") as stream:
        stream.write("{}\n")
    with pytest.raises(InputError, match=r"instances\.jsonl: line \d+ is no record"):
        read_instances(tmp_path)


def test_clicks_follow_the_error(truthful: Truthful, data: Coco) -> None:
    seen: list[tuple[list[list[float]], list[int]]] = []

    class Blind(Truthful):
        """Answers with everything but the left half of the truth."""

        def answer(self, sample: Any, prompt: Any) -> torch.Tensor:
            seen.append((prompt.points_xy[0].tolist(), prompt.labels[0].tolist()))
            answers = super().answer(sample, prompt)
            answers[..., : answers.shape[-1] // 2] = False
            return answers

    protocol = replace(protocol_named("clicks_3"), choice="single")
    Scorer(Blind(truthful.samples), [protocol], prompt_batch_size=1).score(data, [0])
    sample = truthful.samples[0]
    assert [len(points) for points, _ in seen] == [1, 2, 3] * len(sample.masks)
    for k, mask in enumerate(sample.masks):
        points, labels = seen[3 * k + 2]
        missed = mask.copy()
        missed[:, mask.shape[1] // 2 :] = False
        assert labels[0] == 1
        for (x, y), label in zip(points[1:], labels[1:], strict=True):
            assert label == (1 if missed.any() else -1)
            assert not missed.any() or missed[int(y), int(x)]


def test_what_a_protocol_cannot_be() -> None:
    for settings, message in (
        ({"prompt": "circle"}, "prompt=circle is unknown"),
        ({"clicks": 10, "prompt": "central_point"}, "clicks=10 must be 1 to 9"),
        ({"clicks": 2}, "need a point to begin with"),
        ({"jitter": 0.1, "prompt": "central_point"}, "moves ground-truth boxes"),
        ({"jitter": 1.5}, "jitter=1.5 must be"),
    ):
        with pytest.raises(InputError, match=message):
            ScoringProtocol(name="x", **settings)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="protocol nothing is unknown"):
        protocol_named("nothing")


def test_every_protocol_says_where_it_comes_from() -> None:
    for name, protocol in PROTOCOLS.items():
        assert name == protocol.name and name.partition("@")[2].isdigit() and protocol.source
        assert set(protocol.axes()) == set(ScoringProtocol.__dataclass_fields__)


def test_averages_over_images_and_categories_by_hand() -> None:
    records = [InstanceRecord(0, 1, 10.0, 1.0, 0.5, 0, 1.0, 7), InstanceRecord(0, 2, 10.0, 0.0, 0.5, 0, 1.0, 7)]
    records.append(InstanceRecord(1, 3, 10.0, 0.8, 0.5, 0, 1.0, 9))
    assert grouped_mean_iou(records) == {"miou_images": pytest.approx(0.65), "miou_categories": pytest.approx(0.65)}
    low, high = bootstrap_interval(records)
    # Images are drawn whole: twice the first gives 0.5, twice the second 0.8, each once 0.6.
    assert (low, high) == (pytest.approx(0.5), pytest.approx(0.8))
    assert bootstrap_interval(records) == (low, high)
    # A single image has no interval, however many instances it holds.
    assert bootstrap_interval(records[:2]) == bootstrap_interval(records[:2], average="images") == (None, None)
    assert "miou_categories" not in grouped_mean_iou([replace(record, category_id=None) for record in records])


def test_slimsam_averages_within_images_first() -> None:
    # 1, 0 and 0.2 in one image, 0.8 in the other: 0.4 and 0.8, and over instances 0.5.
    figures = [(0, 1.0, 100.0), (0, 0.0, 100.0), (0, 0.2, 5000.0), (1, 0.8, 100.0)]
    records = [InstanceRecord(image, k, area, iou, 0.5, 0) for k, (image, iou, area) in enumerate(figures)]
    protocol = protocol_named("slimsam@1")
    assert protocol.average == "images" and protocol.axes()["average"] == "images"
    found = mean_iou(records, protocol.bounds, protocol.average)
    # Small ones: 0.5 and 0.8.
    values = {name: metric.value for name, metric in found.items()}
    assert values == {"miou": pytest.approx(0.6), "miou_small": pytest.approx(0.65), "miou_medium": pytest.approx(0.2)}
    assert mean_iou(records)["miou"].value == pytest.approx(0.5)
    # Images are drawn again: twice the first gives 0.4, twice the second 0.8.
    assert bootstrap_interval(records, average="images") == (pytest.approx(0.4), pytest.approx(0.8))
    better = [replace(record, iou=min(1.0, record.iou + 0.1)) for record in records]
    paired = compare_records(records, better, average=protocol.average).figures["all"]
    # Of three instances two gain a tenth; the one of the other image does too.
    assert (paired.first, paired.second) == (pytest.approx(0.6), pytest.approx(0.6 + (0.2 / 3 + 0.1) / 2))
    assert paired.difference == pytest.approx((0.2 / 3 + 0.1) / 2)
    assert {p.average for p in PROTOCOLS.values() if p.name != "slimsam@1"} == {"instances"}


def test_no_pixel_is_clicked_twice() -> None:
    truth = torch.zeros(1, 5, 7, dtype=torch.bool)
    truth[0, 1:4, 1:6] = True
    prompt = Prompt(points_xy=torch.tensor([[[3.0, 2.0]]]), labels=torch.tensor([[1]]))
    empty = torch.zeros_like(truth)
    # The answer stays empty: the row in the middle is deepest, from its left end on, without the first click.
    found = with_next_clicks(with_next_clicks(with_next_clicks(prompt, empty, truth), empty, truth), empty, truth)
    assert found.points_xy is not None and found.labels is not None
    assert found.points_xy.tolist() == [[[3.0, 2.0], [2.0, 2.0], [4.0, 2.0], [1.0, 1.0]]]
    assert found.labels.tolist() == [[1, 1, 1, 1]]
    # One pixel is missed, and it is clicked already.
    almost = truth.clone()
    almost[0, 2, 3] = False
    again = with_next_clicks(prompt, almost, truth)
    assert again.labels is not None and again.labels.tolist() == [[1, -1]]


def test_padding_is_no_click() -> None:
    truth = torch.zeros(1, 5, 7, dtype=torch.bool)
    truth[0, :2, :2] = True
    # One pixel alone is missed, in the corner where padding stands; the answer before it was without errors.
    almost = truth.clone()
    almost[0, 0, 0] = False
    first = Prompt(points_xy=torch.tensor([[[1.0, 1.0]]]), labels=torch.tensor([[1]]))
    found = with_next_clicks(with_next_clicks(first, truth, truth), almost, truth)
    assert found.points_xy is not None and found.labels is not None
    assert found.points_xy.tolist() == [[[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]]
    assert found.labels.tolist() == [[1, -1, 1]]


def test_inclusive_bounds_count_an_area_twice() -> None:
    records = [InstanceRecord(0, 1, 32.0**2, 0.5, 0.5, 0)]
    assert set(mean_iou(records, "inclusive")) == {"miou", "miou_small", "miou_medium"}
    assert set(mean_iou(records)) == {"miou", "miou_medium"}


def test_missing_inputs_are_required(truthful: Truthful, data: Coco) -> None:
    with pytest.raises(InputError, match="give detections=FILE"):
        scored(truthful, data, [DETECTED[0]])
    with pytest.raises(InputError, match=r"give evaluation\.reference=NAME"):
        scored(truthful, data, [protocol_named("mobilesam")])
