"""All rows of all runs, folded into CSV, Markdown and one page."""
