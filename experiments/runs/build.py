"""From settings to devices, data sets, teachers and the training loop."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from compressors.distill.engine import Engine
from compressors.distill.optimizer import is_fast_in_bfloat16
from core import distributed
from core.errors import InputError
from core.progress import say
from core.threads import MOST_THREADS, allowed
from data.sample import ImageData
from evaluation.latency import PRECISIONS
from experiments.config.groups import DATA, EngineConfig, EvaluationConfig, ProposalsConfig, TeacherConfig
from experiments.config.targets import allow, build, method_class, method_classes, register
from teachers.sam import Sam
from teachers.weights import load_sam


def method_stages(folder: str | None = None, packages: Sequence[str] = ()) -> tuple[str, ...]:
    """The names of all stages that methods train: their logs and curves carry them.

    Args:
        folder, packages: of methods beside those of ``conf/``; see ``--config-dir`` and ``packages``.

    Raises:
        InputError: there is no such package or class.
    """
    allow(packages)
    register(None if folder is None else Path(folder))
    classes = [method_class(settings._target_) for settings in method_classes().values()]
    return tuple(dict.fromkeys(stage for method in classes for stage in method.stages))


def build_data(settings: Any, labels: bool | None = None) -> ImageData:
    """A data set.

    Args:
        labels: whether to read annotations, if that is to differ from the settings.
    """
    if labels is not None and hasattr(settings, "labels"):
        settings = dataclasses.replace(settings, labels=labels)
    data: ImageData = build(settings, "data")
    return data


def data_name(settings: Any) -> str:
    """The name of the data set that settings describe, as it is chosen on the command line."""
    return next(name for name, schema in DATA.items() if schema()._target_ == settings._target_)


def evaluation_indices(
    settings: EvaluationConfig | ProposalsConfig, data: ImageData, endless: int | None = None
) -> range:
    """Which images count.

    Args:
        endless: how many of a data set without a natural end (``shapes``) where the settings name no number; None: all
            that it has.
    """
    limit = settings.images
    if limit is None and data_name(settings.data) == "shapes":
        limit = endless
    return range(len(data) if limit is None else min(limit, len(data)))


def build_teacher(settings: TeacherConfig, device: torch.device) -> Sam:
    """The teacher with its weights, frozen, on a device."""
    return load_sam(settings.name, settings.checkpoint, say).to(device)


def build_device(settings: EngineConfig) -> torch.device:
    """The device to compute on; sets the number of threads, and that convolutions in float32 are not rounded to TF32.

    Of several processes each takes a CUDA device of its own.

    Raises:
        InputError: there is no such device here, or not one for each process; alike in all of them.
    """
    if settings.threads is not None and not 1 <= settings.threads <= MOST_THREADS:
        raise InputError(f"engine.threads={settings.threads} must be at least 1 and at most {MOST_THREADS}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    name, processes = settings.device, distributed.local_count()
    if name == "auto":
        name = "cuda" if count else "cpu"
    if name.startswith("cuda:") and processes > 1:
        raise InputError(f"engine.device={name}: one device for {processes} processes; give engine.device=cuda")
    if name == "cuda" and 0 < count < processes:
        raise InputError(f"engine.device={name}: {count} CUDA devices for {processes} processes; start {count} at most")
    if name == "cuda" and distributed.announced() > 1:
        name = f"cuda:{distributed.local_rank()}"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise InputError(f"engine.device={name} is unknown; choose auto, cpu, cuda or cuda:0")
    if kind == "cuda" and not count:
        raise InputError(
            f"engine.device={name}: this machine has no CUDA device that PyTorch can use; give engine.device=cpu"
        )
    if kind == "cuda" and int(index or 0) >= count:
        raise InputError(f"engine.device={name}: there are {count} CUDA devices; give a number below {count}")
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if kind == "cuda":
        torch.cuda.set_device(int(index) if index else torch.cuda.current_device())
        # "float32" is what it says: PyTorch has convolutions round to TF32 on such devices unless this is off.
        torch.backends.cudnn.allow_tf32 = False
    return torch.device(name)


def build_engine(settings: EngineConfig, folder: Path, device: torch.device) -> Engine:
    """The training loop.

    Raises:
        InputError: a setting is out of range.
    """
    if settings.workers is not None and settings.workers < 0:
        raise InputError(f"engine.workers={settings.workers} must be at least 0")
    workers = (min(8, allowed()) if device.type == "cuda" else 1) if settings.workers is None else settings.workers
    precision = check_precision("engine.precision", settings.precision, device)
    return Engine(folder, device, precision, workers, settings.compile)


def check_precision(key: str, precision: str, device: torch.device) -> str:
    """The precision, if a device can compute in it; ``auto`` is bfloat16 where that is fast, on GPUs and CPUs with AMX.

    Args:
        key: the setting it comes from, for messages.

    Raises:
        InputError: an unknown name, or float16 on the CPU.
    """
    if precision == "auto":
        return "bfloat16" if is_fast_in_bfloat16(device) else "float32"
    if precision not in PRECISIONS:
        raise InputError(f"{key}={precision} is unknown; choose one of auto, {', '.join(PRECISIONS)}")
    if device.type == "cpu" and precision == "float16":
        raise InputError(f"{key}=float16 needs a CUDA device; on the CPU give float32 or bfloat16")
    return precision
