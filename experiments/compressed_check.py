"""What must hold of every student that a run has made, whatever the method, before it is scored."""

import torch

from compressors.method import Compressor
from core.errors import RunFailed
from core.feature_layout import layout_of
from core.feature_maps import maps_of
from core.protocols import device_of
from data.exclusions import first_readable
from data.images import to_frame
from evaluation.latency import PRECISIONS
from experiments.scoring import EvaluationSet
from students.kinds import build_model
from students.quantized.plan import as_float
from students.self_check import encoder_problem
from teachers.sam import Sam


def promised_parameters(method: Compressor, teacher: Sam) -> int | None:
    """Parameters of the shape that a method promises; None where the shape depends on weights.

    Raises:
        InputError: nothing would be left of the teacher, or a width does not divide.
    """
    try:
        with torch.device("meta"):
            return _parameters(build_model(method.shape(teacher.config)))
    except NotImplementedError:
        return None


def check_compressed(
    student: Sam, teacher: Sam, method: Compressor, evaluation_set: EvaluationSet, run_id: str
) -> None:
    """Compare a student with its teacher and with what its method promises.

    Args:
        student: on the teacher's device.
        evaluation_set: the images it is going to be scored on; one of them is encoded.
        run_id: for messages.

    Raises:
        RunFailed: its image encoder is broken as it is going to compute.
        RuntimeError: an answer is not finite or of another shape than it states, or the parameters did not fall to
            what the method promised.
    """
    problem = encoder_problem(student, PRECISIONS[evaluation_set.precision], "evaluation.precision")
    if problem is not None:
        raise RunFailed(f"{run_id}: {problem}")
    _, pixels = first_readable(evaluation_set.data, evaluation_set.indices[0], evaluation_set.data.image)
    image = to_frame(pixels, student.input_size)[None].to(device_of(student))
    with torch.inference_mode():
        found, shape = maps_of(student.encode(image)), student.config.encoder
    sides = {name: (channels, scale * shape.grid) for name, (channels, scale) in layout_of(shape).items()}
    for name in found | sides:
        size = tuple(found[name].shape[1:]) if name in found else None
        channels, side = sides.get(name, (0, 0))
        if size != (channels, side, side) or not found[name].isfinite().all():
            raise RuntimeError(f"{run_id}: the student's embedding {name} {size} is not finite or not of its shape")
    before, after = _parameters(teacher), _parameters(student)
    promised = promised_parameters(method, teacher)
    # A chosen student may be of any size; what was pruned must be smaller.
    if (method.shrinks and after >= before) or promised not in (None, after):
        promise = f", the method promised {promised}" if promised else ""
        raise RuntimeError(f"{run_id}: the student has {after} parameters, the teacher {before}{promise}")


def _parameters(model: Sam) -> int:
    """Of the float model, where one was quantised: codes are no parameters to PyTorch."""
    return sum(parameter.numel() for parameter in as_float(model).parameters())
