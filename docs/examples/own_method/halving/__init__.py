"""A compression method of one's own, outside sampress."""
