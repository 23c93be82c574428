"""The site of the documents: ``make docs`` builds it, and reading it asks no other server for anything."""

from pygments.lexers.special import TextLexer
from sphinx.highlighting import lexers

project = "sampress"
author = "the authors of sampress"

extensions = ["myst_nb"]
exclude_patterns = ["_build", "examples"]
html_theme = "furo"
html_title = "sampress"
html_static_path = ["_static"]
html_css_files = ["wide_tables.css"]

myst_heading_anchors = 3
# The notebook is run by a test (tests/unit/test_docs.py), not while pages are made.
nb_execution_mode = "off"
# No notebook here has widgets, whose scripts would come from another server.
nb_ipywidgets_js = {}
# GitHub draws the figure of architecture.md; here it is text, since drawing it takes a script from elsewhere.
lexers["mermaid"] = TextLexer()
