"""The training loop: resuming, accumulating, schedules, and what it does when the loss breaks."""

import json
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressors.distill.engine import Engine, Frozen, Stage, TrainingDiverged
from compressors.distill.optimizer import OptimizerConfig
from compressors.method import Compressed
from core.seeding import generator_for
from core.untrusted import read_torch
from tests.unit.tiny import tiny_sam


@dataclass(frozen=True)
class Numbers:
    names: tuple[str, ...]
    x: Tensor

    def pin_memory(self) -> "Numbers":
        return self

    def to(self, device: torch.device) -> "Numbers":
        return self


class Killed(Exception):
    pass


def numbers(places: range) -> Numbers:
    return Numbers(
        tuple(map(str, places)), torch.stack([torch.randn(3, generator=generator_for(0, p)) for p in places])
    )


def stage(steps: int = 12, kill_at: int | None = None, **changes: object) -> Stage[Numbers]:
    torch.manual_seed(0)
    # Dropout draws from the global generator, so a resume that loses its state is seen.
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def batch(places: range) -> Numbers:
        if kill_at is not None and places.start // 4 == kill_at:
            raise Killed
        return numbers(places)

    settings: dict = {
        "name": "toy",
        "key": "toy",
        "model": model,
        "batch": batch,
        "batch_size": 4,
        "loss": lambda b, step: {"square": model(b.x).square().mean(), "abs": model(b.x).abs().mean()},
        "steps": steps,
        "optimisation": OptimizerConfig(lr=0.01, schedule="cosine", clip=1.0),
    }
    return Stage(**(settings | changes))


def weights(of: Stage[Numbers]) -> list[Tensor]:
    return [p.detach().clone() for p in of.model.parameters()]


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize("kill_at", [1, 5, 11])
def test_a_killed_run_ends_bit_identically(tmp_path: Path, kill_at: int, optimizer: str) -> None:
    optimisation = OptimizerConfig(lr=0.01, optimizer=optimizer, schedule="cosine", clip=1.0)
    undisturbed = stage(optimisation=optimisation)
    Engine(tmp_path / "a", log_every=1).fit(undisturbed)

    engine = Engine(tmp_path / "b", save_every_s=0, log_every=1)
    with pytest.raises(Killed):
        engine.fit(stage(kill_at=kill_at, optimisation=optimisation))
    resumed = stage(optimisation=optimisation)
    progress = engine.fit(resumed)

    assert (progress.step, progress.images) == (12, 48)
    for ours, theirs in zip(weights(resumed), weights(undisturbed), strict=True):
        assert torch.equal(ours, theirs)
    logs = [[json.loads(line) for line in (tmp_path / run / "toy.jsonl").read_text().splitlines()] for run in "ab"]
    undisturbed_log, resumed_log = ([(entry["step"], entry["loss"]) for entry in log] for log in logs)
    assert resumed_log == undisturbed_log


def test_a_finished_stage_is_not_run_again(tmp_path: Path) -> None:
    first = stage()
    Engine(tmp_path).fit(first)
    again = stage(kill_at=0)
    assert Engine(tmp_path).fit(again).step == 12
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(again), strict=True))


def test_a_state_of_another_configuration_is_not_continued(tmp_path: Path) -> None:
    Engine(tmp_path).fit(stage(key="other"))
    with pytest.raises(Killed):
        Engine(tmp_path).fit(stage(kill_at=0))


def test_a_damaged_state_starts_over(tmp_path: Path) -> None:
    (tmp_path / "toy.state").write_bytes(b"not a checkpoint")
    assert Engine(tmp_path).fit(stage()).step == 12


@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 2), (2, 4), (1, 8)])
def test_accumulated_batches_equal_one_large_batch(tmp_path: Path, batch_size: int, accumulate: int) -> None:
    def linear(batch_size: int, accumulate: int) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        run = stage(
            model=model,
            batch=numbers,
            batch_size=batch_size,
            loss=lambda b, step: {"square": model(b.x).square().mean()},
            optimisation=OptimizerConfig(lr=0.01, accumulate=accumulate),
            steps=3,
        )
        Engine(tmp_path / f"{batch_size}-{accumulate}").fit(run)
        return weights(run)

    for ours, theirs in zip(linear(batch_size, accumulate), linear(8, 1), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_made_ahead_are_the_same_batches(tmp_path: Path, workers: int) -> None:
    plain = stage()
    Engine(tmp_path / "a").fit(plain)
    ahead = stage()
    Engine(tmp_path / "b", workers=workers).fit(ahead)
    assert all(torch.equal(a, b) for a, b in zip(weights(plain), weights(ahead), strict=True))
    with pytest.raises(Killed):
        Engine(tmp_path / "c", workers=workers).fit(stage(kill_at=3))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_frozen_models_compute_beside_training_and_give_the_same_weights(tmp_path: Path, precision: str) -> None:
    torch.manual_seed(1)
    teacher, threads = nn.Sequential(nn.Linear(3, 64), nn.GELU(), nn.Linear(64, 1)), []

    def of_teacher(batch: Numbers, step: int) -> Tensor:
        assert not torch.is_grad_enabled() and batch.names[0] == str(step * 8 + int(batch.names[0]) % 8)
        threads.append(threading.current_thread().name.partition("_")[0])
        return teacher(batch.x) * (step + 1)

    def trained(folder: str, workers: int) -> list[Tensor]:
        frozen, run = Frozen(of_teacher), stage(optimisation=OptimizerConfig(lr=0.01, accumulate=2))

        def loss(batch: Numbers, step: int) -> dict[str, Tensor]:
            target = frozen(batch, step)
            assert torch.equal(target, frozen(batch, step))
            # A weight that is used twice: its casts must stay, whatever other threads do.
            return {
                "distance": (run.model(batch.x) - target).abs().mean() + (run.model(-batch.x) - target).abs().mean()
            }

        run.loss, run.frozen = loss, frozen
        Engine(tmp_path / folder, workers=workers, precision=precision).fit(run)
        return weights(run)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        plain = trained("plain", 0)
        assert set(threads) == {"MainThread"}
        for workers in (1, 3):
            threads.clear()
            ahead = trained(f"ahead{workers}", workers)
            assert set(threads) == {"batches"} and len(threads) == 24
            assert all(torch.equal(a, b) for a, b in zip(plain, ahead, strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("changes", [{"workers": 0}, {"compile": True}, {"device": torch.device("cuda")}, {}])
def test_frozen_models_compute_ahead_only_where_an_operator_takes_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert Engine(tmp_path, **{"workers": 1, **changes}).ahead == (not changes)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert not Engine(tmp_path, workers=1).ahead


@pytest.mark.parametrize("kill_at", [2, 7])
def test_the_average_of_the_weights_is_the_definitions_and_survives_a_kill(tmp_path: Path, kill_at: int) -> None:
    decay = 0.8
    optimisation = OptimizerConfig(lr=0.05, ema=decay)
    live = stage(optimisation=OptimizerConfig(lr=0.05))
    seen: list[list[Tensor]] = []
    live.validate, live.validate_every = (lambda: seen.append(weights(live)) or 0.0), 1  # type: ignore[func-returns-value]
    Engine(tmp_path / "live").fit(live)
    expected = seen[0]
    for step in seen[1:]:
        expected = [decay * mean + (1 - decay) * now for mean, now in zip(expected, step, strict=True)]

    averaged = stage(optimisation=optimisation)
    Engine(tmp_path / "a").fit(averaged)
    for ours, needed in zip(weights(averaged), expected, strict=True):
        torch.testing.assert_close(ours, needed, rtol=1e-5, atol=1e-6)

    engine = Engine(tmp_path / "b", save_every_s=0)
    with pytest.raises(Killed):
        engine.fit(stage(kill_at=kill_at, optimisation=optimisation))
    resumed = stage(optimisation=optimisation)
    engine.fit(resumed)
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed), weights(averaged), strict=True))


def test_validation_sees_the_averaged_weights_and_leaves_the_live_ones(tmp_path: Path) -> None:
    run = stage(optimisation=OptimizerConfig(lr=0.05, ema=0.9))
    seen: list[list[Tensor]] = []
    run.validate, run.validate_every = (lambda: seen.append(weights(run)) or 0.0), 12  # type: ignore[func-returns-value]
    Engine(tmp_path / "a").fit(run)
    plain = stage(optimisation=OptimizerConfig(lr=0.05, ema=0.9))
    Engine(tmp_path / "b").fit(plain)
    assert all(torch.equal(a, b) for a, b in zip(seen[-1], weights(run), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights(plain), weights(run), strict=True))


class Onlooker:
    """Scores after every third step and at the end, and remembers what it was given."""

    def __init__(self) -> None:
        self.logged: list[tuple[str, dict[str, float]]] = []
        self.seen: list[tuple[bool, list[Tensor]]] = []

    def scores_at(self, step: int, steps: int) -> bool:
        return step % 3 == 0 or step == steps

    def score(self, model: nn.Module) -> dict[str, float]:
        self.seen.append((model.training, [p.detach().clone() for p in model.parameters()]))
        return {"figure": float(len(self.seen))}

    def log(self, stage: str, entry: Mapping[str, float]) -> None:
        self.logged.append((stage, dict(entry)))


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_looking_on_changes_no_weight(tmp_path: Path, ema: float) -> None:
    optimisation = OptimizerConfig(lr=0.05, ema=ema)
    alone = stage(optimisation=optimisation)
    Engine(tmp_path / "a").fit(alone)
    watched, onlooker = stage(optimisation=optimisation), Onlooker()
    watched.full_model = lambda: watched.model
    Engine(tmp_path / "b", callback=onlooker).fit(watched)
    assert all(torch.equal(a, b) for a, b in zip(weights(alone), weights(watched), strict=True))
    assert [training for training, _ in onlooker.seen] == [False] * 4
    # The last score is of what the stage ends with: with an average of the weights, that.
    assert all(torch.equal(a, b) for a, b in zip(onlooker.seen[-1][1], weights(watched), strict=True))


def test_a_callback_gets_what_the_log_holds(tmp_path: Path) -> None:
    watched = stage()
    watched.full_model = lambda: watched.model
    onlooker = Onlooker()
    Engine(tmp_path, log_every=5, callback=onlooker).fit(watched)
    log = [json.loads(line) for line in (tmp_path / "toy.jsonl").read_text().splitlines()]
    assert onlooker.logged == [("toy", entry) for entry in log]
    assert [entry["step"] for entry in log if "figure" in entry] == [3, 6, 9, 12]
    assert [entry["step"] for entry in log if "loss" in entry] == [5, 10, 12]
    assert all(entry["peak_memory_bytes"] > 50_000_000 for entry in log if "loss" in entry)


def test_a_stage_without_a_whole_student_is_not_scored_but_logged(tmp_path: Path) -> None:
    onlooker = Onlooker()
    Engine(tmp_path, log_every=6, callback=onlooker).fit(stage())
    assert not onlooker.seen and [entry["step"] for _, entry in onlooker.logged] == [6, 12]


@pytest.mark.parametrize("kill_at", [2, 7, 10])
def test_a_resumed_run_is_scored_at_the_same_steps(tmp_path: Path, kill_at: int) -> None:
    def watched(kill_at: int | None = None) -> Stage[Numbers]:
        made = stage(kill_at=kill_at, optimisation=OptimizerConfig(lr=0.05, ema=0.9))
        made.full_model = lambda: made.model
        return made

    undisturbed, onlooker = watched(), Onlooker()
    Engine(tmp_path / "a", log_every=1, callback=onlooker).fit(undisturbed)
    with pytest.raises(Killed):
        Engine(tmp_path / "b", save_every_s=0, log_every=1, callback=Onlooker()).fit(watched(kill_at))
    resumed, again = watched(), Onlooker()
    Engine(tmp_path / "b", save_every_s=0, log_every=1, callback=again).fit(resumed)
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed), weights(undisturbed), strict=True))
    logs = [[json.loads(line) for line in (tmp_path / run / "toy.jsonl").read_text().splitlines()] for run in "ab"]
    steps = [[(entry["step"], "figure" in entry) for entry in log] for log in logs]
    assert steps[0] == steps[1]
    # It gets what is new to it, and sees the weights that it would have seen.
    assert [entry["step"] for _, entry in again.logged] == [step for step, _ in steps[0] if step > kill_at]
    for (_, ours), (_, theirs) in zip(reversed(again.seen), reversed(onlooker.seen), strict=False):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_what_training_took_is_noted(tmp_path: Path) -> None:
    progress = Engine(tmp_path).fit(stage())
    assert (progress.images, progress.devices) == (48, 1)
    assert progress.seconds > 0 and progress.device_seconds == pytest.approx(progress.seconds)
    assert progress.peak_memory_bytes > 50_000_000


@pytest.mark.parametrize("is_earlier", [False, True])
def test_device_hours_count_the_devices_of_each_time(tmp_path: Path, is_earlier: bool) -> None:
    with pytest.raises(Killed):
        Engine(tmp_path, save_every_s=0).fit(stage(kill_at=7))
    # Ten hours on eight devices; earlier states say no more than their number.
    path = tmp_path / "toy.state"
    state = read_torch(path)
    state["progress"] |= {"seconds": 36_000.0, "devices": 8, "device_seconds": 288_000.0}
    if is_earlier:
        del state["progress"]["device_seconds"]
    torch.save(state, path)
    progress = Engine(tmp_path).fit(stage())
    assert progress.devices == 1 and 36_000 < progress.seconds < 36_600
    hours = Compressed(tiny_sam(), (progress,)).device_hours
    assert hours == pytest.approx(80 + (progress.seconds - 36_000) / 3600)


def test_a_loss_that_is_not_finite_stops_with_names(tmp_path: Path) -> None:
    broken = stage(loss=lambda b, step: {"square": torch.tensor(math.nan if step == 3 else 0.0, requires_grad=True)})
    with pytest.raises(TrainingDiverged, match=r"stage toy, step 3.*12, 13, 14, 15.*toy\.state"):
        Engine(tmp_path).fit(broken)


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    # The square root at zero: its value is finite, its gradient is not.
    broken = stage(steps=2)
    broken.loss = lambda b, step: {"square": (broken.model(b.x) * (0.0 if step == 1 else 1.0)).square().sum().sqrt()}
    with pytest.raises(TrainingDiverged, match=r"stage toy, step 1: .*weight is not finite.*toy\.state"):
        Engine(tmp_path).fit(broken)
    assert not (tmp_path / "toy.state").exists()


def test_the_best_validation_is_kept(tmp_path: Path) -> None:
    figures = iter([0.2, 0.9, 0.5])
    seen: list[list[Tensor]] = []
    run = stage(steps=6, validate_every=2, keep_best=True)

    def validate() -> float:
        seen.append(weights(run))
        return next(figures)

    run.validate = validate
    assert Engine(tmp_path).fit(run).best == 0.9
    assert all(torch.equal(a, b) for a, b in zip(weights(run), seen[1], strict=True))


def test_plateau_halves_the_rate_after_patience(tmp_path: Path) -> None:
    flat = OptimizerConfig(lr=0.01, schedule="plateau", patience=1)
    run = stage(steps=8, validate_every=1, validate=lambda: 0.5, optimisation=flat)
    assert Engine(tmp_path).fit(run).rate == 0.125
    with pytest.raises(ValueError, match="needs a validation"):
        Engine(tmp_path / "b").fit(stage(optimisation=flat))


def test_schedules() -> None:
    cosine = OptimizerConfig(lr=2.0, schedule="cosine", warmup=4)
    assert cosine.lr_at(0, 100) == pytest.approx(0.5)
    assert cosine.lr_at(50, 100) == pytest.approx(1.0)
    assert cosine.lr_at(99, 100) == pytest.approx(0.0, abs=1e-3)
    assert OptimizerConfig(lr=2.0).lr_at(99, 100) == 2.0
    stairs = OptimizerConfig(lr=2.0, schedule="step", milestones=(0.5, 0.9), factor=0.1)
    assert [stairs.lr_at(step, 100) for step in (0, 49, 50, 89, 90)] == pytest.approx([2, 2, 0.2, 0.2, 0.02])
    with pytest.raises(ValueError, match="schedule must be one of constant, cosine, step, plateau, got 'linear'"):
        OptimizerConfig(schedule="linear")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"accumulate": 0}, "accumulate=0 must be at least 1"),
        ({"lr": 0.0}, r"lr=0\.0 must be above 0"),
        ({"lr": math.inf}, "lr=inf must be above 0 and finite"),
        ({"ema": 1.0}, r"ema=1\.0 must be in \[0, 1\)"),
        # Below zero both would let the loss rise, silently.
        ({"clip": -1.0}, r"clip=-1\.0 must be at least 0"),
        ({"warmup": -5}, "warmup=-5 must be at least 0"),
        ({"weight_decay": -0.1}, r"weight_decay=-0\.1 must be at least 0"),
        ({"clip": math.nan}, "clip=nan must be at least 0"),
        ({"patience": -1}, "patience=-1 must be at least 0"),
        ({"factor": 0.0}, r"factor=0\.0 must be in \(0, 1\]"),
        ({"betas": (0.9, 1.0)}, r"betas=\(0\.9, 1\.0\) must be two numbers in \[0, 1\)"),
        ({"milestones": (0.5, 1.5)}, r"milestones=\(0\.5, 1\.5\) must be shares of the steps, in \[0, 1\]"),
    ],
)
def test_settings_of_an_optimizer_that_mean_nothing_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        OptimizerConfig(**wrong)
