"""Settings that change nothing beside the others are said, so that a sweep over them is no surprise."""

from collections.abc import Callable
from pathlib import Path

import pytest

from compressors.method import Compressor
from compressors.mobilesam import MobileSam
from compressors.ptq import Ptq
from compressors.scratch import Scratch
from compressors.setting_checks import settings_without_effect
from compressors.settings import OptimizerConfig
from compressors.slimsam import SlimSam
from compressors.tinysam import TinySam
from experiments.cli.command_line import main

OF_OTHERS: list[Callable[[OptimizerConfig], Compressor]] = [
    lambda o: Scratch(0.5, optimisation=o),
    lambda o: MobileSam(optimisation=o),
    lambda o: TinySam(optimisation=o),
]


@pytest.mark.parametrize(
    "method, line",
    [
        (SlimSam(0.5, normalisation="max"), "method.normalisation=max: for method.scope=global alone"),
        (SlimSam(0.5, importance="taylor", noise=0.1), "method.noise=0.1: for method.importance=disturbed_taylor"),
        (SlimSam(0.5, importance="magnitude", importance_images=8), "method.importance_images=8: for importances that"),
        (
            SlimSam(0.5, alternate=False, bottleneck_weights="none", aligned_epochs=3),
            "method.bottleneck_weights=none, method.aligned_epochs=3: for method.alternate=true",
        ),
        (SlimSam(0.5, until="step_1", embedding_weights="none"), "method.embedding_weights=none: for method.until="),
        (
            SlimSam(0.5, until="step_1", scope="global", normalisation="max", softmax="rescale"),
            "method.scope=global, method.normalisation=max, method.softmax=rescale: for method.until=step_2",
        ),
        (SlimSam(0.5, until="step_1", normalisation="max"), "method.normalisation=max: for method.until=step_2"),
        (
            SlimSam(0.5, bottleneck_weights="none", align_global_qkv=False),
            "method.align_global_qkv=False: for features",
        ),
        (
            SlimSam(0.5, bottleneck_weights="none", embedding_weights="none", aligned_epochs=3),
            "method.aligned_epochs=3: for features that are aligned",
        ),
        (SlimSam(0.5, keep_best=False), "method.keep_best=False: for method.validations above 0"),
        (SlimSam(0.5, patience_step_1=3), "method.patience_step_1=3: for two steps by method.optimisation.schedule="),
        (MobileSam(prompts=9), "method.prompts=9: for masks as the target"),
        (MobileSam(decoder_lr=1e-3), "method.decoder_lr=0.001: for method.decoder_steps above 0"),
        (TinySam(hard_masks=False, epsilon=0.1), "method.epsilon=0.1: for method.hard_masks=true"),
        (TinySam(output=0, epsilon=1e-3), "method.epsilon=0.001: for method.output above 0"),
        (TinySam(output=0, annotations=0, tiny_masks="none"), "method.tiny_masks=none: for IoUs, of method.hard_masks"),
        (
            TinySam(token=0, output=0, annotations=0, boxes="alone"),
            "method.boxes=alone: for method.token, output or annotations above 0",
        ),
        (TinySam(boxes="alone", hard_prompts=False), "method.hard_prompts=False: for points"),
        (Ptq(metric="minmax", rounds=1), "method.rounds=1: for a search, which method.metric=minmax does not make,"),
        (Ptq(metric="minmax", lowest=0.5, highest=1.5), "method.lowest=0.5, method.highest=1.5: for a search, which"),
        (
            Ptq(activation_bits=32, activations="symmetric", linear_activations="symmetric"),
            "method.activations=symmetric, method.linear_activations=symmetric: for method.activation_bits of 2 to 8",
        ),
        (
            Ptq(activation_bits=32, product_activations="symmetric", products="float"),
            "method.product_activations=symmetric, method.products=float: for method.activation_bits of 2 to 8",
        ),
        (Ptq(activation_bits=32, convolution_outputs="float"), "method.convolution_outputs=float: for activations of"),
        (Ptq(activation_bits=6, convolution_outputs="float"), "method.convolution_outputs=float: for activations of"),
        (Ptq(metric="mse", gradient="perturbed"), "method.gradient=perturbed: for method.metric=hessian"),
        (Ptq(drop=0.1, lr=0.1), "method.lr=0.1, method.drop=0.1: for method.reconstruct=blocks or layers"),
        (Ptq(levels=(6, 8)), "method.levels=[6,8]: for method.budget"),
        (Ptq(budget_of="bytes"), "method.budget_of=bytes: for method.budget"),
    ],
)
def test_what_changes_nothing_is_said(method: Compressor, line: str) -> None:
    (said,) = settings_without_effect(method)
    assert said.startswith(line) and said.endswith(" alone, without effect here")


@pytest.mark.parametrize("make", [lambda o: SlimSam(0.5, validations=2, optimisation=o), *OF_OTHERS])
@pytest.mark.parametrize(
    "optimisation, lines",
    [
        (
            OptimizerConfig(schedule="cosine", patience=9, factor=0.1, milestones=(0.1, 0.2)),
            [
                "method.optimisation.patience=9: for method.optimisation.schedule=plateau",
                "method.optimisation.factor=0.1: for method.optimisation.schedule=step or plateau",
                "method.optimisation.milestones=[0.1,0.2]: for method.optimisation.schedule=step",
            ],
        ),
        (OptimizerConfig(schedule="step", factor=0.1, milestones=(0.1,), warmup=5, betas=(0.8, 0.9)), []),
    ],
)
def test_what_a_schedule_has_no_use_for_is_said_of_every_method(
    make: Callable[[OptimizerConfig], Compressor], optimisation: OptimizerConfig, lines: list[str]
) -> None:
    assert settings_without_effect(make(optimisation)) == [f"{line} alone, without effect here" for line in lines]


def test_a_plateau_has_its_patience_and_factor() -> None:
    optimisation = OptimizerConfig(schedule="plateau", patience=9, factor=0.1)
    assert settings_without_effect(SlimSam(0.5, validations=2, optimisation=optimisation)) == []


@pytest.mark.parametrize(
    "method",
    [
        SlimSam(0.5),
        SlimSam(0.5, scope="global", normalisation="max", softmax="rescale"),
        SlimSam(0.5, until="step_1", embedding="tied", rel_pos="reset", align_global_qkv=False, aligned_epochs=3),
        SlimSam(0.5, noise=0.1, importance_images=8, aligned_epochs=3, embedding_weights="none"),
        SlimSam(
            0.5, validations=2, keep_best=False, patience_step_1=3, optimisation=OptimizerConfig(schedule="plateau")
        ),
        MobileSam(),
        MobileSam(prompts=9, distillation="coupled"),
        MobileSam(prompts=9, decoder_steps=5, decoder_lr=1e-3),
        TinySam(epsilon=0.1, hard_prompts=False),
        TinySam(output=0, tiny_masks="none", token=0, prompts=8),
        Ptq(rounds=1, gradient="perturbed"),
        Ptq(lowest=0.5, highest=1.5, convolution_outputs="float", activations="symmetric", products="float"),
        Ptq(activation_bits=4, convolution_outputs="float", eight_bit_layers=("*.mixing",)),
        Ptq(weight_bits=4, activation_bits=4, convolution_outputs="float", budget=0.5),
        Ptq(metric="mse", reconstruct="blocks", drop=0.1, lr=0.1),
        Ptq(metric="mse", weight_bits=4, budget=0.5, budget_of="bytes"),
    ],
)
def test_what_counts_is_not(method: Compressor) -> None:
    assert settings_without_effect(method) == []


def test_a_run_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [f"runs={tmp_path}", "method=slimsam", "ratio=0.5", "method.normalisation=max", "method.steps=1"]
    command += ["method.importance_images=1", "data.count=2", "evaluation.images=2", "evaluation.latency_runs=1"]
    assert main(command) == 0
    lines = capsys.readouterr().err.splitlines()
    assert "method.normalisation=max: for method.scope=global alone, without effect here" in lines
