"""Optimizers for models with and without linear layers."""

import pytest
import torch
from torch import nn

from compressors.distill.schedule import Optimisation, Paired

MODELS = {
    "a plain CNN": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
    "linear layers without biases": nn.Sequential(nn.Linear(4, 4, bias=False)),
    "both": nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 2)),
}
KINDS = {"a plain CNN": torch.optim.AdamW, "linear layers without biases": torch.optim.Muon, "both": Paired}


@pytest.mark.parametrize("name", MODELS)
def test_muon_takes_what_there_is(name: str) -> None:
    model = MODELS[name]
    optimizer = Optimisation(0.1, "muon").build(model)
    assert type(optimizer) is KINDS[name]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    before = [p.detach().clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) + torch.rand_like(parameter)
    optimizer.step()
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    optimizer.load_state_dict(optimizer.state_dict())
