"""Features by module path: what they hold, and that no hook outlives its block."""

import pytest
import torch
from torch import Tensor, nn

from compressors.aligning import Taps


@pytest.fixture
def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_what_flows_in_and_out(model: nn.Sequential) -> None:
    x = torch.randn(5, 3)
    with Taps(model, ["0", "0:in", "1.0", "1.1:in", "1"]) as features:
        out = model(x)
    assert list(features) == ["0:in", "0", "1.0", "1.1:in", "1"]
    assert features["0:in"] is x
    assert torch.equal(features["0"], model[0](x))
    assert torch.equal(features["1.0"], features["0"].relu())
    assert features["1.1:in"] is features["1.0"]
    assert features["1"] is out


def test_features_carry_gradients(model: nn.Sequential) -> None:
    with Taps(model, ["0"]) as features:
        model(torch.randn(5, 3))
    features["0"].sum().backward()
    assert model[0].weight.grad is not None


def test_hooks_are_gone_after_the_block(model: nn.Sequential) -> None:
    with Taps(model, ["0", "1:in"]) as features:
        assert hooks(model) == 2
        model(torch.zeros(1, 3))
    assert hooks(model) == 0
    before = dict(features)
    model(torch.ones(1, 3))
    assert all(features[path] is tensor for path, tensor in before.items())


def test_hooks_are_gone_after_an_error_in_the_block(model: nn.Sequential) -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"), Taps(model, ["0", "1:in"]):
        model(torch.zeros(1, 7))
    assert hooks(model) == 0


def test_an_unknown_path_is_an_error_and_leaves_no_hook(model: nn.Sequential) -> None:
    with pytest.raises(AttributeError, match="has no attribute `2`"), Taps(model, ["0", "1.2"]):
        pass
    assert hooks(model) == 0


def test_an_unknown_side_is_an_error(model: nn.Sequential) -> None:
    with pytest.raises(AttributeError, match="has no attribute `1:out`"), Taps(model, ["0", "1:out"]):
        pass
    assert hooks(model) == 0


def test_taps_may_be_nested_and_used_again(model: nn.Sequential) -> None:
    outer, inner = Taps(model, ["0"]), Taps(model, ["0"])
    x = torch.randn(2, 3)
    with outer as a:
        with inner as b:
            model(x)
        seen: Tensor = b["0"]
        model(x + 1)
    assert b["0"] is seen
    assert a["0"] is not seen
    with outer as a:
        model(x)
    assert torch.equal(a["0"], seen)


def test_no_paths_no_hooks(model: nn.Sequential) -> None:
    with Taps(model, []) as features:
        assert hooks(model) == 0
        model(torch.zeros(1, 3))
    assert features == {}
