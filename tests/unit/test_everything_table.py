"""Strategies side by side, the published ones beside them."""

import dataclasses
import os
from pathlib import Path

import pytest
import yaml

from core.errors import InputError
from evaluation.everything import EverythingSettings
from experiments.config.files import CONF, choices
from experiments.everything.files import json_safe
from experiments.everything.strategies import (
    StrategyRow,
    published,
    read_row,
    strategies_table,
    strategy_name,
    write_row,
)


def row(seconds: float, processor: float | None = None, **settings: object) -> StrategyRow:
    chosen = dataclasses.asdict(EverythingSettings(**settings))  # type: ignore[arg-type]
    return StrategyRow(
        run_id="a", checkpoint="tiny", model="tiny", method="teacher", ratio=None, data="shapes", split="validation",
        protocol="everything@1", images=5, instances=22, mean_best_iou=0.75, mean_best_iou_low=0.7,
        mean_best_iou_high=0.8, average_recall_100=0.5, average_recall_1000=0.625, proposals=9.5, prompts=1024.0,
        encodings=1.0, seconds=seconds, processor_seconds=processor, peak_memory_bytes=58_000_000, device="a machine",
        threads=1, precision="float32", settings=json_safe(chosen), git_sha=None,
    )  # fmt: skip


def test_published_figures_stand_beside_the_measured() -> None:
    coarse = row(1.0, strategy="hierarchical", points_per_side=16)
    other = row(3.0, strategy="hierarchical", coarse_points_per_side=9)
    lines = strategies_table([coarse, row(4.0), other]).split("\n")
    start = "| 0.7500 | 0.5000 | 0.6250 | 9.5 | 1,024 |"
    assert lines[4] == f"| dense 32 {start} 4 | 1.00 | 58.00 MB | *0.6137* | *1.7790* | *1.00* |"
    assert lines[5] == f"| hierarchical 4/16 8.5 {start} 1 | 0.25 | 58.00 MB | *0.5521* | *0.3571* | *0.20* |"
    assert lines[6] == f"| hierarchical 9/32 8.5 {start} 3 | 0.75 | 58.00 MB |  |  |  |"
    assert "22 instances in 5 images" in lines[0] and "arXiv 2312.13789, TinySAM on V100; its level" in lines[0]
    assert "of the processor's time" not in lines[0]


def test_settings_that_differ_are_columns_and_time_is_the_processors() -> None:
    text = strategies_table([row(9.0, 2.0, points_per_side=8), row(9.0, 1.0, points_per_side=8, pred_iou_thresh=0.5)])
    assert "| strategy | `pred_iou_thresh` | mean best IoU |" in text and "published" not in text
    assert "| dense 8 | 0.5 |" in text and "| 2 |" in text and "of the processor's time" in text
    assert "`pred_iou_thresh` 0.5;" not in text and "`stability_score_thresh` 0.95;" in text


def test_a_row_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = row(1.0, strategy="hierarchical", high_score_thresh=float("inf"))
    write_row(tmp_path / "a.json", written, {"provenance": {}})
    assert read_row(tmp_path / "a.json") == written and written.key[2] == float("inf")
    assert "hierarchical 8/32 inf" in strategies_table([written])
    (tmp_path / "b.json").write_text("{}")
    write_row(tmp_path / "c.json", dataclasses.replace(written, schema_version=9), {})
    (tmp_path / "d.json").write_text('{"rows": [], "rows": []}')
    (tmp_path / "e.json").write_text('{"rows": ' + "[" * 99_999)
    os.mkfifo(tmp_path / "f.json")
    again = "do it again with force=true"
    for name, said in (
        ("b", f"no row .*; {again}"),
        ("c", f"version 9.*; {again}"),
        ("d", f"has the key 'rows' twice.*; {again}"),
        ("e", f"nested too deep.*; {again}"),
        ("f", f"no such file; {again}"),
    ):
        with pytest.raises(InputError, match=said):
            read_row(tmp_path / f"{name}.json")


def test_the_preset_sweeps_over_the_published_strategies() -> None:
    raw = yaml.safe_load((CONF / "experiment" / "everything_strategies.yaml").read_text())
    swept = raw["hydra"]["sweeper"]["params"]["generator"].split(",")
    assert set(swept) == set(choices("generator")) and len(swept) == len(published()) == 6


def test_strategies_have_names() -> None:
    assert strategy_name(EverythingSettings()) == "dense 32"
    assert strategy_name(EverythingSettings("hierarchical", 16)) == "hierarchical 4/16 8.5"
