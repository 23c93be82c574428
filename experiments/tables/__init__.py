"""Measured rows and published figures, in tables."""
