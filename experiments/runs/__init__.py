"""Runs: one, a chain, a sweep; what makes two the same; their folders."""
