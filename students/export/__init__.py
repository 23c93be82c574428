"""Models as files that run without this project: ONNX, OpenVINO and PyTorch's exported programs."""
