"""Pages that open from disk: one file each, no network."""
