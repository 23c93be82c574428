"""Two gloo processes end where one does, the first one alone writing and speaking."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from students.files import load_model
from tests import warm_processes
from tests.unit.tiny import free_port, pocket_file
from tests.unit.truthful import drawn_labels, write_coco

SMALL = (
    *("experiment=smoke", "method=slimsam", "ratio=0.5", "engine.precision=float32", "format=json"),
    *("method.steps=2", "method.importance_images=1", "evaluation.images=2", "evaluation.latency_runs=1"),
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of random weights in the shape of sam_pocket, as a setting."""
    return f"teacher.checkpoint={pocket_file(tmp_path_factory.mktemp('teacher') / 'pocket.pth')}"


def left(place: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]], str]:
    """The student's weights, the log of its second stage and the run's name."""
    (folder,) = (path.parent for path in (place / "runs").glob("*/result.json"))
    log = [json.loads(line) for line in (folder / "embedding_aligning.jsonl").read_text().splitlines()]
    return load_model(folder / "student.safetensors").state_dict(), log, folder.name


@pytest.mark.slow
def test_two_processes_end_where_one_does(tmp_path: Path, teacher: str) -> None:
    # Six images a step: three batches of two, or a batch of two and one of one in each process.
    words = (*SMALL, teacher, "method.optimisation.accumulate=3", "method.batch=2", "method.validations=1")
    alone = warm_processes.run(tmp_path / "one", words)
    first, second = warm_processes.ranks(tmp_path / "two", words)
    assert (alone.returncode, first.returncode, second.returncode) == (0, 0, 0), first.stderr + second.stderr
    assert not second.stdout and not second.stderr
    (weights, log, run_id), (shared, shared_log, shared_id) = left(tmp_path / "one"), left(tmp_path / "two")
    assert run_id == shared_id and run_id.startswith("smoke-r0.5-s0-")
    for entries in (log, shared_log):
        assert [entry["step"] for entry in entries if "loss" in entry] == [2]
        # The first process alone scores the student while the other waits.
        assert [entry["step"] for entry in entries if "miou" in entry] == [1, 2]
    # Each scores its share of the validation images, and of the held-out ones at the end.
    (validated,), (shared_validated,) = ([e["validation"] for e in es if "validation" in e] for es in (log, shared_log))
    assert shared_validated == pytest.approx(validated, abs=1e-3)
    for name, tensor in weights.items():
        torch.testing.assert_close(shared[name], tensor, rtol=1e-3, atol=1e-4)
    one, two = (json.loads(done.stdout)["rows"] for done in (alone, first))
    assert two[3]["images_seen"] == one[3]["images_seen"] == 2 * 2 * 6
    assert two[3]["device_hours"] == pytest.approx(2 * two[3]["train_seconds"] / 3600)
    assert two[3]["miou"] == pytest.approx(one[3]["miou"], abs=1e-3)
    # The teacher is the same: what two processes score together is what one scores.
    timed = ("run_id", "encoder_latency_ms", "decoder_latency_ms", "threads")
    timed += tuple(f"{part}_latency_ratio{end}" for part in ("encoder", "decoder") for end in ("", "_low", "_high"))
    for row, other in zip(one[:3], two[:3], strict=True):
        assert {k: v for k, v in row.items() if k not in timed} == {k: v for k, v in other.items() if k not in timed}
    # The second call finds the finished run and says so once.
    first, second = warm_processes.ranks(tmp_path / "two", words)
    assert first.returncode == second.returncode == 0 and json.loads(first.stdout)["rows"] == two
    assert (first.stderr + second.stderr).count("finished earlier") == 1


@pytest.mark.slow
def test_two_nodes_of_torchrun_end_where_one_process_does(tmp_path: Path, teacher: str) -> None:
    # Two machines as far as torchrun knows: a process each, of the same number on its machine, meeting at an address.
    words = (*SMALL, teacher, "method.batch=2", "cache=memory", "engine.threads=1")
    alone = warm_processes.run(tmp_path / "one", words)
    assert alone.returncode == 0, alone.stderr
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    torchrun += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
    (tmp_path / "two").mkdir()
    nodes = [
        subprocess.Popen(
            [*torchrun, "-m", "experiments", *words],
            cwd=tmp_path / "two",
            env=warm_processes.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [node.communicate(timeout=600) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said[0][1] + said[1][1]
    # Which of them is the first they agree on when they meet.
    (rows,) = [out for out, _ in said if out]
    (weights, _, run_id), (shared, _, shared_id) = left(tmp_path / "one"), left(tmp_path / "two")
    assert run_id == shared_id
    for name, tensor in weights.items():
        torch.testing.assert_close(shared[name], tensor, rtol=1e-3, atol=1e-4)
    one, two = (json.loads(out.strip().splitlines()[-1])["rows"] for out in (alone.stdout, rows))
    assert two[3]["images_seen"] == one[3]["images_seen"]
    assert two[3]["device_hours"] == pytest.approx(2 * two[3]["train_seconds"] / 3600)
    assert two[3]["miou"] == pytest.approx(one[3]["miou"], abs=1e-3)


REFUSED = "error: 3 images a step cannot be shared by 2 processes"


@pytest.mark.parametrize(
    "words", [["method.batch=3"], ["method.batch=2", "then=ptq", "then.reconstruct=blocks", "then.batch=3"]]
)
def test_images_that_cannot_be_shared_are_refused_once(tmp_path: Path, teacher: str, words: list[str]) -> None:
    both = warm_processes.ranks(tmp_path, [*SMALL, teacher, *words])
    assert [done.returncode for done in both] == [2, 2]
    assert "".join(done.stderr for done in both).count(REFUSED) == 1
    # Before the first image: nothing was read, let alone computed.
    assert not list(tmp_path.glob("runs"))


def damaged_coco(root: Path) -> Path:
    """Two training images, of which the second process reads the damaged one first, and two that are held out."""
    whole = write_coco(root, drawn_labels(4))
    labels = json.loads((whole / "annotations" / "instances_val2017.json").read_text())
    for split, ids in (("train2017", (0, 1)), ("val2017", (2, 3))):
        kept = {key: [raw for raw in labels[key] if raw[of] in ids] for key, of in PARTS}
        (whole / "annotations" / f"instances_{split}.json").write_text(json.dumps(labels | kept))
    (whole / "train2017").mkdir()
    for number in (0, 1):
        (whole / "val2017" / f"{number:012d}.png").rename(whole / "train2017" / f"{number:012d}.png")
    damaged = whole / "train2017" / f"{DAMAGED:012d}.png"
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    return whole


PARTS = (("images", "id"), ("annotations", "image_id"))
DAMAGED = 0


def test_an_error_of_the_second_process_is_shown_and_noted_and_ends_both(tmp_path: Path, teacher: str) -> None:
    words = [word for word in SMALL if not word.startswith("experiment=")]
    words += [teacher, "-m", "seed=0,1", "method.batch=2", "method.optimisation.accumulate=1", "method.steps=2"]
    words += ["data=coco", f"data.root={damaged_coco(tmp_path / 'coco')}", "cache=memory", "method.importance=random"]
    first, second = warm_processes.ranks(tmp_path, words)
    (line,) = [line for line in second.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: process 1: {tmp_path}") and f"{DAMAGED:012d}.png: truncated or damaged" in line
    (other,) = [line for line in first.stderr.splitlines() if line.startswith("error: ")]
    assert "process 0 of 2: another process of this run ended" in other and (first.returncode, second.returncode) == (
        1,
        2,
    )
    # The second run of the sweep was not begun, and the first goes on once the image is mended.
    (note,) = tmp_path.glob("runs/*/stopped_by.json")
    assert len(list(tmp_path.glob("runs/*-s?-*"))) == 1 and json.loads(note.read_text())["damaged"] == [DAMAGED]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mobilesam", "tinysam"])
def test_two_processes_see_a_batch_as_one_does(tmp_path: Path, teacher: str, method: str) -> None:
    """Students with batch normalisation; tests/unit/test_batch_norm.py compares weights."""
    words = [teacher, f"method={method}", "method.steps=3", "method.batch=4", "data.count=16", "format=json"]
    words += ["engine.precision=float32", "evaluation.images=4", "evaluation.latency_runs=1"]
    alone = warm_processes.run(tmp_path / "one", words)
    first, second = warm_processes.ranks(tmp_path / "two", words)
    assert (alone.returncode, first.returncode, second.returncode) == (0, 0, 0), first.stderr + second.stderr
    losses = []
    for place in ("one", "two"):
        (file,) = [
            *(tmp_path / place).glob("runs/*/encoder.jsonl"),
            *(tmp_path / place).glob("runs/*/full_stage.jsonl"),
        ]
        logged = [json.loads(line) for line in file.read_text().splitlines()]
        losses.append([entry["embedding"] for entry in logged if "embedding" in entry][-1])
    one, two = (json.loads(done.stdout)["rows"][3] for done in (alone, first))
    assert two["run_id"] == one["run_id"] and two["images_seen"] == one["images_seen"] == 24
    assert two["miou"] == pytest.approx(one["miou"], abs=5e-3)
    # The first process logs its own half of the images.
    assert losses[1] == pytest.approx(losses[0], rel=0.2)


@pytest.mark.slow
def test_torchrun_starts_and_ends_the_processes(tmp_path: Path, teacher: str) -> None:
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = subprocess.run(
        [*launcher, "-m", "experiments", *SMALL, teacher, "method.batch=3"],
        cwd=tmp_path,
        env=warm_processes.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and done.stderr.count(REFUSED) == 1
    assert not list(tmp_path.glob("runs/*/result.json"))
