"""All masks of images: files, drawings and scores."""
