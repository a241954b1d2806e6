"""Settings of the documentation: sphinx-build docs site."""

import sedembed

project = "sedembed"
author = "The sedembed authors"
copyright = author
release = version = sedembed.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["training/*", "results/*"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
# Links to files of the repository are for those who read the pages as files.
suppress_warnings = ["myst.xref_missing"]

html_theme = "alabaster"
html_title = f"sedembed {release}"
html_theme_options = {"description": "Sound-event-detection networks as audio features", "page_width": "1100px"}

default_role = "literal"
autodoc_typehints = "none"
autosummary_generate = False
numpydoc_show_class_members = False
numpydoc_validation_checks: set[str] = set()
