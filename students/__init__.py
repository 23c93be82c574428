"""Compressed models: what a method leaves of the teacher, able to describe and to reload itself."""
