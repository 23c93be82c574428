"""Average precision against pycocotools and lvis themselves, called here as their users do: equal to the last digit."""

import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from data.coco import Coco
from data.detections import Detections
from evaluation.average_precision.figures import BACKENDS, FIGURES, average_precision
from evaluation.protocols import PROTOCOLS
from evaluation.scorer import Scorer
from tests.unit.scored_masks import HEIGHT, WIDTH, Results, Truth, encoded, random_results, random_truth
from tests.unit.truthful import FilledBox, drawn_labels, write_coco

# The first three differ in how crowded the images are.
SEEDS = [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 6))]
both_backends = pytest.mark.parametrize("backend", BACKENDS)


def named(style: str, values: Any) -> dict[str, float | None]:
    return {name: None if v == -1 else float(v) for name, v in zip(FIGURES[style], values, strict=True)}


def pycocotools_figures(
    folder: Path, truth: Truth, results: Results, iou_type: str = "segm", image_ids: list[int] | None = None
) -> dict[str, float | None]:
    file = folder / "truth.json"
    file.write_text(json.dumps(truth))
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCO(str(file))
        evaluation = COCOeval(judge, judge.loadRes(copy.deepcopy(results)), iou_type)
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return named("coco", evaluation.stats)


class NumpyOfOld:
    """numpy with the name ``float``, which lvis still uses."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@pytest.fixture
def lvis_judge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """lvis itself, reading its input from files."""
    lvis = pytest.importorskip("lvis")
    monkeypatch.setattr("lvis.eval.np", NumpyOfOld())

    def judge(truth: Truth, results: Results, iou_type: str = "segm", image_ids: list[int] | None = None) -> Any:
        files = tmp_path / "truth.json", tmp_path / "results.json"
        for file, content in zip(files, (truth, results), strict=True):
            file.write_text(json.dumps(content))
        evaluation = lvis.LVISEval(*map(str, files), iou_type)
        if image_ids is not None:
            evaluation.params.img_ids = image_ids
        evaluation.run()
        return named("lvis", evaluation.results.values())

    return judge


def telling(figures: dict[str, float | None]) -> bool:
    """Whether comparing them says anything: nearly all are defined, and most of those strictly between 0 and 1."""
    values = [value for value in figures.values() if value is not None]
    return len(values) >= len(figures) - 1 and sum(0 < value < 1 for value in values) >= len(values) - 2


@pytest.mark.parametrize("seed", SEEDS)
def test_coco_on_random_files(tmp_path: Path, seed: int) -> None:
    truth = random_truth(seed)
    results = random_results(truth, seed, crowded=(0, 150, 700)[seed % 3])
    expected = pycocotools_figures(tmp_path, truth, results)
    assert telling(expected)
    for backend in BACKENDS:
        assert average_precision(truth, results, backend=backend) == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_lvis_on_random_files(lvis_judge: Any, seed: int) -> None:
    truth = random_truth(seed)
    results = random_results(truth, seed, crowded=(0, 290, 700)[seed % 3])
    expected = lvis_judge(truth, results)
    assert telling(expected)
    for backend in BACKENDS:
        assert average_precision(truth, results, style="lvis", backend=backend) == expected


@both_backends
@pytest.mark.parametrize("images", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_few_annotations(tmp_path: Path, lvis_judge: Any, backend: str, images: int) -> None:
    """Categories with one or two annotations, where the precision of a single hit shows in the figures."""
    for seed in range(20, 40):
        truth = random_truth(seed, images)
        results = random_results(truth, seed)
        if results:
            assert average_precision(truth, results, backend=backend) == pycocotools_figures(tmp_path, truth, results)
            assert average_precision(truth, results, style="lvis", backend=backend) == lvis_judge(truth, results)


@both_backends
def test_empty_masks_and_annotations_without_area(tmp_path: Path, lvis_judge: Any, backend: str) -> None:
    truth = random_truth(11)
    results = random_results(truth, 11, crowded=400)
    empty = encoded(np.zeros((HEIGHT, WIDTH), dtype=bool))
    for annotation in truth["annotations"][::4]:
        annotation |= {"segmentation": empty, "area": 0.0, "bbox": [0.0, 0.0, 0.0, 0.0]}
    for annotation in truth["annotations"][1::4]:
        annotation["ignore"] = 1
    for result in results[::5]:
        result["segmentation"] = empty
    expected = pycocotools_figures(tmp_path, truth, results)
    assert average_precision(truth, results, backend=backend) == expected
    assert average_precision(truth, results, style="lvis", backend=backend) == lvis_judge(truth, results)


@both_backends
def test_boxes(tmp_path: Path, lvis_judge: Any, backend: str) -> None:
    truth = random_truth(12)
    rng = np.random.default_rng(12)
    results = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "score": round(float(rng.random()), 1)}
        | {"bbox": [float(side) for side in (np.array(a["bbox"]) * rng.uniform(0.9, 1.1, 4)).round(2)]}
        for a in truth["annotations"] * 3
    ]
    expected = pycocotools_figures(tmp_path, truth, results, "bbox")
    assert telling(expected)
    assert average_precision(truth, results, backend=backend, iou_type="bbox") == expected
    got = average_precision(truth, results, style="lvis", backend=backend, iou_type="bbox")
    assert got == lvis_judge(truth, results, "bbox")


@both_backends
def test_some_images_only(tmp_path: Path, lvis_judge: Any, backend: str) -> None:
    truth = random_truth(13)
    results = random_results(truth, 13)
    chosen = [image["id"] for image in truth["images"]][:7]
    expected = pycocotools_figures(tmp_path, truth, results, image_ids=chosen)
    assert average_precision(truth, results, backend=backend, image_ids=chosen) == expected
    got = average_precision(truth, results, style="lvis", backend=backend, image_ids=chosen)
    assert got == lvis_judge(truth, results, image_ids=chosen)


@pytest.mark.slow
def test_coco_on_real_annotations(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "coco_tiny" / "annotations" / "instances_val2017.json"
    truth = json.loads(source.read_text())
    results = random_results(truth, 1)
    expected = pycocotools_figures(tmp_path, truth, results)
    assert len(results) > 500 and telling(expected)
    for backend in BACKENDS:
        assert average_precision(truth, results, backend=backend) == expected


@pytest.mark.slow
def test_lvis_on_real_annotations(shared: Path, lvis_judge: Any) -> None:
    truth = json.loads((shared / "data" / "lvis_val_100.json").read_text())
    results = random_results(truth, 2, crowded=350)
    expected = lvis_judge(truth, results)
    assert len(results) > 1000 and telling(expected)
    for backend in BACKENDS:
        assert average_precision(truth, results, style="lvis", backend=backend) == expected


def test_equal_scores_rank_in_the_order_of_the_file(tmp_path: Path, lvis_judge: Any) -> None:
    """A detector that gives few scores, whose good and bad boxes tie: who comes first decides, and it is the file."""
    root = write_coco(tmp_path / "coco", drawn_labels(5))
    data, rng = Coco(root), np.random.default_rng(4)
    model, protocol = FilledBox([data.sample(index) for index in range(len(data))]), PROTOCOLS["detector_box_single@1"]
    truth = dict(data.truth())
    truth["images"] = [{**raw, "neg_category_ids": [], "not_exhaustive_category_ids": []} for raw in truth["images"]]
    truth["categories"] = [{**raw, "frequency": "f"} for raw in truth["categories"]]
    entries = [
        {
            **{key: raw[key] for key in ("image_id", "category_id")},
            "bbox": [raw["bbox"][0] + moved, *raw["bbox"][1:]],
            "score": float(rng.choice([0.25, 0.5])),
        }
        for raw in truth["annotations"]
        for moved in (0.0, 3.0, -2.0)
    ]
    figures = []
    for order in (range(len(entries)), rng.permutation(len(entries))):
        content = [entries[place] for place in order]
        (tmp_path / "boxes.json").write_text(json.dumps(content))
        detections = Detections(tmp_path / "boxes.json", data.sizes_hw())
        found = Scorer(model, [protocol], detections).score(data).detected(protocol.name)
        assert len(found) == len(content)
        # What a user would hand to pycocotools: a mask for each entry of the file, in the file's order.
        of_file = [record.result() for record in sorted(found, key=lambda record: record.index)]
        results = [record.result() for record in found]
        figures.append(pycocotools_figures(tmp_path, truth, of_file))
        for backend in BACKENDS:
            assert average_precision(truth, results, backend=backend) == figures[-1]
            of_lvis = average_precision(truth, results, style="lvis", backend=backend)
            assert of_lvis == lvis_judge(truth, of_file)
    assert figures[0]["ap"] != figures[1]["ap"], "the order decides, else nothing is shown here"
