"""Post-training quantisation: what layers see, how wrong a grid is, and the search for the best one."""
