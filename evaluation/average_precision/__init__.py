"""Mask average precision and recall as COCO and LVIS define them, by a fast evaluator or by their own."""
