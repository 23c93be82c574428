"""The two operators of quantised layers: their arithmetic, their ONNX, and the kernels that runtimes find for them."""

import pytest

pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")

from pathlib import Path

import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from students.export.onnx_files import QUANTISED_OPSET, exported
from students.quantized.operators import axis_of, dequantize, quantize_dequantize


class Grid(nn.Module):
    """Activations on the grid of uint8 or int8 codes."""

    def __init__(self, scale: float, zero_point: int, signed: bool = False, high: int | None = None) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("zero_point", torch.tensor(zero_point, dtype=torch.int32))
        self.low, self.high = (-128, 127) if signed else (0, 255)
        self.high = self.high if high is None else high

    def forward(self, x: Tensor) -> Tensor:
        return quantize_dequantize(x, self.scale, self.zero_point, self.low, self.high, None)


class Grids(nn.Module):
    """Answers of several grids, one of them narrower than its type."""

    def __init__(self) -> None:
        super().__init__()
        narrow = Grid(0.25, 5, high=15)
        self.grids = nn.ModuleList([Grid(0.25, 7), Grid(0.25, -3, signed=True), Grid(0.03, 255), narrow])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([grid(x) for grid in self.grids])


class Weight(nn.Module):
    """A weight by int8 codes with a scale a row, and a bias by int32 codes that fit a given input scale."""

    def __init__(self, shape: tuple[int, ...], input_scale: float) -> None:
        super().__init__()
        each = (shape[0], *[1] * (len(shape) - 1))
        self.register_buffer("codes", torch.randint(-127, 128, shape, dtype=torch.int8))
        self.register_buffer("scale", torch.rand(each) * 0.01 + 0.001)
        self.register_buffer("zero_point", torch.zeros(each, dtype=torch.int32))
        self.register_buffer("bias", torch.randint(-3000, 3000, shape[:1], dtype=torch.int32))
        self.register_buffer("bias_scale", self.scale.flatten() * input_scale)

    def forward(self) -> tuple[Tensor, Tensor]:
        bias = dequantize(self.bias, self.bias_scale, torch.zeros_like(self.bias), 0)
        return dequantize(self.codes, self.scale, self.zero_point, 0), bias


class Perceptron(nn.Module):
    """What a block's MLP is when quantised: linear layers with float outputs, GELU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.grids = nn.ModuleList([Grid(0.03, 120), Grid(0.1, 3)])
        self.weights = nn.ModuleList([Weight((32, 16), 0.03), Weight((16, 32), 0.1)])

    def forward(self, x: Tensor) -> Tensor:
        inner = F.gelu(F.linear(self.grids[0](x), *self.weights[0]()))
        return x + F.linear(self.grids[1](inner), *self.weights[1]())


class Convolutions(nn.Module):
    """Convolutions, whose outputs must be on a grid too, with GELU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.grids = nn.ModuleList([Grid(0.03, 120), Grid(0.05, 128), Grid(0.04, 8), Grid(0.05, 128)])
        self.weights = nn.ModuleList([Weight((16, 16, 3, 3), 0.03), Weight((16, 1, 3, 3), 0.04)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.grids[1](F.conv2d(self.grids[0](x), *self.weights[0](), padding=1))
        return self.grids[3](F.conv2d(self.grids[2](F.gelu(x)), *self.weights[1](), padding=1, groups=16))


class Products(nn.Module):
    """The two products of attention: float outputs, softmax between them."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = Grid(0.03, 120), Grid(0.03, 0, signed=True)
        self.p, self.v = Grid(1 / 255, 0), Grid(0.03, 130)

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.q(x) @ self.k(x).transpose(-1, -2)).softmax(-1)
        return self.p(weights) @ self.v(x)


def run(module: nn.Module, x: Tensor, folder: Path) -> tuple[Tensor, list[str]]:
    """A module's answer in ONNX Runtime, and the operators of the graph that it made of the file."""
    file, optimised = folder / "module.onnx", folder / "optimised.onnx"
    exported(module, (x,), ["x"], ["y"], None, QUANTISED_OPSET).save(file)
    onnx.checker.check_model(file, full_check=True)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(optimised), 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"x": x.numpy()})
    return torch.from_numpy(answer), [node.op_type for node in onnx.load(optimised).graph.node]


@pytest.mark.parametrize(
    ("kind", "shape", "step", "integer"),
    [
        (Perceptron, (2, 50, 16), 0.0, ["QGemm", "QGemm"]),
        pytest.param(Convolutions, (2, 16, 12, 12), 0.05, ["QLinearConv", "QLinearConv"], marks=pytest.mark.slow),
        (Products, (2, 4, 20, 8), 0.0, ["MatMulIntegerToFloat", "MatMulIntegerToFloat"]),
    ],
)
def test_layers_run_on_integers(
    kind: type[nn.Module], shape: tuple[int, ...], step: float, integer: list[str], tmp_path: Path
) -> None:
    module = kind().eval()
    x = torch.randn(shape)
    answer, operators = run(module, x, tmp_path)
    expected = module(x)
    kernels = [name for name in operators if name.startswith("Q") or "Integer" in name]
    assert [name for name in kernels if name != "QuantizeLinear"] == integer
    # No matrix product or convolution is left in float, and GELU is one operator.
    assert not {"MatMul", "Gemm", "Conv", "Erf"} & set(operators)
    difference = (answer - expected).abs()
    # Sums of another order: a value half way between two codes of an output may take the other one.
    assert difference.max() <= 1e-4 + 1.01 * step and (difference > 1e-4).float().mean() < 0.01


@pytest.mark.slow
def test_codes_are_those_of_quantize_linear(tmp_path: Path) -> None:
    x = torch.randn(40, 100) * 3
    # Exact halves, where rounding half to even shows; and values beyond both ends.
    x[0, :40], x[1, :2] = torch.arange(-20, 20) * 0.25 + 0.125, torch.tensor([1e9, -1e9])
    answer, operators = run(Grids(), x, tmp_path)
    assert operators.count("QuantizeLinear") == 4 and torch.equal(answer, Grids()(x))


def test_scales_along_an_axis() -> None:
    x, scale = torch.randn(2, 3, 4, 5), torch.tensor([0.1, 0.2, 0.4])
    zero_point = torch.tensor([0, 10, 20], dtype=torch.int32)
    # For each head, in the shape that broadcasts against [B, heads, tokens, d]; and as a list with its axis.
    shaped = quantize_dequantize(x, scale.reshape(3, 1, 1), zero_point.reshape(3, 1, 1), 0, 255, 0)
    listed = quantize_dequantize(x, scale, zero_point, 0, 255, 1)
    each = [quantize_dequantize(x[:, i], scale[i], zero_point[i], 0, 255) for i in range(3)]
    assert torch.equal(shaped, listed) and torch.equal(listed, torch.stack(each, 1))
    assert (axis_of((3, 1, 1), 4, 0), axis_of((3,), 4, -3), axis_of((1, 1), 4, None)) == (1, 1, None)
    with pytest.raises(ValueError, match="several"):
        axis_of((3, 4), 2, None)
    with pytest.raises(ValueError, match="axis"):
        axis_of((3,), 2, None)


def test_dtype_and_meta() -> None:
    x = torch.randn(3, 4, dtype=torch.bfloat16)
    assert quantize_dequantize(x, torch.tensor(0.1), torch.tensor(0), -128, 127).dtype == torch.bfloat16
    codes = torch.zeros(3, 4, dtype=torch.int8, device="meta")
    values = dequantize(codes, torch.ones(3, device="meta"), torch.zeros(3, device="meta"), 0)
    assert values.dtype == torch.float32 and values.shape == (3, 4)
    torch.library.opcheck(quantize_dequantize, (torch.randn(3, 4), torch.tensor(0.1), torch.tensor(3), 0, 255, None))
