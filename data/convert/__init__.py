"""Data sets of other layouts brought into SA-1B's: ``python -m data.convert --help``."""
