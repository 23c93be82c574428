"""The distillation engine: the only training loop of the project."""
