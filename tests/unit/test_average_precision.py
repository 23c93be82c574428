"""Average precision: figures known beforehand, both backends, and the inputs that are refused."""

import builtins
import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from core.errors import InputError
from evaluation.average_precision.figures import BACKENDS, FIGURES, average_precision
from tests.unit.scored_masks import HEIGHT, WIDTH, Truth, encoded, masks_of, random_results, random_truth

needs_lvis = pytest.mark.skipif(find_spec("lvis") is None, reason="the extra official is not installed")
both_backends = pytest.mark.parametrize("backend", ["faster", pytest.param("official", marks=needs_lvis)])
both_styles = pytest.mark.parametrize("style", FIGURES)


def square(side: int, left: int = 10) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[10 : 10 + side, left : left + side] = True
    return encoded(mask)


def two_squares() -> Truth:
    """One image with a medium square of category 1 and, beside it, a large one of category 2."""
    return {
        "images": [
            {"id": 4, "height": HEIGHT, "width": WIDTH, "neg_category_ids": [], "not_exhaustive_category_ids": []}
        ],
        "annotations": [
            {"id": 1, "image_id": 4, "category_id": 1, "segmentation": square(40), "area": 1600.0},
            {"id": 2, "image_id": 4, "category_id": 2, "segmentation": square(100, 60), "area": 10000.0},
        ],
        "categories": [{"id": 1, "frequency": "r"}, {"id": 2, "frequency": "f"}, {"id": 3, "frequency": "c"}],
    }


def found(side: int, left: int = 10, **changes: Any) -> dict[str, Any]:
    return {"image_id": 4, "category_id": 1, "segmentation": square(side, left), "score": 0.5, **changes}


@both_backends
@both_styles
def test_ground_truth_as_results_is_perfect(style: str, backend: str) -> None:
    truth = random_truth(0)
    keys = ("image_id", "category_id", "segmentation")
    counted = [annotation for annotation in truth["annotations"] if style == "lvis" or not annotation["iscrowd"]]
    results = [{"score": 0.9} | {key: annotation[key] for key in keys} for annotation in counted]
    figures = average_precision(truth, results, style=style, backend=backend)
    assert tuple(figures) == FIGURES[style]
    every = ("ap", "ap50", "ap75") + (("ar300",) if style == "lvis" else ("ar100",))
    assert all(figures[name] == pytest.approx(1.0, abs=1e-12) for name in every)


@both_backends
def test_figures_worked_out_by_hand(backend: str) -> None:
    # Category 1 is found with an IoU of 36^2 / 40^2 = 0.81: a hit at 7 of 10 thresholds. Category 2 is missed.
    figures = average_precision(two_squares(), [found(36)], backend=backend)
    expected = dict.fromkeys(FIGURES["coco"], 0.35)
    expected |= {"ap50": 0.5, "ap75": 0.5, "ap_medium": 0.7, "ar_medium": 0.7, "ap_large": 0.0, "ar_large": 0.0}
    assert figures == pytest.approx(expected | {"ap_small": None, "ar_small": None}, abs=1e-12)
    grouped = average_precision(two_squares(), [found(36)], style="lvis", backend=backend)
    shared = {name: value for name, value in expected.items() if name in FIGURES["lvis"]} | {"ar300": 0.35}
    shared |= {"ap_rare": 0.7, "ap_common": None, "ap_frequent": 0.0, "ap_small": None, "ar_small": None}
    assert grouped == pytest.approx(shared, abs=1e-12)


@both_backends
@both_styles
def test_no_results_are_zero_where_there_is_something_to_find(style: str, backend: str) -> None:
    figures = average_precision(two_squares(), [], style=style, backend=backend)
    undefined = {"ap_small", "ar_small"} | ({"ap_common"} if style == "lvis" else set())
    assert figures == {name: None if name in undefined else 0.0 for name in FIGURES[style]}
    nothing = two_squares() | {"annotations": []}
    assert set(average_precision(nothing, [], style=style, backend=backend).values()) == {None}
    assert set(average_precision(nothing, [found(40)], style=style, backend=backend).values()) == {None}
    empty = two_squares() | {"annotations": [], "categories": []}
    assert set(average_precision(empty, [], style=style, backend=backend).values()) == {None}


@both_backends
@both_styles
def test_order_does_not_matter(style: str, backend: str) -> None:
    truth = random_truth(3)
    results = random_results(truth, 3, crowded=120, decimals=12)
    assert len({result["score"] for result in results}) == len(results)
    figures = average_precision(truth, results, style=style, backend=backend)
    turned = {key: entries[::-1] for key, entries in truth.items()}
    assert average_precision(turned, results[::-1], style=style, backend=backend) == figures
    assert 0.05 < figures["ap"] < 0.95


@both_backends
@both_styles
def test_an_id_of_zero_is_a_match_like_any(style: str, backend: str) -> None:
    truth = two_squares()
    truth["annotations"][0]["id"] = 0
    assert average_precision(truth, [found(40)], style=style, backend=backend)["ap"] == pytest.approx(0.5)


@both_backends
@both_styles
def test_the_size_of_a_result_is_its_masks(style: str, backend: str) -> None:
    # A miss better scored than the hit costs precision in its own size class only: small by mask, large by box.
    miss = found(20, 150, score=0.9, bbox=[0.0, 0.0, 140.0, 140.0])
    figures = average_precision(two_squares(), [miss, found(40)], style=style, backend=backend)
    assert figures["ap"] == pytest.approx(0.25) and figures["ap_medium"] == pytest.approx(1.0)
    large = miss | {"category_id": 2}
    figures = average_precision(two_squares(), [large, found(100, 60, category_id=2)], style=style, backend=backend)
    assert figures["ap_large"] == pytest.approx(1.0)


@both_backends
def test_lvis_punishes_only_what_is_known_to_be_wrong(backend: str) -> None:
    def rare(neg: list[int], not_exhaustive: list[int], category_id: int = 1) -> float | None:
        truth = two_squares()
        truth["images"].append(truth["images"][0] | {"id": 9})
        truth["images"][1] |= {"neg_category_ids": neg, "not_exhaustive_category_ids": not_exhaustive}
        results = [found(40, score=0.4), found(40, image_id=9, category_id=category_id, score=0.8)]
        return average_precision(truth, results, style="lvis", backend=backend)["ap_rare"]

    assert rare([], []) == pytest.approx(1.0), "nobody looked for the category on image 9"
    assert rare([1], []) == pytest.approx(0.5), "it is known not to be there"
    assert rare([1], [1]) == pytest.approx(1.0), "not every instance of it is annotated"


@both_backends
@both_styles
def test_areas_and_crowds_may_be_missing(style: str, backend: str) -> None:
    truth = random_truth(5)
    for annotation, mask in zip(truth["annotations"], masks_of(truth), strict=True):
        annotation |= {"iscrowd": 0, "area": float(mask.sum())}
    bare = copy.deepcopy(truth)
    for annotation in bare["annotations"]:
        del annotation["iscrowd"], annotation["area"], annotation["bbox"], annotation["id"]
    results = random_results(truth, 5)
    figures = average_precision(truth, results, style=style, backend=backend)
    assert average_precision(bare, results, style=style, backend=backend) == figures


@both_backends
@both_styles
def test_some_images_only(style: str, backend: str) -> None:
    truth = random_truth(6)
    results = random_results(truth, 6)
    chosen = [image["id"] for image in truth["images"]][::3]
    part = {key: [e for e in truth[key] if e["image_id" if key == "annotations" else "id"] in chosen] for key in truth}
    part["categories"] = truth["categories"]
    expected = average_precision(part, [r for r in results if r["image_id"] in chosen], style=style, backend=backend)
    got = average_precision(truth, results, style=style, backend=backend, image_ids=[*chosen, chosen[0]])
    assert got == expected != average_precision(truth, results, style=style, backend=backend)


@both_backends
@both_styles
def test_annotations_of_unlisted_images_or_categories_are_left_out(style: str, backend: str) -> None:
    truth = two_squares()
    expected = average_precision(truth, [found(36)], style=style, backend=backend)
    truth["annotations"] += [truth["annotations"][0] | change for change in ({"image_id": 5}, {"category_id": 8})]
    assert average_precision(truth, [found(36)], style=style, backend=backend) == expected


@both_backends
@both_styles
@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_nothing_is_printed_or_changed(
    style: str, backend: str, iou_type: str, capfd: pytest.CaptureFixture[str]
) -> None:
    truth = random_truth(7)
    results = [r | {"bbox": [20.0, 20.0, 30.0, 30.0]} for r in random_results(truth, 7, crowded=20)]
    before = json.dumps([truth, results])
    average_precision(truth, results, style=style, backend=backend, iou_type=iou_type)
    assert json.dumps([truth, results]) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@needs_lvis
def test_official_libraries_stay_as_they_are() -> None:
    """In a process of its own, since the first import of lvis sets up logging."""
    program = (
        "import logging\n"
        "from tests.unit.test_average_precision import found, two_squares\n"
        "from evaluation.average_precision.figures import average_precision\n"
        "for style in ('coco', 'lvis'):\n"
        "    average_precision(two_squares(), [found(36)], style=style, backend='official')\n"
        "import lvis.eval, pycocotools.cocoeval, numpy\n"
        "assert lvis.eval.np is numpy and not hasattr(numpy, 'float')\n"
        "assert 'print' not in vars(pycocotools.cocoeval)\n"
        "assert logging.getLogger().handlers == []\n"
    )
    ran = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@both_backends
def test_values_may_be_numpys_and_counts_bytes(backend: str) -> None:
    rle = square(36)
    result = {
        "image_id": np.int64(4),
        "category_id": np.int32(1),
        "segmentation": rle | {"counts": rle["counts"].encode("ascii")},
        "score": np.float32(0.5),
    }
    expected = average_precision(two_squares(), [found(36)], backend=backend)
    assert average_precision(two_squares(), (result,), backend=backend, image_ids=np.array([4])) == expected


def refusal(results: Any = (), truth: Any = None, **arguments: Any) -> str:
    with pytest.raises(InputError) as caught:
        average_precision(two_squares() if truth is None else truth, list(results), **arguments)
    message = str(caught.value)
    assert "\n" not in message and ";" in message
    return message


def test_unknown_choices_are_refused() -> None:
    assert BACKENDS == ("faster", "official")
    assert refusal(style="voc") == "style: there is no 'voc'; use one of coco, lvis"
    assert refusal(backend="fast") == "backend: there is no 'fast'; use one of faster, official"
    assert refusal(iou_type="mask") == "iou_type: there is no 'mask'; use one of segm, bbox"


def test_unlisted_ids_are_refused() -> None:
    assert refusal([found(9), found(9, image_id=77)]).startswith("result 1: the ground truth lists no image 77; give")
    assert refusal([found(9, category_id=8)]).startswith("result 0: the ground truth lists no category 8; give")
    assert refusal(image_ids=[4, 5]).startswith("image_ids: the ground truth lists no image 5; give")
    assert refusal(image_ids=[]).startswith("no image to score; ")
    assert refusal(truth=two_squares() | {"images": [], "annotations": []}).startswith("no image to score; ")


WRONG_RESULTS: dict[str, dict[str, Any]] = {
    "result 0: \"image_id\" is '4.0', not a whole number": {"image_id": 4.0},
    "result 0: \"category_id\" is 'cat', not a whole number": {"category_id": "cat"},
    "result 0: \"score\" is '[None]', not 1 number(s)": {"score": None},
    "result 0: \"score\" holds '[nan]', which is not finite": {"score": float("nan")},
    "result 0: RLE of size [150, 100] on an image of size [150, 200]": {
        "segmentation": {"size": [150, 100], "counts": [15000]}
    },
    "result 0: RLE with a malformed counts string": {"segmentation": {"size": [HEIGHT, WIDTH], "counts": "abc\x7f"}},
    "result 0: segmentation of type NoneType": {"segmentation": None},
}


@pytest.mark.parametrize("problem", WRONG_RESULTS)
def test_wrong_results_are_refused(problem: str) -> None:
    assert problem in refusal([found(9) | WRONG_RESULTS[problem]])


@pytest.mark.parametrize("key", ["image_id", "category_id", "segmentation", "score"])
def test_missing_keys_of_results_are_refused(key: str) -> None:
    result = found(9)
    del result[key]
    assert refusal([result]).startswith(f'result 0: the key "{key}" is missing;')
    assert refusal([found(9)], iou_type="bbox").startswith('result 0: the key "bbox" is missing;')


def without(kind: str, key: str) -> Callable[[Truth], object]:
    return lambda truth: truth[kind][0].pop(key)


WRONG_TRUTHS: dict[str, Callable[[Truth], object]] = {
    'ground truth: the key "images" is missing': lambda truth: truth.pop("images"),
    'ground truth: the key "categories" is missing': lambda truth: truth.pop("categories"),
    "ground truth: annotations: is a dict, not a list": lambda truth: truth.update(annotations={}),
    "ground truth: annotations: number 2 is a int": lambda truth: truth["annotations"].append(3),
    'ground truth: image 4: the key "height" is missing': without("images", "height"),
    'ground truth: annotation 1: the key "segmentation" is missing': without("annotations", "segmentation"),
    "ground truth: annotation 1: \"area\" holds '[inf]'": lambda t: t["annotations"][0].update(area=float("inf")),
    'ground truth: category 1: "frequency" is None, not one of r, c, f; give': without("categories", "frequency"),
    'ground truth: image 4: "neg_category_ids" is None, not a list; give': without("images", "neg_category_ids"),
    'ground truth: image 4: "not_exhaustive_category_ids" is None': without("images", "not_exhaustive_category_ids"),
}


@pytest.mark.parametrize("problem", WRONG_TRUTHS)
def test_wrong_ground_truth_is_refused(problem: str) -> None:
    truth = two_squares()
    WRONG_TRUTHS[problem](truth)
    assert refusal(truth=truth, style="lvis").startswith(problem)


def test_something_else_than_files_content_is_refused() -> None:
    assert refusal(truth="instances_val2017.json").startswith("ground truth: is a str, not an object;")
    with pytest.raises(InputError, match=re.escape("results: is a dict, not a list;")):
        average_precision(two_squares(), two_squares())  # type: ignore[arg-type]


def test_lvis_missing_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluation.average_precision import official

    official._classes.cache_clear()
    real = builtins.__import__

    def without_lvis(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "lvis":
            raise ModuleNotFoundError("No module named 'lvis'", name="lvis")
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without_lvis)
    message = refusal(style="lvis", backend="official")
    assert "No module named 'lvis'" in message and 'pip install "sampress[official]"' in message
