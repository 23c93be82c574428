"""The last step of SAM's own ONNX files: low-resolution logits brought to the size of the picture."""

from pathlib import Path
from typing import Any

from students.export.parts import UPSCALED, UPSCALING


def add_upscaled_masks(path: Path, frame: int) -> None:
    """Add the input ``orig_im_size`` and the output ``masks`` to a decoder's file.

    As :func:`core.geometry.upscale_logits`, for a picture of a size that is known only when the file runs: bilinear to
    the frame, crop the padding, bilinear to the picture. Written node by node, since its shapes depend on values.

    Args:
        frame: side of the model's square input in pixels.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    constants: dict[str, Any] = {
        "frame": np.array(frame, np.float32),
        "frame_size": np.array([frame, frame], np.int64),
        "half": np.array(0.5, np.float32),
        "one": np.array([1, 1], np.int64),
        "zero": np.array([0, 0], np.int64),
        "plane": np.array([2, 3], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(value, f"{UPSCALING}{key}") for key, value in constants.items())

    def node(kind: str, inputs: str, output: str, **attributes: Any) -> None:
        names = [f"{UPSCALING}{name.removeprefix('.')}" if name.startswith(".") else name for name in inputs.split(" ")]
        target = output if output == UPSCALED else f"{UPSCALING}{output}"
        graph.node.append(helper.make_node(kind, names, [target], name=f"{UPSCALING}{output}", **attributes))

    linear = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    # Prompts and candidates, which resizing leaves alone.
    node("Shape", "low_res_masks", "leading", start=0, end=2)
    node("Concat", ".leading .frame_size", "size_in_frame", axis=0)
    node("Resize", "low_res_masks   .size_in_frame", "in_frame", **linear)
    # The resized picture: its longer side is the frame, halves are rounded up.
    node("ReduceMax", "orig_im_size", "longer_side", keepdims=0)
    node("Div", ".frame .longer_side", "scale")
    node("Mul", "orig_im_size .scale", "scaled")
    node("Add", ".scaled .half", "scaled_half")
    node("Cast", ".scaled_half", "truncated", to=TensorProto.INT64)
    node("Max", ".truncated .one", "picture_in_frame")
    node("Slice", ".in_frame .zero .picture_in_frame .plane", "cropped")
    node("Cast", "orig_im_size", "picture", to=TensorProto.INT64)
    node("Concat", ".leading .picture", "size_in_picture", axis=0)
    node("Resize", ".cropped   .size_in_picture", UPSCALED, **linear)

    graph.input.append(helper.make_tensor_value_info("orig_im_size", TensorProto.FLOAT, [2]))
    upscaled = helper.make_tensor_value_info(UPSCALED, TensorProto.FLOAT, ["prompts", 4, "height", "width"])
    others = list(graph.output)
    del graph.output[:]
    graph.output.extend([upscaled, *sorted(others, key=lambda value: value.name)])
    onnx.save(model, path)
    onnx.checker.check_model(path, full_check=True)
