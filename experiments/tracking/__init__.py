"""Where the figures of a running run go besides its own folder: CSV, TensorBoard, Weights & Biases."""
