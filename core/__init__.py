"""The vocabulary every other package speaks: prompts, masks, frames, seeds, costs, checkpoints and result rows."""
