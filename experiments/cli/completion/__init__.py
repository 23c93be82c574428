"""Scripts that complete commands and settings in a shell."""
