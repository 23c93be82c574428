"""Average precision of masks for a detector's boxes: this evaluator against the published way.

``python -m benchmarks.evaluation --coco ROOT``; needs the extra ``test``. The published way (as TinySAM's and other
scripts): ``predictor.set_image``, then ``predictor.predict`` one box at a time, each full-resolution mask brought to
the host and encoded, then pycocotools. The same model, images, boxes and choice of masks; both end to end, images
read from disk. Without ``--coco`` images of shapes are written to a temporary folder in COCO's layout. Boxes are
annotated ones, moved by noise, ``--boxes`` an image. The time outside the model is what a pass takes beyond its calls
of ``encode`` and ``decode``.
"""

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from benchmarks._models import random_sam
from benchmarks._timing import busy, default_device, machine, seconds_in_turns
from core.protocols import Masks, Prompt, Segmenter, device_of
from data.coco import Coco
from data.detections import Detections
from data.images import read_image
from data.shapes import Shapes
from data.shapes_export import write_data_set
from evaluation.average_precision.figures import average_precision
from evaluation.predictor import SamPredictor
from evaluation.protocols import PROTOCOLS
from evaluation.scorer import Scorer
from teachers.sam import Sam
from teachers.weights import load_sam

PROTOCOL = PROTOCOLS["detector_box_best_of_3@1"]


class Clocked:
    """A model whose time is taken."""

    def __init__(self, model: Segmenter) -> None:
        self.model, self.name, self.input_size = model, model.name, model.input_size
        self.seconds = 0.0

    def parameters(self) -> Any:
        """The model's: they say on which device it is."""
        return self.model.parameters()  # type: ignore[attr-defined]

    def encode(self, images: Tensor) -> Tensor:
        """As the model."""
        return self._timed(lambda: self.model.encode(images))

    def decode(self, embedding: Tensor, prompt: Prompt, size_hw: tuple[int, int], multimask: bool = False) -> Masks:
        """As the model."""
        return self._timed(lambda: self.model.decode(embedding, prompt, size_hw, multimask))

    def _timed(self, call: Callable[[], Any]) -> Any:
        device = device_of(self.model)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        found = call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.seconds += time.perf_counter() - began
        return found


def published_way(model: Segmenter, data: Coco, folder: Path, boxes: Detections) -> list[float]:
    """One box at a time; COCO's twelve figures."""
    predictor, results = SamPredictor(model), []
    for index in range(len(data)):
        image_id, found = data.image_id(index), boxes.of(data.image_id(index))
        if len(found.scores):
            predictor.set_image(read_image(folder / data.image_name(index)))
        for box, score, category in zip(found.boxes_xyxy, found.scores, found.category_ids, strict=True):
            masks, iou_pred, _ = predictor.predict(box=box, multimask_output=True)
            rle: Any = mask_api.encode(np.asfortranarray(masks[iou_pred.argmax()], dtype=np.uint8))
            entry = {"image_id": image_id, "category_id": int(category), "score": float(score)}
            results.append({**entry, "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()}})
    with redirect_stdout(io.StringIO()):
        truth = COCO(str(data.truth_path))
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def this_way(model: Segmenter, data: Coco, boxes: Detections, workers: int, encoded: int) -> list[float]:
    """This project's scorer; COCO's twelve figures."""
    scorer = Scorer(model, [PROTOCOL], boxes, workers=workers, image_batch_size=encoded)
    results = [record.result() for record in scorer.score(data).detected(PROTOCOL.name)]
    figures = average_precision(data.truth(), results)
    return [-1.0 if value is None else value for value in figures.values()]


def write_boxes(path: Path, data: Coco, count: int) -> Path:
    """So many boxes an image: annotated ones, moved by noise, with scores of their own."""
    rng, entries = np.random.default_rng(0), []
    by_image: dict[int, list[Any]] = {}
    for annotation in data.truth()["annotations"]:
        if not annotation.get("iscrowd"):
            by_image.setdefault(annotation["image_id"], []).append(annotation)
    for image_id, annotations in sorted(by_image.items()):
        for number in range(count):
            annotation = annotations[number % len(annotations)]
            x, y, width, height = annotation["bbox"]
            moved = np.array([x, y, width, height]) + rng.normal(0, 0.05, 4) * [width, height, width, height]
            box = [float(value) for value in (*moved[:2], *np.maximum(moved[2:], 1))]
            entry = {"image_id": image_id, "category_id": annotation["category_id"], "bbox": box}
            entries.append({**entry, "score": float(rng.random())})
    path.write_text(json.dumps(entries))
    return path


def model_of(name: str) -> Sam:
    """The packaged teacher, or a shape of SAM with random weights."""
    if name == "sam_pocket":
        return load_sam(name)
    return random_sam(name)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("--model", default="sam_pocket", help="sam_pocket, or sam_vit_b with random weights")
    parser.add_argument("--coco", type=Path, help="a folder of COCO's layout; its validation split is used")
    parser.add_argument("--boxes", type=int, default=10, help="an image")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="processes that read images ahead")
    parser.add_argument("--encoded", type=int, default=1, help="images encoded together")
    parser.add_argument("--device", default=default_device())
    parser.add_argument("--write", type=Path, help="write the boxes to this file and stop")
    options = parser.parse_args()
    if options.write is not None:
        if options.coco is None:
            parser.error("--write needs --coco ROOT")
        write_boxes(options.write, Coco(options.coco), options.boxes)
        return
    device = torch.device(options.device)
    model = Clocked(model_of(options.model).to(device))
    with tempfile.TemporaryDirectory() as temporary:
        root = options.coco
        if root is None:
            root = write_data_set(Shapes("validation", 60, size=640), Path(temporary))[1]
        data = Coco(root)
        boxes = Detections(write_boxes(Path(temporary) / "boxes.json", data, options.boxes), data.sizes_hw())
        figures: dict[str, list[float]] = {}
        inside: dict[str, list[float]] = {}

        def timed(name: str, way: Callable[[], list[float]]) -> Callable[[], None]:
            def work() -> None:
                model.seconds = 0.0
                figures[name] = way()
                inside.setdefault(name, []).append(model.seconds)

            return work

        works = {
            "published": timed("published", lambda: published_way(model, data, Path(root) / "val2017", boxes)),
            "sampress": timed("sampress", lambda: this_way(model, data, boxes, options.workers, options.encoded)),
        }
        seconds = seconds_in_turns(works, device, options.rounds)
        print(f"{options.model}, {len(data)} images, {len(boxes)} boxes, {options.rounds} rounds; {machine(device)}")
        print(f"{'way':12} {'seconds':>8} {'ratio':>6} {'images/s':>9} {'boxes/s':>8} {'outside the model':>18}  AP")
        for name in works:
            outside = 1 - sorted(inside[name])[len(inside[name]) // 2] / seconds[name]
            print(
                f"{name:12} {seconds[name]:8.2f} {seconds['published'] / seconds[name]:5.2f}x "
                f"{len(data) / seconds[name]:9.1f} {len(boxes) / seconds[name]:8.1f} {outside:17.1%}  "
                f"{figures[name][0]:.6f}"
            )
        same = figures["published"] == figures["sampress"]
        print(f"the twelve figures of COCO are {'equal to the last digit' if same else 'NOT equal'}")


if __name__ == "__main__":
    main()
    print(busy())
