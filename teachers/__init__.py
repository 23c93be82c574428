"""The Segment Anything Model, written once, with its named sizes and weights."""
