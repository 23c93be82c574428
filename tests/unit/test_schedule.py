"""Optimizers for models with and without linear layers."""

import pytest
import torch
from torch import nn

from compressors.distill.optimizer import OptimizerConfig, Paired, RoundingMuon, build_optimizer, orthogonalised
from experiments.runs.build import check_precision

MODELS = {
    "a plain CNN": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
    "linear layers without biases": nn.Sequential(nn.Linear(4, 4, bias=False)),
    "both": nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 2)),
}
KINDS = {"a plain CNN": torch.optim.AdamW, "linear layers without biases": torch.optim.Muon, "both": Paired}


@pytest.mark.parametrize("name", MODELS)
def test_muon_takes_what_there_is(name: str) -> None:
    model = MODELS[name]
    optimizer = build_optimizer(OptimizerConfig(0.1, "muon"), model)
    assert isinstance(optimizer, KINDS[name])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    before = [p.detach().clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) + torch.rand_like(parameter)
    optimizer.step()
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    optimizer.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (8, 8)])
def test_rounding_muon_takes_the_steps_of_pytorchs_own(shape: tuple[int, int]) -> None:
    """Equal up to the order in which products are summed up, which may move the last bit of a bfloat16."""
    begin = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weights = []
    for kind in (RoundingMuon, torch.optim.Muon):
        weight = nn.Parameter(begin.clone())
        optimizer = kind([weight], lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        gradients = torch.Generator().manual_seed(1)
        for _ in range(3):
            weight.grad = torch.randn(shape, generator=gradients)
            optimizer.step()
        weights.append(weight.detach())
    moved = (weights[1] - begin).norm()
    assert (weights[0] - weights[1]).norm() < 0.01 * moved
    update = orthogonalised(torch.randn(shape, generator=gradients), (3.4445, -4.775, 2.0315), 5, 1e-7)
    singular = torch.linalg.svdvals(update)
    assert singular.min() > 0.5 and singular.max() < 1.5


@pytest.mark.parametrize(
    ("amx", "precision", "kind"), [(True, "bfloat16", torch.optim.Muon), (False, "float32", RoundingMuon)]
)
def test_bfloat16_is_chosen_on_a_cpu_with_matrix_extensions_alone(
    amx: bool, precision: str, kind: type[torch.optim.Optimizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert check_precision("engine.precision", "auto", torch.device("cpu")) == precision
    model = nn.Linear(3, 2)
    optimizer = build_optimizer(OptimizerConfig(optimizer="muon"), model)
    assert isinstance(optimizer, Paired) and type(optimizer.pair[0]) is kind
