"""Image data sets with instance masks, and the prompts made from them."""
