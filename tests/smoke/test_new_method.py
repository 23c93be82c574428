"""A method is one file and one YAML: help, runs, chains, tables, the leaderboard and reports find it by themselves."""

import csv
import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from experiments.cli.command_line import main
from experiments.readme import quality_table
from experiments.reporting.results import read_records
from experiments.result_file import read_rows
from experiments.tracking.wandb_report import main as wandb_report
from students.files import load_model

METHOD = '''
"""Prune the MLPs alone, by the magnitude of their weights, and align the image embedding."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

from compressors.distill.engine import Stage
from compressors.distill.losses import embedding_mse
from compressors.distill.optimizer import OptimizerConfig
from compressors.method import Compressed, Compressor, RunContext, check_ratio
from compressors.prune.groups import find_groups
from compressors.prune.importance import score
from compressors.prune.selection import keep_locally
from compressors.prune.surgery import prune
from data.batches import ImageBatches
from students.pruned_vit import kept_width


@dataclass(frozen=True)
class MlpMagnitude(Compressor):
    """Of every MLP the channels of the smallest weights go.

    Attributes:
        ratio: share of the hidden channels removed.
        init: a model to begin with; None: the teacher.
        norm: of the weights.
        steps: optimizer steps.
    """

    ratio: float
    init: str | None = None
    norm: str = "squared"
    steps: int = 10
    batch: int = 2
    optimisation: OptimizerConfig = field(default_factory=OptimizerConfig)

    paper: ClassVar[str] = "none: a test"
    shrinks: ClassVar[bool] = True
    stages: ClassVar[tuple[str, ...]] = ("mlp_alignment",)
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"norm": ("squared",)}

    def __post_init__(self):
        super().__post_init__()
        check_ratio(self.ratio)

    def shape(self, teacher):
        if self.init is not None:
            raise NotImplementedError("the shape is that of method.init")
        widths = tuple(kept_width(width, self.ratio, teacher.vit.num_heads) for width in teacher.vit.mlp_widths)
        return replace(teacher, encoder=replace(teacher.vit, mlp_widths=widths))

    def compress(self, teacher, data, context: RunContext) -> Compressed:
        model = teacher if self.init is None else context.initial(self.init, teacher).to(context.engine.device)
        whole = model.image_encoder
        groups = {name: group for name, group in find_groups(whole.config).items() if name.startswith("mlp.")}
        scores = {name: score("magnitude", group, whole, None, context.seed) for name, group in groups.items()}
        encoder = prune(whole, keep_locally(scores, groups, self.ratio, whole.config.num_heads))
        encoder.requires_grad_(True)
        embeddings = context.teacher_embeddings(teacher)
        student = model.with_encoder(encoder, f"{model.name}-mlp-{self.ratio}")
        stage = Stage(
            name="mlp_alignment",
            key=context.key(self),
            model=encoder,
            batch=ImageBatches(data, teacher.input_size, encoder.config.grid, context.seed),
            batch_size=self.batch,
            loss=lambda batch, step: {
                "embedding": embedding_mse(encoder(batch.images), embeddings(batch), batch.valid)
            },
            steps=self.steps,
            optimisation=self.optimisation,
        )
        progress = context.engine.fit(stage)
        return Compressed(student.eval().requires_grad_(False), (progress,))
'''
YAML = """# Prune the MLPs alone, by the magnitude of their weights
defaults:
  - /schema/method/mlp_magnitude@_here_
  - _self_
_target_: thinning.mlp_magnitude.MlpMagnitude
ratio: ${ratio}
init: null # a model to begin with
norm: squared # of the weights
steps: 2
batch: 2
"""
QUICK_PTQ = ("then.images=1", "then.candidates=1", "then.rounds=1", "then.prompts=1")
OWN = ("--config-dir", "conf", "packages=[thinning]")
SMALL = (
    *("ratio=0.5", "data.count=8", "evaluation.images=2", "evaluation.latency_runs=1", "engine.precision=float32"),
    *("method.steps=2", "method.batch=2"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "thinning").mkdir()
    (folder / "thinning" / "__init__.py").touch()
    (folder / "thinning" / "mlp_magnitude.py").write_text(METHOD)
    (folder / "conf" / "method").mkdir(parents=True)
    (folder / "conf" / "method" / "mlp_magnitude.yaml").write_text(YAML)
    return folder


@pytest.fixture
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    for name in [name for name in sys.modules if name.partition(".")[0] == "thinning"]:
        monkeypatch.delitem(sys.modules, name)


def test_help_shows_it(inside: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*OWN, "method=mlp_magnitude", "--help"]) == 0
    text = capsys.readouterr().out
    assert "method.norm" in text and "of the weights" in text


def test_words_are_checked(inside: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*OWN, "method=mlp_magnitude", "ratio=0.5", "method.norm=cubed"]) == 2
    assert capsys.readouterr().err == "error: method.norm=cubed is not one of squared\n"


def test_a_class_of_another_kind_is_refused_in_one_line(
    place: Path, inside: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "thinning" / "other.py").write_text(
        "from dataclasses import dataclass\n\n\n@dataclass\nclass MlpMagnitude:\n    ratio: float\n"
    )
    (place / "conf" / "method" / "other.yaml").write_text(
        "defaults: [/schema/method/other@_here_, _self_]\n_target_: thinning.other.MlpMagnitude\nratio: ${ratio}\n"
    )
    assert main([*OWN, "method=other", "ratio=0.5"]) == 2
    assert "MlpMagnitude is no compressors.method.Compressor; let the class inherit it" in capsys.readouterr().err
    (place / "conf" / "method" / "other.yaml").unlink()


@pytest.mark.slow
def test_it_runs_follows_and_is_found_everywhere(place: Path, inside: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main([*OWN, "method=slimsam", "then=mlp_magnitude", "method.importance_images=1", *SMALL, "then.steps=2"]) == 0
    )
    assert main([*OWN, "method=mlp_magnitude", *SMALL, "then=ptq", *QUICK_PTQ]) == 0
    capsys.readouterr()
    rows = {path.parent.name.rpartition("-s0-")[0]: read_rows(path)[-1] for path in place.glob("runs/*/result.json")}
    assert set(rows) == {
        *("slimsam-r0.5", "slimsam+mlp_magnitude-r0.5", "mlp_magnitude-r0.5", "mlp_magnitude+ptq-r0.5")
    }
    alone, chained = rows["mlp_magnitude-r0.5"], rows["slimsam+mlp_magnitude-r0.5"]
    assert (alone.method, chained.method) == ("mlp_magnitude", "slimsam+mlp_magnitude")
    assert chained.parameters < rows["slimsam-r0.5"].parameters  # type: ignore[operator]
    (file,) = place.glob("runs/mlp_magnitude-r0.5-s0-*/student.safetensors")
    (other,) = place.glob("runs/slimsam-r0.5-s0-*/student.safetensors")
    vit, narrower = load_model(file).config.vit, load_model(other).config.vit
    assert vit.embed_dim > narrower.embed_dim and vit.mlp_widths == narrower.mlp_widths
    # The curves of its stage, on disk and in a report of Weights & Biases.
    metrics = file.with_name("metrics.csv").read_text()
    assert "mlp_alignment" in metrics and "embedding" in metrics
    assert wandb_report(["--dry-run", *OWN[:2], "--packages", "thinning"]) == 0
    sections = json.loads(capsys.readouterr().out)["sections"]
    assert "mlp_alignment" in {panel["title"] for section in sections for panel in section["panels"]}
    # The leaderboard and the README's table.
    with open(place / "runs" / "leaderboard.csv", newline="") as stream:
        methods = {line["method"] for line in csv.DictReader(stream)}
    assert {"mlp_magnitude", "slimsam+mlp_magnitude", "mlp_magnitude+ptq"} <= methods
    records = [
        row for row in read_records(place / "runs", False) if str(row["run_id"]).startswith("mlp_magnitude-r0.5")
    ]
    lines = quality_table(pd.DataFrame(records, dtype=object)).splitlines()
    assert lines[-1].startswith("| mlp magnitude 0.5, mlp-0.5 | 1 | 4 | ")
