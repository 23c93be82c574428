"""All masks of pictures: files, drawings and scores."""
