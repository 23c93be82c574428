"""Data sets of the published sizes, made of a few images and masks: what reading them costs, without fetching them."""
