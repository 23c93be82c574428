"""A typed prompt: what it becomes, and every way in which it can be wrong."""

from typing import Any

import numpy as np
import pytest

from core.errors import InputError
from experiments.commands.typed_prompt import typed_prompt
from experiments.config.schema import PredictConfig

SIZE = (96, 128)


def test_a_prompt_of_all_parts() -> None:
    settings = PredictConfig(box=[0, 0, 128, 96], points=[[0, 95.5], [127, 3]], labels=[0, 1])
    prompt = typed_prompt(settings, SIZE)
    assert prompt.box_xyxy is not None and prompt.points_xy is not None and prompt.labels is not None
    assert prompt.box_xyxy.tolist() == [0, 0, 128, 96] and prompt.points_xy.tolist() == [[0, 95.5], [127, 3]]
    assert prompt.labels.tolist() == [0, 1] and prompt.labels.dtype == np.int64


def test_parts_may_be_absent() -> None:
    alone = typed_prompt(PredictConfig(points=[[5, 6], [7, 8]]), SIZE)
    assert alone.box_xyxy is None and alone.labels is not None and alone.labels.tolist() == [1, 1]
    boxed = typed_prompt(PredictConfig(box=[1, 2, 3, 4], points=[], labels=[]), SIZE)
    assert boxed.points_xy is None and boxed.labels is None


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, r"no prompt: give box=\[x0,y0,x1,y1\], points=\[\[x,y\],\.\.\.\], or both"),
    ({"points": []}, "no prompt"),
    ({"box": []}, r"box=\[\] must be four numbers"),
    ({"labels": [1]}, r"labels=\[1\] belong to points"),
    ({"box": [1, 2, 30, 40], "labels": [1]}, r"labels=\[1\] belong to points"),
    ({"box": [1, 2, 30]}, r"box=\[1,2,30\] must be four numbers"),
    ({"box": [1, 2, 30, float("nan")]}, r"box=\[1,2,30,nan\] must be four numbers"),
    ({"box": [[1, 2, 30, 40]]}, r"box=\[\[1,2,30,40\]\] must be four numbers"),
    ({"box": [30.0, 40.0, 10.5, 20.0]}, r"box=\[30,40,10\.5,20\] has no area; .* x0 < x1 and y0 < y1"),
    ({"box": [1, 2, 1, 40]}, "has no area"),
    ({"box": [-1, 2, 30, 40]}, r"box=\[-1,2,30,40\] reaches outside the image, which is 128x96 \(width x height\)"),
    ({"box": [1, 2, 128.5, 40]}, "reaches outside"),
    ({"box": [1, 2, 30, 97]}, "reaches outside"),
    ({"box": [500, 500, 600, 600]}, "reaches outside"),
    ({"points": [5, 6]}, r"points=\[5,6\] must be pairs of numbers"),
    ({"points": [[5, 6, 7]]}, "must be pairs"),
    ({"points": [[5, "a"]]}, "must be pairs"),
    ({"points": [[5, True]]}, "must be pairs"),
    ({"points": [[5, 6], [128, 6]]}, r"points=\[\[5,6\],\[128,6\]\]: \[128,6\] lies outside the image"),
    ({"points": [[5, 6]], "labels": [1, 0]}, r"labels=\[1,0\] for 1 points"),
    ({"points": [[5, 6]], "labels": [-1]}, r"labels=\[-1\] must be 1 \(inside the object\) or 0"),
]


@pytest.mark.parametrize(("given", "said"), WRONG, ids=[str(given) for given, _ in WRONG])
def test_what_is_wrong_is_said(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        typed_prompt(PredictConfig(**given), SIZE)
    assert "\n" not in str(caught.value)
