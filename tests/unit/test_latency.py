"""Latency and peak memory: shapes of the answer and exactness of the memory, no assertion on time."""

import itertools
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.protocols import Masks, Prompt
from evaluation import latency
from evaluation.latency import (
    Latency,
    LatencyRatio,
    device_name,
    measure_in_turns,
    measure_latency,
    peak_memory,
    ratio_of_rounds,
)
from teachers.catalog import MODELS
from teachers.sam import Sam, SamConfig

CPU = torch.device("cpu")


class Toy(nn.Module):
    """A segmenter whose every tensor is known: 1 KiB is 256 floats."""

    name, input_size = "toy", 16

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(256))
        self.register_buffer("offset", torch.ones(512))
        self.dropout = nn.Dropout(0.5)
        self.modes: list[bool] = []

    def encode(self, images: Tensor) -> Tensor:
        self.modes.append(self.training)
        wide = torch.ones(1, 16, 16, 16)
        wider = torch.cat([wide, wide], 1)
        del wide
        return wider[:, :1].clone()

    def decode(self, embedding: Tensor, prompt: Prompt, size_hw: tuple[int, int], multimask: bool = False) -> Masks:
        return Masks(embedding + 1, torch.ones(1, 1), self.input_size)


KIB = 1024
TOY_BYTES = 3 * KIB + 3 * KIB + 16  # weight and offset, image, box


def check(latency: Latency) -> None:
    values = asdict(latency)
    assert all(values[key] > 0 and values[key] < float("inf") for key in values if key.endswith(("_ms", "_bytes")))
    assert latency.encoder_latency_ms <= latency.encoder_latency_p95_ms
    assert latency.decoder_latency_ms <= latency.decoder_latency_p95_ms


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_the_pocket_model(precision: str) -> None:
    model = Sam(MODELS["sam_pocket"].config, "sam_pocket")
    latency = measure_latency(model, runs=3, warmup=1, precision=precision)
    check(latency)
    assert (latency.precision, latency.runs, latency.threads) == (precision, 3, torch.get_num_threads())
    assert latency.device == device_name(CPU) != ""
    weights = 4 * sum(value.numel() for value in [*model.parameters(), *model.buffers()])
    assert weights < latency.peak_memory_bytes < 3 * weights
    assert model.training


def test_memory_is_that_of_the_live_tensors() -> None:
    # Encoding peaks with both copies of 16 KiB and their concatenation of 32 KiB alive.
    assert measure_latency(Toy(), runs=1, warmup=0).peak_memory_bytes == TOY_BYTES + 48 * KIB


def test_memory_is_the_same_again_and_after_any_number_of_runs() -> None:
    model = Sam(SamConfig(MODELS["sam_pocket"].config.encoder, 4, 512, 128))
    peaks = {measure_latency(model, runs=runs, warmup=0).peak_memory_bytes for runs in (1, 2)}
    assert len(peaks) == 1


def test_each_storage_counts_once_until_its_last_view_is_gone() -> None:
    def work() -> None:
        first = torch.zeros(1000)
        view = first.view(10, 100)[3]
        del first
        view.add_(1)
        view.expand(50, 100)
        second = torch.zeros(100)  # 4,400 bytes: the view holds all of the first
        del view
        torch.zeros(900, dtype=torch.int32)  # 400 + 3,600
        assert second.sum() == 0

    assert peak_memory(work, [], CPU) == 4400


def test_what_is_alive_counts_once_and_only_on_its_device() -> None:
    stored = torch.zeros(250)
    other = torch.zeros(1, device="meta")
    assert peak_memory(lambda: None, [stored, stored[3:], other], CPU) == 1000
    # In place and views take nothing; a result that is dropped at once still counts.
    assert peak_memory(lambda: stored.add_(1).view(5, 50), [stored], CPU) == 1000
    assert peak_memory(lambda: stored + 1, [stored], CPU) == 2000


def test_memory_inside_modules_is_seen() -> None:
    model = nn.Sequential(nn.Linear(100, 200, bias=False), nn.Linear(200, 50, bias=False))
    with torch.no_grad():
        peak = peak_memory(lambda: model(torch.zeros(1, 100)), model.parameters(), CPU)
    # The caller's input lives on while the hidden layer of 200 and the output of 50 do.
    assert peak == 4 * (100 * 200 + 200 * 50 + 100 + 200 + 50)


def test_the_model_is_evaluated_and_then_as_it_was() -> None:
    model = Toy()
    model.dropout.eval()
    measure_latency(model, runs=2, warmup=1)
    assert model.modes and not any(model.modes)
    assert model.training and not model.dropout.training


def test_a_segmenter_need_not_be_a_module() -> None:
    class Plain:
        name, input_size = "plain", 16
        encode = staticmethod(lambda images: images * 2)

        def decode(self, embedding: Tensor, prompt: Prompt, size_hw: tuple[int, int], multimask: bool = False) -> Masks:
            return Masks(embedding, torch.ones(1, 1), 16)

    latency = measure_latency(Plain(), runs=2, warmup=0)
    check(latency)
    assert latency.peak_memory_bytes == 3 * KIB + 16 + 3 * KIB + 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": 0}, "runs"),
        ({"warmup": -1}, "warmup"),
        ({"precision": "int4"}, "float32, bfloat16, float16"),
        ({"device": torch.device("meta")}, "cpu or cuda"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_latency(Toy(), **options)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_cuda(precision: str) -> None:
    model = Sam(MODELS["sam_pocket"].config, "sam_pocket").cuda()
    bystander = torch.zeros(2**26, device="cuda")
    latency = measure_latency(model, runs=5, warmup=2, precision=precision)
    check(latency)
    assert latency.device == torch.cuda.get_device_name()
    weights = 4 * sum(value.numel() for value in [*model.parameters(), *model.buffers()])
    # The bystander's 256 MiB are not the model's.
    assert weights < latency.peak_memory_bytes < 4 * weights + bystander.nbytes // 4


def test_models_take_turns_and_their_ratios_are_of_the_same_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slows down by the round, by a clock that knows each model's true time."""
    true, calls = {0: 2.0, 1: 1.0, 2: 4.0}, []
    models = [Toy() for _ in true]
    number = {id(model): place for place, model in enumerate(models)}

    def clock(work: Callable[[], object], device: torch.device) -> float:
        place = number[id(work.__self__._model)]  # type: ignore[attr-defined]
        calls.append((place, work.__name__))
        return true[place] * (1 + len(calls) // 6)

    monkeypatch.setitem(latency._CLOCKS, "cpu", clock)
    rounds: list[int] = []
    turns = measure_in_turns(models, runs=9, warmup=1, on_round=lambda: rounds.append(len(calls)))
    assert rounds == [6 * done for done in range(1, 11)]
    order = [place for place, part in calls if part == "encode"]
    assert all(sorted(order[start : start + 3]) == [0, 1, 2] for start in range(0, len(order), 3))
    followed = {own: {a for a, b in itertools.pairwise(order) if b == own} - {own} for own in true}
    assert all(len(others) == 2 for others in followed.values()), "none always follows the same one"
    assert len(turns[0].encoder_ms) == len(turns[0].decoder_ms) == 9
    for own, ratio in zip(turns, (1.0, 0.5, 2.0), strict=True):
        encoder, decoder = own.ratios_to(turns[0])
        assert encoder.low is not None and encoder.high is not None
        assert encoder.value == pytest.approx(ratio, rel=0.2) and encoder.low <= encoder.value <= encoder.high
        assert decoder.value == pytest.approx(ratio, rel=0.2)
    assert turns[0].ratios_to(turns[0]) == (LatencyRatio(1, 1, 1), LatencyRatio(1, 1, 1))


def test_few_rounds_have_the_interval_that_few_rounds_can_have() -> None:
    # Logarithms -0.1, 0 and 0.1: a standard error of 0.1 / 3 ** 0.5, a quantile of two degrees of freedom of 4.303.
    three = ratio_of_rounds(np.exp([0.1, -0.1, 0.0]))
    half = 4.30265 * 0.1 / 3**0.5
    assert (three.value, three.low, three.high) == pytest.approx((1.0, np.exp(-half), np.exp(half)))
    assert ratio_of_rounds(np.array([0.5])) == LatencyRatio(0.5, None, None)
    random = np.random.default_rng(0)
    for rounds, least in {2: 0.93, 3: 0.93, 5: 0.93, 8: 0.87, 20: 0.9}.items():
        drawn = [ratio_of_rounds(np.exp(random.normal(0, 0.1, rounds)), 200) for _ in range(400)]
        covered = sum(one.low <= 1 <= one.high for one in drawn if one.low is not None and one.high is not None)
        assert covered / len(drawn) > least, f"{rounds} rounds"


def test_a_batch_is_images_together_and_boxes_together() -> None:
    shapes: list[tuple[int, ...]] = []

    class Batched(Toy):
        def encode(self, images: Tensor) -> Tensor:
            shapes.append(tuple(images.shape))
            return torch.zeros(len(images), 1, 16, 16)

        def decode(self, embedding: Tensor, prompt: Prompt, size_hw: tuple[int, int], multimask: bool = False) -> Masks:
            assert prompt.boxes_xyxy is not None
            shapes.append((len(embedding), len(prompt.boxes_xyxy)))
            return super().decode(embedding, prompt, size_hw, multimask)

    measure_in_turns([Batched()], runs=1, warmup=0, batch=3)
    assert set(shapes) == {(3, 3, 16, 16), (1, 3)}
    with pytest.raises(ValueError, match="batch must be at least 1"):
        measure_in_turns([Toy()], batch=0)
