"""Settings: their types, how they are composed, and what is refused."""
