"""The site: python -m sphinx -W --keep-going docs build/site"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_extensions"), str(HERE.parent)]

import fusionjax  # noqa: E402 (the path comes first)

project = "fusionjax"
author = "the fusionjax authors"
copyright = "the fusionjax authors, Apache 2.0"
version = release = fusionjax.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
    "sphinx_copybutton",
    "program_reference",
]
exclude_patterns = ["_extensions"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_fence_as_directive = {"math"}
nb_execution_mode = "off"  # notebooks are executed by their test, which fails where a cell does

smartquotes = False  # an option's two dashes stay two
default_role = "code"  # docstrings mark code with single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# The repository's own files, which pages may link to.
suppress_warnings = ["myst.xref_missing"]

html_theme = "sphinx_book_theme"
html_title = "fusionjax"
html_static_path: list[str] = []
html_copy_source = False
html_theme_options = {"show_toc_level": 2, "use_download_button": False}
