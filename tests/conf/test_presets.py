"""Sweeps that presets name, as far as a rule of all presets does not say it."""

from typing import Any

import pytest
import yaml

from experiments.config.compose import compose, composing, settings_of, without_hydra
from experiments.config.files import CONF
from experiments.config.targets import register
from experiments.runs.sweep import sweep_jobs


def settings(*words: str) -> Any:
    register()
    with composing():
        return settings_of(without_hydra(compose("run", words)))


@pytest.mark.parametrize(
    ("preset", "cells", "bits"),
    [("ptq_state_of_the_art", 36, 4), ("ptq_state_of_the_art_w4", 12, 8), ("ptq_state_of_the_art_w4a16", 6, 32)],
)
def test_the_presets_of_quantisation_name_each_cell(preset: str, cells: int, bits: int) -> None:
    params = yaml.safe_load((CONF / "experiment" / f"{preset}.yaml").read_text())["hydra"]["sweeper"]["params"]
    jobs = sweep_jobs([f"{key}={value}" for key, value in params.items()], say=False)
    assert len(jobs) == 3 * cells
    variant = params["variant"].split(",")[1 if bits == 32 else 2]
    given = [f"experiment={preset}", "ratio=null", "method.metric=mse", f"variant={variant}"]
    given += ["method.weight_bits=4"] if bits == 4 else []
    found = settings(*given)
    assert found.name == f"ptq_blocks_mse_fisher_a{bits}"
    method = found.method
    assert (method.weight_bits, method.activation_bits, method.images) == (4, bits, 32)
    assert (method.big and method.pcc) == (bits != 32) and method.reconstruct == "blocks"


def test_sam_2s_preset_has_equal_images_and_quantises_each() -> None:
    params = yaml.safe_load((CONF / "experiment" / "sam2_pocket.yaml").read_text())["hydra"]["sweeper"]["params"]
    jobs = sweep_jobs([f"{key}={value}" for key, value in params.items()], say=False)
    assert sorted(word for job in jobs for word in job if not word.startswith("seed")) == sorted(
        3 * ["method=slimsam", "ratio=0.5", "method=slimsam", "ratio=0.77", "method=mobilesam", "method=tinysam"]
    )
    seen = set()
    for job in (jobs[0], jobs[-1]):
        given = [*job, *([] if "slimsam" in job[0] else ["ratio=null"]), "teacher.recipe.steps=50"]
        found = settings("experiment=sam2_pocket", *given)
        assert found.teacher.name == "sam2_pocket" and found.then._target_.endswith("Ptq")
        seen.add((found.method.steps, found.method.batch))
    assert seen == {(50, 4)}
