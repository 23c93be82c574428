"""Image data sets with instance masks, and the prompts made from them."""

from core.threads import let_idle_threads_sleep

# ``python -m data.shapes`` is an entry too, and its module loads PyTorch.
let_idle_threads_sleep()
